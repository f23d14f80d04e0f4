"""Uploads and downloads of the store on S3 against boto3's own transfer manager, on one server in the same run.

The server is moto's, in a process of its own. Store and peer take turns, and which begins alternates. One large file
moves in parts; many small ones move several at a time, as an artifact's do. The store also compares what arrived with
what was sent, which its peer leaves out. boto3 sends CRCs, the store MD5s; where no CRC was sent, this server computes
one of its own over the whole object, so that upload is measured against boto3 without CRCs as well.
Run: `python -m tests.benchmarks.bench_store [rounds]`.
"""

from __future__ import annotations

import os
import re
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import boto3
from boto3.s3.transfer import TransferConfig, create_transfer_manager
from botocore.config import Config

from pipelines.storage.parts import in_order
from pipelines.store import Store
from tests.benchmarks.figures import Figure

LARGE_BYTES = 128 << 20
NUM_SMALL, SMALL_BYTES = 100, 20_000
BUCKET = "bench"
LIMIT = 0.9

Act = Callable[[], object]


@contextmanager
def server() -> Iterator[None]:
    """Run an S3 server, which this process finds by its variables."""
    command = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", "0"]
    with tempfile.TemporaryFile("w+") as log, subprocess.Popen(command, stdout=log, stderr=log) as process:
        try:
            url = _url(log, time.monotonic() + 60)
            os.environ |= {"AWS_ACCESS_KEY_ID": "bench", "AWS_SECRET_ACCESS_KEY": "bench"}
            os.environ |= {"AWS_DEFAULT_REGION": "us-east-1", "AWS_ENDPOINT_URL": url}
            yield
        finally:
            process.terminate()


def _url(log: Any, deadline: float) -> str:
    while time.monotonic() < deadline:
        log.seek(0)
        if found := re.search(r"http://127\.0\.0\.1:\d+", log.read()):
            return found[0]
        time.sleep(0.1)
    raise SystemExit("error: moto_server did not start")


class Peers:
    """The store and boto3's transfer manager, with the same files."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._large = folder / "large"
        self._large.write_bytes(os.urandom(LARGE_BYTES))
        self._small = [folder / f"small-{number}" for number in range(NUM_SMALL)]
        for path in self._small:
            path.write_bytes(os.urandom(SMALL_BYTES))
        self._store = Store(f"s3://{BUCKET}/store")
        self._client = boto3.client("s3")
        self._without_crc = boto3.client("s3", config=Config(request_checksum_calculation="when_required"))
        self._client.create_bucket(Bucket=BUCKET)

    @property
    def cases(self) -> dict[str, tuple[Act, Act]]:
        """What is measured: name, by the store, by boto3."""
        large, small = [self._large], self._small
        return {
            "upload of a large file": (lambda: self._put(large), lambda: self._upload(large)),
            "the same, where the server does the same": (
                lambda: self._put(large),
                lambda: self._upload(large, self._without_crc),
            ),
            "download of a large file": (lambda: self._get(large), lambda: self._download(large)),
            "upload of small files": (lambda: self._put(small), lambda: self._upload(small)),
            "download of small files": (lambda: self._get(small), lambda: self._download(small)),
        }

    def _put(self, paths: Sequence[Path]) -> None:
        list(in_order(lambda path: self._store.put_file(path.name, path), paths))

    def _get(self, paths: Sequence[Path]) -> None:
        list(in_order(self._fetch, paths))

    def _fetch(self, path: Path) -> None:
        with self._target(path).open("wb") as writer:
            for chunk in self._store.chunks(path.name):
                writer.write(chunk)

    def _upload(self, paths: Sequence[Path], client: Any = None) -> None:
        with create_transfer_manager(client or self._client, TransferConfig()) as manager:
            for future in [manager.upload(str(path), BUCKET, f"boto3/{path.name}") for path in paths]:
                future.result()

    def _download(self, paths: Sequence[Path]) -> None:
        with create_transfer_manager(self._client, TransferConfig()) as manager:
            targets = [(path.name, str(self._target(path))) for path in paths]
            for future in [manager.download(BUCKET, f"boto3/{name}", target) for name, target in targets]:
                future.result()

    def _target(self, path: Path) -> Path:
        return self._folder / f"{path.name}.got"


def seconds(act: Act) -> float:
    """Return how long something takes."""
    started = time.perf_counter()
    act()
    return time.perf_counter() - started


def measured(ours: Act, theirs: Act, rounds: int) -> list[tuple[float, float]]:
    """Return the seconds of store and peer, taking turns, after one round that is not counted."""
    pairs = []
    for number in range(rounds + 1):
        if number % 2:
            pairs.append((seconds(ours), seconds(theirs)))
        else:
            pairs.append((seconds(theirs), seconds(ours))[::-1])
    return pairs[1:]


def main(rounds: int = 10) -> int:
    """Measure, print and return 1 when a limit is not kept."""
    is_kept = True
    with server(), tempfile.TemporaryDirectory() as folder:
        for name, (ours, theirs) in Peers(Path(folder)).cases.items():
            pairs = measured(ours, theirs, rounds)
            ratios = [peer / own for own, peer in pairs]
            own, peer = (statistics.median(column) for column in zip(*pairs, strict=True))
            ratio = Figure.median(ratios)
            is_kept &= ratio.value >= LIMIT
            print(f"{name}: store {own:.2f} s, boto3 {peer:.2f} s (medians of {rounds}); ", end="")
            print(f"speed of the store / boto3 {ratio.told(digits=2)}, limit {LIMIT}", flush=True)
    return int(not is_kept)


if __name__ == "__main__":
    sys.exit(main(*(int(argument) for argument in sys.argv[1:])))

"""What a backup costs: 1 GiB with 10 % changed rewrites only that, and verifying reads as fast as the disk.

The peer of verification is a plain sequential read of the same files; both are told to forget the kernel's copy in
memory first, and are interleaved. Run: `python -m tests.benchmarks.bench_backup [rounds] [folder]`.
"""

from __future__ import annotations

import os
import statistics
import sys
import tempfile
import time
from collections.abc import Iterable
from pathlib import Path

from pipelines.backup.contents import folder_sources
from pipelines.backup.manifest import SavedFile
from pipelines.backup.objects import Objects
from pipelines.store import Store
from tests.benchmarks.figures import Figure

NUM_FILES = 40
FILE_BYTES = (1 << 30) // NUM_FILES
CHANGED = NUM_FILES // 10
LIMIT = 0.8
CHUNK = 1 << 20


def write(path: Path) -> None:
    """Write a file of random bytes to the disk."""
    with path.open("wb") as file:
        for _ in range(FILE_BYTES // CHUNK + 1):
            file.write(os.urandom(CHUNK))
        file.truncate(FILE_BYTES)
        os.fsync(file.fileno())


def read_plainly(paths: Iterable[Path]) -> float:
    """Read files from the disk, one after the other, and return the seconds."""
    started = time.monotonic()
    buffer = bytearray(CHUNK)
    for path in paths:
        with path.open("rb", buffering=0) as file:
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
            while file.readinto(buffer):
                continue
    return time.monotonic() - started


def verify(objects: Objects, files: list[SavedFile]) -> float:
    """Verify a backup's files and return the seconds."""
    started = time.monotonic()
    objects.check_all(files)
    return time.monotonic() - started


def main(rounds: int = 9, folder: str | None = None) -> int:
    """Measure, print and return 1 when a limit is not kept."""
    with tempfile.TemporaryDirectory(dir=folder) as scratch:
        place = Path(scratch)
        (place / "data").mkdir()
        for number in range(NUM_FILES):
            write(place / "data" / f"{number:02}.bin")
        objects = Objects(Store(f"file://{place / 'backup'}"), place)

        def back_up() -> tuple[int, int, float, list[SavedFile]]:
            started = time.monotonic()
            sources = list(folder_sources(place / "data", "data/", "*.bin"))
            written = objects.add_all(sources)
            size = sum(file.size_bytes for file in written)
            return len(written), size, time.monotonic() - started, [source.file for source in sources]

        num_first, first_bytes, first_seconds, _ = back_up()
        for number in range(CHANGED):
            write(place / "data" / f"{number * 10:02}.bin")
        num_second, second_bytes, second_seconds, files = back_up()
        paths = [path for path in (place / "backup" / "objects").rglob("*") if path.is_file()]
        needed = [path for path in paths if path.name in {file.sha256 for file in files}]
        ratios, rates = [], []
        for _ in range(rounds):
            plain, verified = read_plainly(needed), verify(objects, files)
            ratios.append(plain / verified)
            rates.append((NUM_FILES * FILE_BYTES / plain / 1e6, NUM_FILES * FILE_BYTES / verified / 1e6))
    print(f"first backup: {num_first} of {NUM_FILES} files, {first_bytes / 1e6:.0f} MB written, {first_seconds:.1f} s")
    print(
        f"10 % changed: {num_second} of {NUM_FILES} files, {second_bytes / 1e6:.0f} MB written, {second_seconds:.1f} s"
    )
    plain_rate, verify_rate = (statistics.median(column) for column in zip(*rates, strict=True))
    ratio = Figure.median(ratios)
    print(f"sequential read {plain_rate:.0f} MB/s, verification {verify_rate:.0f} MB/s (medians of {rounds})")
    print(f"verification / sequential read: {ratio.told(digits=2)}, limit {LIMIT}")
    return int(num_second != CHANGED or ratio.value < LIMIT)


if __name__ == "__main__":
    sys.exit(main(*(int(argument) for argument in sys.argv[1:2]), *sys.argv[2:3]))

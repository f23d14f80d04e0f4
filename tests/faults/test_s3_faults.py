"""A store on S3 over a bad line: nothing damaged is believed, nothing finished is lost, and nobody waits for ever.

Each protection is also taken away once, to see the fault that it keeps off.
"""

from __future__ import annotations

import json
import os
import random
import socket
import sys
import time
import tracemalloc
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from itertools import islice
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

from pipelines import artifacts, verified
from pipelines.artifacts import MANIFEST
from pipelines.errors import ArtifactCorrupt, StoreUnavailable
from pipelines.storage import connection, parts
from pipelines.storage import s3 as backend
from pipelines.store import Store
from tests.faulty_line import Fault, FaultyLine, Request
from tests.live_s3 import LiveS3
from tests.load.fault_envoy import passing
from tests.steps.live import wait_for
from tests.steps.serving import free_port

SMALL = b'{"step": 1200}'
LARGE = random.Random(0).randbytes(parts.PART_BYTES + 12_345)  # noqa: S311 - data, no secret
"""Two parts."""

NEVER = 100
"""More faults than any number of tries."""


@pytest.fixture
def line(s3: LiveS3, s3_environment: None, monkeypatch: pytest.MonkeyPatch) -> Iterator[FaultyLine]:
    """Return a line through which this process reaches S3; whoever tries again does so at once."""
    made = FaultyLine(s3.url)
    monkeypatch.setenv("AWS_ENDPOINT_URL", made.url)
    monkeypatch.setattr(parts, "_LONGEST_PAUSE_SECONDS", 0.01)
    yield made
    made.stop()


@pytest.fixture
def store(s3: LiveS3, line: FaultyLine) -> Store:
    """Return a store behind the line."""
    return Store(f"s3://{s3.make_bucket()}/slipway")


def stored(s3: LiveS3, store: Store) -> dict[str, bytes]:
    """Return all objects as they lie at the server."""
    bucket, _, prefix = store.url.removeprefix("s3://").partition("/")
    return {key.removeprefix(f"{prefix}/"): data for key, data in s3.objects(bucket).items()}


def open_uploads(s3: LiveS3, store: Store) -> list[Any]:
    """Return the multipart uploads that were neither finished nor given up."""
    bucket = store.url.removeprefix("s3://").partition("/")[0]
    return list(s3.client.list_multipart_uploads(Bucket=bucket).get("Uploads", ()))


@pytest.fixture
def believed_server(monkeypatch: pytest.MonkeyPatch) -> None:
    """Take the comparison of digests away."""
    monkeypatch.setattr(backend, "_is_vouched", lambda answer, tag: True)


@pytest.fixture
def two_attempts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let a request be sent twice at most."""
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "2")


SENT = [Fault.FLIP_SENT, Fault.CUT_SENT, Fault.SHORTEN_SENT]
CONTENTS = [pytest.param(SMALL, id="small"), pytest.param(LARGE, id="in-parts")]


@pytest.mark.parametrize("data", CONTENTS)
@pytest.mark.parametrize("fault", SENT, ids=lambda fault: fault.name)
def test_what_is_damaged_on_its_way_up_is_sent_again(
    s3: LiveS3, line: FaultyLine, store: Store, fault: Fault, data: bytes
) -> None:
    line.suffer("PUT", fault)
    store.put("a", data)
    assert stored(s3, store) == {"a": data}
    assert not line.faults
    assert open_uploads(s3, store) == []


@pytest.mark.parametrize("data", CONTENTS)
@pytest.mark.parametrize("fault", [Fault.FLIP_SENT, Fault.SHORTEN_SENT], ids=lambda fault: fault.name)
@pytest.mark.usefixtures("believed_server")
def test_control_a_server_that_is_believed_keeps_the_damage(
    s3: LiveS3, line: FaultyLine, store: Store, fault: Fault, data: bytes
) -> None:
    line.suffer("PUT", fault)
    store.put("a", data)
    assert stored(s3, store)["a"] != data


@pytest.mark.parametrize("data", CONTENTS)
@pytest.mark.parametrize("fault", [Fault.FLIP_SENT, Fault.SHORTEN_SENT], ids=lambda fault: fault.name)
def test_what_is_damaged_every_time_is_an_error_and_no_object(
    s3: LiveS3, line: FaultyLine, store: Store, fault: Fault, data: bytes
) -> None:
    line.suffer("PUT", *[fault] * NEVER)
    with pytest.raises(StoreUnavailable, match=r"cannot write s3://.*/a: what was written differs from what was sent"):
        store.put("a", data)
    assert stored(s3, store) == {}
    assert open_uploads(s3, store) == []


@pytest.mark.parametrize("fault", SENT, ids=lambda fault: fault.name)
@pytest.mark.usefixtures("two_attempts")
def test_an_artifact_that_cannot_be_written_whole_does_not_exist(
    s3: LiveS3, line: FaultyLine, store: Store, fault: Fault, tmp_path: Path
) -> None:
    (tmp_path / "weights").write_bytes(LARGE)
    line.suffer("PUT", *[fault] * NEVER)
    with pytest.raises(StoreUnavailable):
        artifacts.publish(store, "model", tmp_path)
    assert not any(path.endswith(MANIFEST) for path in stored(s3, store))


@pytest.mark.parametrize("fault", [Fault.FLIP_SENT, Fault.SHORTEN_SENT], ids=lambda fault: fault.name)
def test_a_conditional_write_that_was_damaged_is_put_right(
    s3: LiveS3, line: FaultyLine, store: Store, fault: Fault
) -> None:
    line.suffer("PUT", fault)
    assert store.create("a", SMALL)
    assert stored(s3, store) == {"a": SMALL}
    seen = store.read_versioned("a")
    assert seen is not None
    line.suffer("PUT", fault)
    assert store.replace("a", b"newer", seen.tag)
    assert stored(s3, store) == {"a": b"newer"}


REFUSED_ONCE = [
    pytest.param((400, "BadDigest", ""), id="a-server-that-checks-found-damage"),
    pytest.param((409, "ConditionalRequestConflict", ""), id="another-writer-at-the-same-moment"),
]


@pytest.mark.parametrize("refusal", REFUSED_ONCE)
def test_a_write_that_the_server_wants_again_is_sent_again(
    line: FaultyLine, store: Store, refusal: tuple[int, str, str]
) -> None:
    waiting = [refusal]
    line.refuse = lambda request: waiting.pop() if waiting and request.method == "PUT" else None
    assert store.create("a", SMALL)
    assert not waiting
    assert store.read("a") == SMALL


def test_of_a_large_object_a_few_parts_are_in_memory_at_once() -> None:
    pieces = parts.in_order(lambda _: bytes(1 << 20), iter(range(10_000)), num_threads=2)
    tracemalloc.start()
    assert sum(len(piece) for piece in islice(pieces, 100)) == 100 << 20
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    pieces.close()
    assert peak < 8 << 20


def lose_the_answer(line: FaultyLine, store: Store) -> bool:
    line.suffer("PUT", Fault.LOSE_ANSWER)
    return store.create("a", SMALL)


def test_whoever_wrote_and_did_not_hear_of_it_knows_its_own_work(line: FaultyLine, store: Store) -> None:
    assert lose_the_answer(line, store)
    assert not store.create("a", SMALL), "another writer did not"


def test_control_without_its_mark_a_writer_takes_its_own_work_for_anothers(
    line: FaultyLine, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(backend.S3Backend, "_written_by", lambda self, path, mark: None)
    assert not lose_the_answer(line, store)


def test_a_large_object_whose_last_answer_is_lost_is_there(s3: LiveS3, line: FaultyLine, store: Store) -> None:
    line.suffer("POST", *[None, Fault.LOSE_ANSWER])  # one request begins the upload, the next completes it
    store.put("a", LARGE)
    assert stored(s3, store) == {"a": LARGE}
    assert not line.faults


GOT = [Fault.FLIP_GOT, Fault.CUT_GOT]


@pytest.mark.parametrize("fault", GOT, ids=lambda fault: fault.name)
def test_what_is_damaged_on_its_way_down_is_read_again(line: FaultyLine, store: Store, fault: Fault) -> None:
    store.put("a", SMALL)
    line.suffer("GET", fault, fault)
    assert store.read("a") == SMALL
    assert not line.faults


def test_control_a_small_object_that_is_not_compared_is_believed(
    line: FaultyLine, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    store.put("a", SMALL)
    monkeypatch.setattr(backend, "_MD5", "nothing")
    line.suffer("GET", Fault.FLIP_GOT)
    assert store.read("a") != SMALL


def test_a_large_object_that_is_cut_goes_on_at_the_part_that_was(line: FaultyLine, store: Store) -> None:
    store.put("a", LARGE)
    line.seen.clear()
    line.suffer("GET", Fault.CUT_GOT, Fault.CUT_GOT)
    assert store.read("a") == LARGE
    assert len(line.seen) == 2 + 2


@pytest.mark.parametrize("fault", GOT, ids=lambda fault: fault.name)
def test_an_artifact_that_comes_damaged_is_fetched_again(
    line: FaultyLine, store: Store, fault: Fault, tmp_path: Path
) -> None:
    ref = published(store, tmp_path)
    line.suffer("GET", Fault.FLIP_GOT, None, *[fault] * 2)  # the manifest, too
    fetched = artifacts.fetch(store, ref, tmp_path / "cache")
    assert (fetched / "weights").read_bytes() == LARGE
    assert not line.faults


def test_what_no_reading_finds_sound_is_an_error(line: FaultyLine, store: Store) -> None:
    store.put("a", SMALL)
    line.suffer("GET", *[Fault.FLIP_GOT] * NEVER)
    with pytest.raises(StoreUnavailable, match=r"cannot read .*/a: what was read differs from what was written; look"):
        store.read("a")


def test_control_read_once_it_is_refused(
    line: FaultyLine, store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ref = published(store, tmp_path)
    monkeypatch.setattr(verified, "_READINGS", 1)
    line.suffer("GET", None, Fault.FLIP_GOT)
    with pytest.raises(ArtifactCorrupt, match="weights differs from its manifest"):
        artifacts.fetch(store, ref, tmp_path / "cache")
    assert list((tmp_path / "cache").rglob("weights")) == []


def published(store: Store, folder: Path) -> artifacts.ArtifactRef:
    (folder / "work").mkdir()
    (folder / "work" / "weights").write_bytes(LARGE)
    return artifacts.publish(store, "model", folder / "work")


@pytest.fixture
def envoy(s3: LiveS3, s3_environment: None, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Any]:
    """Return what puts an Envoy with a fault before S3, for a block."""

    def start(fault: dict[str, Any]) -> Any:
        port, upstream = free_port(), urlsplit(s3.url).port
        assert upstream
        monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{port}")
        return passing(port, upstream, lambda faulty: [{"match": {"prefix": "/"}, **faulty(fault)}])

    return start


OFTEN_BUSY = {"abort": {"http_status": 503, "percentage": {"numerator": 30}}}
SLOW = {"delay": {"fixed_delay": "3s", "percentage": {"numerator": 100}}}


def round_trip(s3: LiveS3, folder: Path) -> None:
    """Publish and fetch an artifact of many small files and a large one."""
    store = Store(f"s3://{s3.make_bucket()}/slipway")
    for number in range(20):
        (folder / f"{number}.json").write_bytes(SMALL)
    (folder / "weights").write_bytes(LARGE)
    ref = artifacts.publish(store, "model", folder)
    fetched = artifacts.fetch(store, ref, folder.parent / "cache")
    assert (fetched / "weights").read_bytes() == LARGE


@pytest.mark.slow
def test_a_server_that_refuses_3_of_10_requests_is_used_all_the_same(
    envoy: Callable[..., Any], s3: LiveS3, tmp_path: Path
) -> None:
    (tmp_path / "work").mkdir()
    with envoy(OFTEN_BUSY):
        wait_for(reachable, "Envoy")
        round_trip(s3, tmp_path / "work")


def test_control_without_retries_it_is_not(
    envoy: Callable[..., Any], s3: LiveS3, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "work").mkdir()
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    with envoy(OFTEN_BUSY):
        wait_for(reachable, "Envoy")
        with pytest.raises(StoreUnavailable, match="503"):
            round_trip(s3, tmp_path / "work")


def test_a_server_that_is_too_slow_is_away_and_nobody_waits_for_it(
    envoy: Callable[..., Any], s3: LiveS3, two_attempts: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = Store(f"s3://{s3.make_bucket()}/slipway")
    with envoy(SLOW):
        wait_for(reachable, "Envoy")
        started = time.monotonic()
        assert store.read("a") is None
        assert time.monotonic() - started >= 3, "control: with the usual limits it is waited for"
        monkeypatch.setattr(connection, "_READ_SECONDS", 0.2)
        started = time.monotonic()
        with pytest.raises(StoreUnavailable, match=r"Read timeout on endpoint URL.*check its address"):
            Store(store.url).read("a")
        assert time.monotonic() - started < 3


def reachable() -> bool:
    """Return whether something listens where S3 should be."""

    address = urlsplit(os.environ["AWS_ENDPOINT_URL"])
    with socket.socket() as probe:
        return probe.connect_ex((address.hostname, address.port)) == 0


def refusing(key: str, after: int) -> Callable[[Request], tuple[int, str, str] | None]:
    """Return a rule by which an access key expires after so many requests."""
    left = [after]

    def rule(request: Request) -> tuple[int, str, str] | None:
        if request.access_key != key:
            return None
        left[0] -= 1
        return None if left[0] >= 0 else (400, "ExpiredToken", "")

    return rule


def write_profile(path: Path, key: str) -> None:
    path.write_text(f"[default]\naws_access_key_id = {key}\naws_secret_access_key = s\naws_session_token = t\n")


@pytest.fixture
def profile(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a file of credentials, which this process uses."""
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN"):
        monkeypatch.delenv(name)
    path = tmp_path / "credentials"
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(path))
    write_profile(path, "OLD")
    return path


def test_credentials_that_are_renewed_in_their_file_are_read_again_in_mid_upload(
    s3: LiveS3, line: FaultyLine, store: Store, profile: Path
) -> None:
    expired = refusing("OLD", after=3)

    def renew_when_expired(request: Request) -> tuple[int, str, str] | None:
        refusal = expired(request)
        if refusal:
            write_profile(profile, "NEW")
        return refusal

    line.refuse = renew_when_expired
    store.put("a", LARGE)
    assert stored(s3, store) == {"a": LARGE}
    assert {request.access_key for request in line.seen} == {"OLD", "NEW"}


def test_credentials_that_nobody_renews_end_the_upload_with_a_plain_error(
    s3: LiveS3, line: FaultyLine, store: Store, profile: Path
) -> None:
    line.refuse = refusing("OLD", after=3)
    with pytest.raises(StoreUnavailable, match=r"the credentials have expired; .* by the next try; renew those that"):
        store.put("a", LARGE)
    assert stored(s3, store) == {}


GIVE_CREDENTIALS = """
import json, pathlib, sys
count = pathlib.Path(sys.argv[1])
number = int(count.read_text()) + 1 if count.exists() else 1
count.write_text(str(number))
print(json.dumps({"Version": 1, "AccessKeyId": f"KEY{number}", "SecretAccessKey": "s", "SessionToken": "t",
                  "Expiration": sys.argv[2]}))
"""


def test_credentials_that_know_how_are_refreshed_before_they_end(
    s3: LiveS3, line: FaultyLine, store: Store, profile: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program = profile.with_name("give.py")
    program.write_text(GIVE_CREDENTIALS)
    soon = (datetime.now(UTC) + timedelta(minutes=1)).isoformat()
    command = json.dumps(f"{sys.executable} {program} {profile.with_name('count')} {soon}")[1:-1]
    profile.with_name("config").write_text(f"[default]\ncredential_process = {command}\n")
    monkeypatch.setenv("AWS_CONFIG_FILE", str(profile.with_name("config")))
    profile.unlink()
    store.put("a", SMALL)
    store.put("b", SMALL)
    assert len({request.access_key for request in line.seen}) > 1
    assert stored(s3, store) == {"a": SMALL, "b": SMALL}

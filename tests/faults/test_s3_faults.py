"""A store on S3 over a bad line: nothing damaged is believed, nothing finished is lost, and nobody waits for ever.

Each protection is also taken away once, to see the fault that it keeps off.
"""

from __future__ import annotations

import itertools
import json
import time
import tracemalloc
from itertools import islice
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import Mock

import pytest

from pipelines import artifacts, verified
from pipelines.artifacts import MANIFEST
from pipelines.errors import ArtifactCorrupt, StoreUnavailable
from pipelines.settings import REPOSITORY
from pipelines.storage import connection, parts
from pipelines.storage import s3 as backend
from pipelines.store import Store
from pipelines.trouble import Unsound
from tests.faults.s3_case import LARGE, OFTEN_BUSY, SLOW, SMALL, BehindEnvoy, stored
from tests.faulty_line import Fault, FaultyLine
from tests.killer import Killer, is_killed
from tests.live_s3 import LiveS3

NEVER = 100
"""More faults than any number of tries."""


@pytest.fixture
def store(s3: LiveS3, line: FaultyLine) -> Store:
    """Return a store behind the line."""
    return Store(f"s3://{s3.make_bucket()}/slipway")


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


@pytest.fixture
def once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Take all retries away: those of requests, and those of what came or went damaged."""
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    monkeypatch.setattr(parts, "_TRIES", 1)


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
@pytest.mark.parametrize("fault", SENT, ids=lambda fault: fault.name)
@pytest.mark.usefixtures("once")
def test_control_what_is_damaged_on_its_way_up_and_sent_once_is_an_error_and_leaves_nothing(
    s3: LiveS3, line: FaultyLine, store: Store, fault: Fault, data: bytes
) -> None:
    line.suffer("PUT", fault)
    with pytest.raises(StoreUnavailable, match=r"cannot write s3://.*/a: "):
        store.put("a", data)
    assert stored(s3, store) == {}
    assert open_uploads(s3, store) == []


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


def test_of_two_writers_the_first_wins(store: Store) -> None:
    assert [store.create("a", data) for data in (SMALL, b"another's")] == [True, False]
    assert store.read("a") == SMALL


def test_control_where_the_condition_is_lost_both_win(line: FaultyLine, store: Store) -> None:
    line.dropped = frozenset({"if-none-match"})
    assert [store.create("a", data) for data in (SMALL, b"another's")] == [True, True]
    assert store.read("a") == b"another's"


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


def test_a_killed_writer_leaves_parts_that_nobody_sees_and_the_next_one_is_not_disturbed(
    s3: LiveS3, store: Store
) -> None:
    def write_and_die() -> None:
        Killer(2).before(backend.S3Backend, "_send")
        Store(store.url).put("a", LARGE)

    assert is_killed(write_and_die)
    assert stored(s3, store) == {}
    assert len(open_uploads(s3, store)) == 1, "what the bucket's lifecycle rule is for"
    store.put("a", LARGE)
    assert stored(s3, store) == {"a": LARGE}
    assert len(open_uploads(s3, store)) == 1


def interrupt_an_upload(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(backend, "md5", Mock(side_effect=KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        store.put("a", LARGE)


def test_an_upload_that_is_interrupted_leaves_no_parts(
    s3: LiveS3, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    interrupt_an_upload(store, monkeypatch)
    assert open_uploads(s3, store) == []


def test_control_without_the_right_to_abort_it_leaves_them_and_tells_the_first_failure(
    s3: LiveS3, line: FaultyLine, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    line.refuse = lambda request: (403, "AccessDenied", "") if request.method == "DELETE" else None
    interrupt_an_upload(store, monkeypatch)
    assert len(open_uploads(s3, store)) == 1


def test_the_lifecycle_rule_that_the_documentation_gives_is_one(s3: LiveS3) -> None:
    text = (REPOSITORY / "docs" / "s3.md").read_text()
    rules = json.loads(text.partition("```json\n")[2].partition("```")[0])
    bucket = s3.make_bucket()
    s3.client.put_bucket_lifecycle_configuration(Bucket=bucket, LifecycleConfiguration=rules)
    (found,) = s3.client.get_bucket_lifecycle_configuration(Bucket=bucket)["Rules"]
    assert found["AbortIncompleteMultipartUpload"] == {"DaysAfterInitiation": 7}
    assert "Expiration" not in found, "age says nothing about what a backup needs"


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


GOT = [Fault.FLIP_GOT, Fault.CUT_GOT, Fault.SHORTEN_GOT]
CUT = [Fault.CUT_GOT, Fault.SHORTEN_GOT]


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


@pytest.mark.parametrize("fault", CUT, ids=lambda fault: fault.name)
def test_a_large_object_that_is_cut_goes_on_at_the_part_that_was(line: FaultyLine, store: Store, fault: Fault) -> None:
    store.put("a", LARGE)
    line.seen.clear()
    line.suffer("GET", fault, None, fault)
    assert store.read("a") == LARGE
    assert len(line.seen) == 2 + 2


def test_a_listing_that_is_cut_is_asked_for_again(line: FaultyLine, store: Store) -> None:
    store.put("folder/a", SMALL)
    line.suffer("GET", Fault.CUT_GOT)
    assert store.list("folder") == ["folder/a"]
    assert not line.faults


@pytest.mark.parametrize("fault", CUT, ids=lambda fault: fault.name)
@pytest.mark.usefixtures("once")
def test_control_what_is_cut_on_its_way_down_and_read_once_is_an_error(
    line: FaultyLine, store: Store, fault: Fault
) -> None:
    store.put("a", SMALL)
    line.suffer("GET", fault)
    with pytest.raises(StoreUnavailable, match=r"cannot read .*/a: the answer (was cut|is shorter than)"):
        store.read("a")


def test_control_without_its_length_what_is_cut_passes_for_whole(
    line: FaultyLine, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    store.put("a", LARGE)
    monkeypatch.setattr(backend._Range, "is_short", lambda self, offset: False)
    line.suffer("GET", None, Fault.SHORTEN_GOT)
    assert len(b"".join(store.chunks("a"))) < len(LARGE)


def test_an_answer_that_trickles_is_given_up_and_asked_for_again(
    line: FaultyLine, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    store.put("a", LARGE)
    monkeypatch.setattr(connection, "_PART_SECONDS", 0.3)
    line.suffer("GET", *[Fault.TRICKLE_GOT] * NEVER)
    monkeypatch.setattr(parts, "_TRIES", 2)
    with pytest.raises(StoreUnavailable, match=r"cannot read .*/a: the answer was not whole within 0 s; look for"):
        store.read("a")
    assert len(line.faults) == NEVER - 2


def test_control_with_the_usual_time_it_is_waited_for(line: FaultyLine, store: Store) -> None:
    store.put("a", LARGE)
    line.suffer("GET", Fault.TRICKLE_GOT)
    assert store.read("a") == LARGE
    assert not line.faults


@pytest.mark.usefixtures("once")
def test_a_body_that_is_not_taken_in_its_time_is_given_up(
    s3: LiveS3, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connection, "_PART_SECONDS", -1.0)
    with pytest.raises(StoreUnavailable, match=r"cannot write .*/a: .*14 bytes were not taken within"):
        store.put("a", SMALL)
    assert stored(s3, store) == {}


def test_pauses_between_tries_grow_vary_and_have_a_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    def pauses() -> list[float]:
        slept: list[float] = []
        monkeypatch.setattr(parts, "time", SimpleNamespace(sleep=slept.append, monotonic=time.monotonic))
        with pytest.raises(Unsound):
            parts.again(Mock(side_effect=Unsound("damaged")))
        return slept

    rounds = [pauses() for _ in range(100)]
    longest = [max(column) for column in zip(*rounds, strict=True)]
    assert all(later > 1.5 * earlier for earlier, later in itertools.pairwise(longest))
    assert len({pause for slept in rounds for pause in slept}) == 500, "no two writers keep step"
    monkeypatch.setattr(parts, "_LONGEST_PAUSE_SECONDS", 1.0)
    assert max(max(pauses()) for _ in range(100)) <= 1.0


@pytest.mark.parametrize(
    ("seconds", "num_tries"), [pytest.param(900.0, 6, id="in-time"), pytest.param(-1.0, 1, id="late")]
)
def test_no_new_try_begins_when_the_time_is_over(
    monkeypatch: pytest.MonkeyPatch, seconds: float, num_tries: int
) -> None:
    monkeypatch.setattr(parts, "_TRIES_SECONDS", seconds)
    monkeypatch.setattr(parts, "_LONGEST_PAUSE_SECONDS", 0.0)
    act = Mock(side_effect=Unsound("damaged"))
    with pytest.raises(Unsound):
        parts.again(act)
    assert act.call_count == num_tries


@pytest.mark.parametrize("fault", GOT, ids=lambda fault: fault.name)
def test_an_artifact_that_comes_damaged_is_fetched_again(
    line: FaultyLine, store: Store, fault: Fault, tmp_path: Path
) -> None:
    ref = published(store, tmp_path)
    line.suffer("GET", Fault.FLIP_GOT, None, *[fault] * 2)  # the manifest, too; then both parts
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


def test_control_without_its_digest_a_damaged_artifact_is_taken(
    line: FaultyLine, store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ref = published(store, tmp_path)
    monkeypatch.setattr(verified, "_until", lambda digest, path, sha256: bool(digest()))
    line.suffer("GET", None, Fault.FLIP_GOT)
    fetched = artifacts.fetch(store, ref, tmp_path / "cache")
    assert (fetched / "weights").read_bytes() != LARGE


def published(store: Store, folder: Path) -> artifacts.ArtifactRef:
    (folder / "work").mkdir()
    (folder / "work" / "weights").write_bytes(LARGE)
    return artifacts.publish(store, "model", folder / "work")


def round_trip(s3: LiveS3, folder: Path) -> None:
    """Publish and fetch an artifact of many small files and a large one."""
    store = Store(f"s3://{s3.make_bucket()}/slipway")
    for number in range(20):
        (folder / f"{number}.json").write_bytes(SMALL)
    (folder / "weights").write_bytes(LARGE)
    ref = artifacts.publish(store, "model", folder)
    fetched = artifacts.fetch(store, ref, folder.parent / "cache")
    assert (fetched / "weights").read_bytes() == LARGE


@pytest.mark.usefixtures("no_pauses")
def test_a_server_that_refuses_3_of_10_requests_is_used_all_the_same(
    envoy: BehindEnvoy, s3: LiveS3, tmp_path: Path
) -> None:
    (tmp_path / "work").mkdir()
    with envoy(OFTEN_BUSY):
        round_trip(s3, tmp_path / "work")


@pytest.mark.usefixtures("once")
def test_control_without_retries_it_is_not(envoy: BehindEnvoy, s3: LiveS3, tmp_path: Path) -> None:
    (tmp_path / "work").mkdir()
    with envoy(OFTEN_BUSY), pytest.raises(StoreUnavailable, match="503"):
        round_trip(s3, tmp_path / "work")


def test_a_server_that_is_too_slow_is_away_and_nobody_waits_for_it(
    envoy: BehindEnvoy, s3: LiveS3, two_attempts: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = Store(f"s3://{s3.make_bucket()}/slipway")
    with envoy(SLOW):
        started = time.monotonic()
        assert store.read("a") is None
        assert time.monotonic() - started >= 3, "control: with the usual limits it is waited for"
        monkeypatch.setattr(connection, "_READ_SECONDS", 0.2)
        hasty = Store(store.url)
        for _ in range(2):  # the first time, a client is made, too
            started = time.monotonic()
            with pytest.raises(StoreUnavailable, match=r"Read timeout on endpoint URL.*check its address"):
                hasty.read("a")
        assert time.monotonic() - started < 3

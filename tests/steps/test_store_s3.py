"""The same store on S3: conditional writes are the server's, and digests are ours."""

from __future__ import annotations

import os
import random
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from pipelines import artifacts, lease
from pipelines.errors import ArtifactCorrupt, LeaseHeld, StoreRefused
from pipelines.storage.parts import PART_BYTES
from pipelines.store import Store
from tests.live_s3 import LiveS3


@pytest.fixture
def store(s3: LiveS3, s3_environment: None) -> Store:
    return Store(f"s3://{s3.make_bucket()}/slipway")


def test_of_many_creators_exactly_one_wins(store: Store) -> None:
    start = threading.Barrier(8)

    def create(number: int) -> bool:
        mine = Store(store.url)
        start.wait(30)
        return mine.create("keys/train/k.json", str(number).encode())

    with ThreadPoolExecutor(8) as pool:
        won = list(pool.map(create, range(8)))
    assert won.count(True) == 1
    assert store.read("keys/train/k.json") == str(won.index(True)).encode()


def test_of_many_replacers_of_one_version_exactly_one_wins(store: Store) -> None:
    store.put("lease", b"old")
    seen = store.read_versioned("lease")
    assert seen is not None
    start = threading.Barrier(8)

    def replace(number: int) -> bool:
        mine = Store(store.url)
        start.wait(30)
        return mine.replace("lease", str(number).encode(), seen.tag)

    with ThreadPoolExecutor(8) as pool:
        won = list(pool.map(replace, range(8)))
    assert won.count(True) == 1
    assert store.read("lease") == str(won.index(True)).encode()


def test_artifacts_round_trip_and_a_changed_object_is_refused(store: Store, tmp_path: Path) -> None:
    folder = tmp_path / "work"
    (folder / "sub").mkdir(parents=True)
    (folder / "sub" / "weights.safetensors").write_bytes(os.urandom(100_000))
    ref = artifacts.publish(store, "model", folder)
    fetched = artifacts.fetch(store, ref, tmp_path / "cache")
    assert (fetched / "sub" / "weights.safetensors").read_bytes() == (
        folder / "sub" / "weights.safetensors"
    ).read_bytes()
    assert artifacts.verify(store, ref).kind == "model"

    store.put(f"{ref.uri}/sub/weights.safetensors", b"other")
    with pytest.raises(ArtifactCorrupt, match=r"weights\.safetensors"):
        artifacts.fetch(store, ref, tmp_path / "another-cache")


@pytest.mark.parametrize("piece_bytes", [PART_BYTES - 3, PART_BYTES, 3 * PART_BYTES])
def test_an_object_written_in_pieces_is_whole_wherever_they_end(store: Store, piece_bytes: int) -> None:
    data = random.Random(1).randbytes(2 * PART_BYTES + 5)  # noqa: S311 - no secret
    store.put("a", *(memoryview(data)[start : start + piece_bytes] for start in range(0, len(data), piece_bytes)))
    assert store.read("a") == data


def test_listing_and_deleting(store: Store) -> None:
    for name in ("a/1", "a/b/2", "c/3"):
        store.put(name, b"x")
    assert store.list("a") == ["a/1", "a/b/2"]
    assert store.list("nothing") == []
    assert store.list("a/1") == []
    store.delete("a/1")
    store.delete("a/1")
    assert store.list("a") == ["a/b/2"]
    assert store.read("a/1") is None


def test_leases_work_on_s3(store: Store) -> None:
    with (
        lease.hold(store, "train/k", ttl_seconds=60),
        pytest.raises(LeaseHeld),
        lease.hold(Store(store.url), "train/k", wait_seconds=0),
    ):
        pytest.fail("two holders")
    with lease.hold(store, "train/k", wait_seconds=0):
        pass


def test_a_missing_bucket_is_one_plain_error(store: Store) -> None:
    with pytest.raises(StoreRefused, match="store: cannot write s3://no-such-bucket/x/a"):
        Store("s3://no-such-bucket/x").put("a", b"")

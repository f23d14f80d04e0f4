"""Artifacts: the manifest comes last, readers verify, nothing half-published is ever visible."""

from __future__ import annotations

import stat
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from pipelines import artifacts
from pipelines.artifacts import ArtifactRef
from pipelines.errors import ArtifactCorrupt, ArtifactMissing, BadInput, StoreUnavailable
from pipelines.store import FileBackend, Store


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(f"file://{tmp_path / 'store'}")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    made = tmp_path / "work"
    (made / "sub").mkdir(parents=True)
    (made / "a.json").write_text("{}")
    (made / "sub" / "b.txt").write_text("hello")
    return made


def test_equal_bytes_have_equal_names_wherever_they_are(store: Store, folder: Path, tmp_path: Path) -> None:
    first = artifacts.publish(store, "thing", folder)
    other = Store(f"file://{tmp_path / 'other'}")
    assert artifacts.publish(other, "thing", folder) == first
    assert artifacts.publish(store, "thing", folder) == first


def test_inputs_and_kind_are_part_of_the_name(store: Store, folder: Path) -> None:
    first = artifacts.publish(store, "thing", folder)
    assert artifacts.publish(store, "other", folder).digest != first.digest
    assert artifacts.publish(store, "thing", folder, [first]).digest != first.digest


def test_a_reader_gets_verified_files(store: Store, folder: Path, tmp_path: Path) -> None:
    ref = artifacts.publish(store, "thing", folder)
    fetched = artifacts.fetch(store, ref, tmp_path / "cache")
    assert (fetched / "sub" / "b.txt").read_text() == "hello"
    assert artifacts.read_file(store, ref, "a.json") == b"{}"


@pytest.mark.parametrize("name", ["a.json", "sub/b.txt", "manifest.json"])
def test_a_flipped_byte_is_refused_by_name(store: Store, folder: Path, tmp_path: Path, name: str) -> None:
    ref = artifacts.publish(store, "thing", folder)
    path = store.local_path(f"{ref.uri}/{name}")
    assert path is not None
    data = bytearray(path.read_bytes())
    data[0] ^= 1
    path.write_bytes(data)
    with pytest.raises(ArtifactCorrupt, match=name.replace(".", r"\.")):
        artifacts.fetch(store, ref, tmp_path / "cache")


def test_damage_is_repaired_by_publishing_again(store: Store, folder: Path) -> None:
    ref = artifacts.publish(store, "thing", folder)
    path = store.local_path(f"{ref.uri}/a.json")
    assert path is not None
    path.write_text("[]")
    artifacts.publish(store, "thing", folder)
    artifacts.verify(store, ref)


def test_what_has_no_manifest_does_not_exist(store: Store, folder: Path, tmp_path: Path) -> None:
    ref = artifacts.publish(store, "thing", folder)
    store.delete(f"{ref.uri}/manifest.json")
    assert not artifacts.exists(store, ref)
    with pytest.raises(ArtifactMissing, match=ref.digest):
        artifacts.fetch(store, ref, tmp_path / "cache")


def test_a_writer_that_dies_publishes_nothing(store: Store, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ref = ArtifactRef(kind="thing", digest=artifacts.describe("thing", folder).digest)
    put_file = FileBackend.put_file

    def die_at_the_second_file(backend: FileBackend, path: str, source: Path) -> None:
        if path.endswith("b.txt"):
            raise OSError(28, "No space left on device")
        put_file(backend, path, source)

    monkeypatch.setattr(FileBackend, "put_file", die_at_the_second_file)
    with pytest.raises(StoreUnavailable, match=r"No space left on device; free space"):
        artifacts.publish(store, "thing", folder)
    assert not artifacts.exists(store, ref)
    monkeypatch.undo()
    assert artifacts.publish(store, "thing", folder) == ref


def test_only_regular_files_are_published(store: Store, folder: Path) -> None:
    (folder / "link").symlink_to("/etc/passwd")
    with pytest.raises(BadInput, match="link is not a regular file"):
        artifacts.publish(store, "thing", folder)


def test_an_empty_folder_is_refused(store: Store, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(BadInput, match="nothing to publish"):
        artifacts.publish(store, "thing", tmp_path / "empty")


@pytest.mark.parametrize("path", ["../x", "/etc/passwd", "a/../../b", ""])
def test_no_path_leaves_the_store(store: Store, path: str) -> None:
    with pytest.raises(BadInput, match="must not leave the store"):
        store.put(path, b"")


@pytest.mark.parametrize(
    "uri", ["artifacts/x", "artifacts/x/short", "runs/a/b", "s3://elsewhere/artifacts/x/" + "0" * 64]
)
def test_a_uri_of_another_shape_or_store_is_refused(store: Store, uri: str) -> None:
    with pytest.raises(BadInput, match="uri"):
        ArtifactRef.parse(store.relative(uri))


def test_of_two_creators_one_wins(store: Store) -> None:
    assert store.create("keys/k.json", b"first")
    assert not store.create("keys/k.json", b"second")
    assert store.read("keys/k.json") == b"first"


def test_a_stale_tag_replaces_nothing(store: Store) -> None:
    store.put("lease", b"1")
    seen = store.read_versioned("lease")
    assert seen is not None
    assert store.replace("lease", b"2", seen.tag)
    assert not store.replace("lease", b"3", seen.tag)
    assert not store.replace("nothing", b"3", seen.tag)
    assert store.read("lease") == b"2"


@pytest.mark.parametrize("url", ["file://{folder}", "memory://bucket/pieces"])
def test_an_object_may_be_written_in_pieces(url: str, tmp_path: Path) -> None:
    store = Store(url.format(folder=tmp_path))
    store.put("a", b"01", memoryview(b"234"), b"", b"5")
    assert store.read("a") == b"012345"
    store.delete("a")


def test_deleting_leaves_no_empty_folders(store: Store) -> None:
    store.put("a/b/c", b"")
    store.delete("a/b/c")
    store.delete("a/b/c")
    assert store.list("a") == []
    path = store.local_path("a")
    assert path is not None
    assert not path.exists()


def test_a_store_that_refuses_writing_says_so(tmp_path: Path) -> None:
    blocker = tmp_path / "file"
    blocker.write_text("")
    blocker.chmod(stat.S_IRUSR)
    with pytest.raises(StoreUnavailable, match="cannot write"):
        Store(f"file://{blocker}").put("a", b"")


def test_an_unknown_protocol_is_refused() -> None:
    with pytest.raises(BadInput, match="use file://, s3://"):
        Store("gopher://x")


@pytest.fixture
def remote() -> Iterator[Store]:
    """Return a store from which artifacts are downloaded."""
    from fsspec.implementations.memory import MemoryFileSystem

    yield Store("memory://bucket/store")
    MemoryFileSystem.store.clear()


def test_of_two_downloads_at_once_the_first_stays_for_its_readers(
    remote: Store, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ref = artifacts.publish(remote, "thing", folder)
    cache = tmp_path / "cache"
    others: list[int] = []
    is_first = threading.Lock()

    def chunks_while_another_downloads(path: str) -> Iterator[bytes]:
        if is_first.acquire(blocking=False):
            others.append(artifacts.fetch(Store(remote.url), ref, cache).stat().st_ino)
        return Store(remote.url).chunks(path)

    monkeypatch.setattr(remote, "chunks", chunks_while_another_downloads)
    fetched = artifacts.fetch(remote, ref, cache)
    assert [fetched.stat().st_ino] == others
    assert (fetched / "sub" / "b.txt").read_text() == "hello"
    assert list(fetched.parent.iterdir()) == [fetched]


def test_a_damaged_download_is_replaced(remote: Store, folder: Path, tmp_path: Path) -> None:
    ref = artifacts.publish(remote, "thing", folder)
    fetched = artifacts.fetch(remote, ref, tmp_path / "cache")
    (fetched / "a.json").write_text("[]")
    again = artifacts.fetch(remote, ref, tmp_path / "cache")
    assert (again / "a.json").read_text() == "{}"
    assert list(again.parent.iterdir()) == [again]

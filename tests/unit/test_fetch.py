"""The command that brings an artifact into a folder."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from pipelines import artifacts
from pipelines.artifacts import ArtifactRef
from pipelines.commands.fetch import fetch_to
from pipelines.errors import ArtifactCorrupt, ArtifactMissing
from pipelines.store import Store

FILES = {"bento.yaml": b"name: docs", "src/model/weights.safetensors": b"\x00" * 1000}


@pytest.fixture
def ref(store: Store, tmp_path: Path) -> ArtifactRef:
    """Return a published artifact."""
    return artifacts.publish_files(store, "bento", FILES, tmp_path / "scratch")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Return where it is to be; nothing is there."""
    return tmp_path / "pod" / "content"


def found(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_the_files_are_in_the_folder_and_nothing_else_is_left(store: Store, ref: ArtifactRef, folder: Path) -> None:
    fetch_to(store, ref, folder)
    assert found(folder).items() >= FILES.items()
    assert [path.name for path in folder.parent.iterdir()] == ["content"]
    assert artifacts.verify(store, ref)


def test_a_folder_that_holds_them_is_left_as_it_is(store: Store, ref: ArtifactRef, folder: Path) -> None:
    fetch_to(store, ref, folder)
    before = (folder / "bento.yaml").stat().st_mtime_ns
    fetch_to(store, ref, folder)
    assert (folder / "bento.yaml").stat().st_mtime_ns == before


def test_a_folder_that_a_killed_container_left_is_replaced(store: Store, ref: ArtifactRef, folder: Path) -> None:
    folder.mkdir(parents=True)
    (folder / "bento.yaml").write_text("name: half")
    fetch_to(store, ref, folder)
    assert (folder / "bento.yaml").read_bytes() == FILES["bento.yaml"]


def test_bytes_that_are_wrong_are_named_and_leave_no_folder(store: Store, ref: ArtifactRef, folder: Path) -> None:
    stored = store.local_path(ref.uri)
    assert stored is not None
    (stored / "bento.yaml").write_text("name: evil")
    with pytest.raises(ArtifactCorrupt, match=r"bento\.yaml differs from its manifest"):
        fetch_to(store, ref, folder)
    assert not folder.exists()


def test_an_artifact_that_is_not_there_is_named(store: Store, ref: ArtifactRef, folder: Path) -> None:
    stored = store.local_path(ref.uri)
    assert stored is not None
    shutil.rmtree(stored)
    with pytest.raises(ArtifactMissing, match=ref.uri):
        fetch_to(store, ref, folder)
    assert not folder.exists()

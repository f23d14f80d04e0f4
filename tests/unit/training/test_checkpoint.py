"""Checkpoints in a store."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from pipelines.errors import ArtifactCorrupt, StoreUnavailable
from pipelines.store import Store
from pipelines.training.checkpoint import Checkpoints

FOLDER = "checkpoints/key"


@pytest.fixture
def checkpoints(store: Store) -> Checkpoints:
    return Checkpoints(store, FOLDER)


def files_of(step: int) -> dict[str, bytes]:
    return {"model.safetensors": b"weights %d" % step, "optimizer.safetensors": b"moments %d" % step}


def save(checkpoints: Checkpoints, *steps: int, keep: int = 10) -> None:
    for step in steps:
        checkpoints.save(step, files_of(step), keep=keep)


def test_the_newest_checkpoint_comes_back_as_it_was_saved(checkpoints: Checkpoints) -> None:
    save(checkpoints, 50, 100)
    found, damages = checkpoints.newest()
    assert found is not None
    assert (found.step, found.files, damages) == (100, files_of(100), [])


def test_no_checkpoint_is_no_error(checkpoints: Checkpoints) -> None:
    assert checkpoints.newest() == (None, [])


def test_only_the_newest_are_kept(store: Store, checkpoints: Checkpoints) -> None:
    save(checkpoints, 1, 2, 3, 4, keep=2)
    folders = {path.split("/")[2] for path in store.list(FOLDER)}
    assert folders == {"step-00000003", "step-00000004", "latest.json"}


def flip_a_byte(file: Path) -> None:
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 1
    file.write_bytes(data)


@pytest.mark.parametrize(
    ("name", "damage", "message"),
    [
        pytest.param("model.safetensors", flip_a_byte, "model.safetensors differs", id="byte-flipped"),
        pytest.param(
            "optimizer.safetensors", lambda f: f.write_bytes(b"mom"), "optimizer.safetensors differs", id="cut"
        ),
        pytest.param("model.safetensors", Path.unlink, "model.safetensors is missing", id="file-missing"),
        pytest.param("manifest.json", Path.unlink, "manifest.json is missing", id="killed-before-the-manifest"),
        pytest.param("manifest.json", lambda f: f.write_bytes(b"{"), "manifest.json cannot be read", id="bad-manifest"),
    ],
)
def test_a_damaged_checkpoint_is_passed_over_and_named(
    store: Store, checkpoints: Checkpoints, name: str, damage: Callable[[Path], None], message: str
) -> None:
    save(checkpoints, 50, 100)
    damage(store.local_path(f"{FOLDER}/step-00000100/{name}"))
    found, damages = checkpoints.newest()
    assert found is not None
    assert found.step == 50
    assert len(damages) == 1
    assert message in damages[0]
    assert "step-00000100" in damages[0]
    with pytest.raises(ArtifactCorrupt, match=message):
        checkpoints.load(100)


def test_nothing_newer_than_the_pointer_counts(store: Store, checkpoints: Checkpoints) -> None:
    save(checkpoints, 50, 100)
    store.put(f"{FOLDER}/latest.json", b'{"step":50}')
    found, _ = checkpoints.newest()
    assert found is not None
    assert found.step == 50


@pytest.mark.parametrize("pointer", [b"", b"{}", b'{"step":70}'], ids=["empty", "no-step", "names-nothing"])
def test_a_bad_pointer_costs_no_sound_checkpoint(store: Store, checkpoints: Checkpoints, pointer: bytes) -> None:
    save(checkpoints, 50)
    store.put(f"{FOLDER}/latest.json", pointer)
    found, _ = checkpoints.newest()
    assert found is not None
    assert found.step == 50


def test_a_store_that_fills_up_leaves_the_checkpoint_before_in_place(
    store: Store, checkpoints: Checkpoints, monkeypatch: pytest.MonkeyPatch
) -> None:
    save(checkpoints, 50)
    put = store.put

    def put_until_full(path: str, data: bytes) -> None:
        if "optimizer" in path:
            raise StoreUnavailable("no space left on device")
        put(path, data)

    monkeypatch.setattr(store, "put", put_until_full)
    with pytest.raises(StoreUnavailable, match="no space"):
        save(checkpoints, 100)
    found, damages = checkpoints.newest()
    assert found is not None
    assert (found.step, damages) == (50, [])


def test_saving_a_step_again_replaces_what_damage_left(store: Store, checkpoints: Checkpoints) -> None:
    save(checkpoints, 50, 100)
    flip_a_byte(store.local_path(f"{FOLDER}/step-00000100/model.safetensors"))
    save(checkpoints, 100)
    found, damages = checkpoints.newest()
    assert found is not None
    assert (found.step, damages) == (100, [])

"""Checkpoints in a store, as files: which counts, which is passed over, which goes."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path

import pytest

from pipelines.errors import ArtifactCorrupt, BadInput, StoreUnavailable
from pipelines.spec import ArchitectureConfig, StartConfig, TrainingConfig
from pipelines.store import Store
from pipelines.training.checkpoints.folder import CheckpointFolder
from pipelines.training.checkpoints.identity import check_same_model, identity
from pipelines.training.checkpoints.manifest import Chunk, Latest, Manifest, SavedTensor

FOLDER = "checkpoints/key"
SHARD = "shard-00000.safetensors"


@pytest.fixture
def folder(store: Store) -> CheckpointFolder:
    return CheckpointFolder(store, FOLDER)


def manifest_of(step: int, **content: object) -> Manifest:
    fields = {"step": step, "world_size": 1, "strategy": "ddp", "model": {}, "progress": {}, "files": {}, "tensors": {}}
    return Manifest.model_validate({**fields, **content})


def save(folder: CheckpointFolder, *steps: int, keep: int = 10) -> None:
    for step in steps:
        folder.begin(step)
        files = {SHARD: folder.put(step, SHARD, b"weights %d" % step)}
        folder.commit(manifest_of(step, files=files), keep=keep)


def sound(folder: CheckpointFolder) -> tuple[int | None, list[str]]:
    """Return the newest sound step, and what was wrong with each newer one."""
    damages = []
    for step in folder.candidates():
        try:
            folder.read(folder.manifest(step), SHARD)
        except ArtifactCorrupt as damage:
            damages.append(str(damage))
        else:
            return step, damages
    return None, damages


def test_the_newest_comes_first_and_as_it_was_written(folder: CheckpointFolder) -> None:
    save(folder, 50, 100)
    assert list(folder.candidates()) == [100, 50]
    assert folder.read(folder.manifest(100), SHARD) == b"weights 100"


def test_no_checkpoint_is_no_error(folder: CheckpointFolder) -> None:
    assert list(folder.candidates()) == []


def test_only_the_newest_are_kept(store: Store, folder: CheckpointFolder) -> None:
    save(folder, 1, 2, 3, 4, keep=2)
    assert {path.split("/")[2] for path in store.list(FOLDER)} == {"step-00000003", "step-00000004", "latest.json"}


def flip_a_byte(file: Path) -> None:
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 1
    file.write_bytes(data)


@pytest.mark.parametrize(
    ("name", "damage", "message"),
    [
        pytest.param(SHARD, flip_a_byte, f"{SHARD} differs", id="byte-flipped"),
        pytest.param(SHARD, lambda file: file.write_bytes(b"wei"), f"{SHARD} differs", id="cut"),
        pytest.param(SHARD, Path.unlink, f"{SHARD} is missing", id="file-missing"),
        pytest.param("manifest.json", Path.unlink, "manifest.json is missing", id="killed-before-the-manifest"),
        pytest.param(
            "manifest.json", lambda file: file.write_bytes(b"{"), "manifest.json cannot be read", id="manifest-cut"
        ),
        pytest.param(
            "manifest.json",
            lambda file: file.write_bytes(file.read_bytes().replace(b'"world_size":1', b'"world_size":3')),
            "manifest.json differs from its digest",
            id="manifest-changed",
        ),
    ],
)
def test_a_damaged_checkpoint_is_passed_over_and_named(
    store: Store, folder: CheckpointFolder, name: str, damage: Callable[[Path], None], message: str
) -> None:
    save(folder, 50, 100)
    file = store.local_path(f"{FOLDER}/step-00000100/{name}")
    assert file is not None
    damage(file)
    step, (told,) = sound(folder)
    assert step == 50
    assert message in told
    assert "step-00000100" in told


def test_every_flip_and_every_cut_of_a_manifest_is_seen() -> None:
    data = manifest_of(7, model={"architecture.hidden_size": 16}, progress={"left_out": [3, 4]}).seal()
    chance = random.Random(5)  # noqa: S311 - no secret
    for position in range(len(data)):
        flipped = bytes([*data[:position], data[position] ^ (1 << chance.randrange(8)), *data[position + 1 :]])
        for damaged in (flipped, data[:position]):
            with pytest.raises(ArtifactCorrupt):
                Manifest.unseal(damaged)
    assert Manifest.unseal(data).progress == {"left_out": [3, 4]}


def test_a_manifest_of_another_step_is_none(store: Store, folder: CheckpointFolder) -> None:
    save(folder, 50, 100)
    store.put(f"{FOLDER}/step-00000100/manifest.json", manifest_of(50).seal())
    step, (told,) = sound(folder)
    assert (step, "manifest.json is of step 50" in told) == (50, True)


def test_nothing_newer_than_the_pointer_counts(store: Store, folder: CheckpointFolder) -> None:
    save(folder, 50, 100)
    store.put(f"{FOLDER}/latest.json", Latest(step=50).seal())
    assert sound(folder) == (50, [])


@pytest.mark.parametrize(
    "pointer",
    [b"", b"{}", b'{"content":{"step":10}}', Latest(step=70).seal()],
    ids=["empty", "no-step", "no-digest", "names-nothing"],
)
def test_a_bad_pointer_costs_no_sound_checkpoint(store: Store, folder: CheckpointFolder, pointer: bytes) -> None:
    save(folder, 50)
    store.put(f"{FOLDER}/latest.json", pointer)
    assert sound(folder)[0] == 50


def test_a_store_that_fills_up_leaves_the_checkpoint_before_in_place(
    store: Store, folder: CheckpointFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    save(folder, 50)

    def full(path: str, data: bytes) -> None:
        raise StoreUnavailable("no space left on device")

    monkeypatch.setattr(store, "put", full)
    with pytest.raises(StoreUnavailable, match="no space"):
        save(folder, 100)
    assert sound(folder) == (50, [])


def test_writing_a_step_again_leaves_nothing_of_the_first_time(store: Store, folder: CheckpointFolder) -> None:
    save(folder, 50, 100)
    folder.put(100, "shard-00007.safetensors", b"of a rank that is no more")
    save(folder, 100)
    assert sound(folder) == (100, [])
    assert not any("shard-00007" in path for path in store.list(FOLDER))


ARCHITECTURE = ArchitectureConfig()
TRAINING = TrainingConfig()
SHAPES = {"weight": (4, 2)}


def saved_model(architecture: ArchitectureConfig = ARCHITECTURE, training: TrainingConfig = TRAINING) -> Manifest:
    chunk = Chunk(file=SHARD, offsets=(0, 0), sizes=(4, 2))
    tensor = SavedTensor(dtype="F32", shape=(4, 2), chunks=(chunk,))
    model = identity(architecture, training, 320)
    return manifest_of(8, model=model, tensors={"shared/model/weight": tensor})


def test_the_same_model_goes_on_whatever_shares_the_work() -> None:
    other = TRAINING.model_copy(update={"ranks": 4, "max_restarts": 2, "compile": True})
    check_same_model(saved_model(), identity(ARCHITECTURE, other, 320), SHAPES, "step-8")


@pytest.mark.parametrize(
    ("architecture", "training", "vocabulary_size", "shapes", "message"),
    [
        pytest.param({"hidden_size": 96}, {}, 320, SHAPES, "architecture.hidden_size is 96", id="architecture"),
        pytest.param(
            {}, {"start": StartConfig(weights="hf://a/b")}, 320, SHAPES, "training.start.weights is hf", id="start"
        ),
        pytest.param({}, {}, 400, SHAPES, "vocabulary size is 400, the checkpoint step-8 has 320", id="vocabulary"),
        pytest.param({}, {}, 320, {"weight": (4, 3)}, r"shape of weight is \(4, 3\)", id="shape"),
        pytest.param(
            {}, {}, 320, {**SHAPES, "new": (1,)}, "shape of new is .*, the checkpoint step-8 has None", id="weight"
        ),
    ],
)
def test_another_model_is_refused_with_both_values_and_a_way_out(
    architecture: dict[str, int],
    training: dict[str, object],
    vocabulary_size: int,
    shapes: dict[str, tuple[int, ...]],
    message: str,
) -> None:
    model = identity(
        ARCHITECTURE.model_copy(update=architecture), TRAINING.model_copy(update=training), vocabulary_size
    )
    with pytest.raises(BadInput, match=message) as refusal:
        check_same_model(saved_model(), model, shapes, "step-8")
    assert "set it back, or start anew: trigger with force, and without training.resume_from" in str(refusal.value)

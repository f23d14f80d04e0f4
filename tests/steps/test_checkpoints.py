"""Checkpoints with real torch: on one rank and on two, while the training goes on, and after every kind of damage."""

from __future__ import annotations

import json
import pickle
import random
import shutil
import threading
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch

from pipelines import verified
from pipelines.errors import BadInput, StoreUnavailable
from pipelines.store import Store
from pipelines.training.checkpoints import shard
from pipelines.training.checkpoints.folder import CheckpointFolder
from pipelines.training.checkpoints.reader import StoreReader
from pipelines.training.checkpoints.writer import StoreWriter
from tests.checkpoint_case import (
    CPU,
    FOLDER,
    WEIGHED,
    Case,
    Remembering,
    SingleRank,
    flip_a_byte,
    run_rank,
    weigh_rank,
)
from tests.rank_processes import run_ranks

SECONDS = 60.0
"""How long a test waits for another thread."""


@pytest.fixture
def case(store: Store) -> Case:
    """Return a training of one rank that has taken a step."""
    case = Case(store, SingleRank(CPU))
    case.step()
    return case


def fresh(store: Store, **different: Any) -> Case:
    """Return a training that has taken no step, with other weights."""
    return Case(store, **{"strategy": SingleRank(CPU), "seed": 2, **different})


def assert_equal(found: dict[str, torch.Tensor], expected: dict[str, torch.Tensor]) -> None:
    assert found.keys() == expected.keys()
    for name, tensor in expected.items():
        assert torch.equal(found[name], tensor), name


def test_a_training_goes_on_to_the_same_bits(store: Store, case: Case) -> None:
    case.save(1)
    again = fresh(store)
    resumed = again.checkpointer.resume()
    assert (resumed.step, resumed.progress, resumed.metrics, resumed.damages) == (
        1, {"left_out": [1]}, b"metrics 1", (),
    )  # fmt: skip
    assert_equal(again.everything(), case.everything())
    states = torch.get_rng_state()
    again.step()  # with the dropout that the generator's state decides
    torch.set_rng_state(states)
    case.step()
    assert_equal(again.everything(), case.everything())


def test_without_a_checkpoint_everything_stays_as_it_is(store: Store) -> None:
    case = fresh(store)
    before = case.everything()
    assert case.checkpointer.resume().step == 0
    assert_equal(case.everything(), before)


def test_nothing_of_pickle_is_written_or_read(
    store: Store, case: Case, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: Any, **__: Any) -> None:
        raise AssertionError("pickle")

    for module, names in {pickle: ("load", "loads", "dump", "dumps", "Unpickler"), torch: ("load", "save")}.items():
        for name in names:
            monkeypatch.setattr(module, name, refuse)
    case.save(1)
    assert fresh(store).checkpointer.resume().step == 1
    for path in store.list("checkpoints"):
        data = store.read(path) or b""
        match path.rpartition(".")[2]:
            case "json":
                json.loads(data)
            case "safetensors":
                safetensors.torch.load(data)
            case "jsonl":
                assert data == b"metrics 1"
            case other:
                pytest.fail(other)


def test_a_shard_is_what_the_safetensors_library_writes(store: Store, case: Case) -> None:
    case.save(1)
    data = store.read(f"{FOLDER}/step-00000001/shard-00000.safetensors") or b""
    tensors = safetensors.torch.load(data)
    assert torch.equal(tensors["shared/model/first.weight"], case.net.first.weight)
    assert len(data) == len(safetensors.torch.save(tensors))


def test_fifty_flips_and_cuts_of_the_newest_are_caught_and_passed_over(store: Store, case: Case) -> None:
    case.save(1)
    expected = case.everything()
    chance = random.Random(3)  # noqa: S311 - no secret
    for number in range(50):
        case.step()
        case.save(2)
        file = chance.choice(sorted(path for path in store.list(FOLDER) if "step-00000002" in path))
        damage(store.local_path(file), chance, is_cut=number % 2 == 1)
        resumed = case.checkpointer.resume()
        assert (resumed.step, len(resumed.damages)) == (1, 1), file
        assert file in resumed.damages[0].replace(": ", "/", 1).removeprefix("checkpoint ")
        assert_equal(case.everything(), expected)


def damage(file: Path | None, chance: random.Random, *, is_cut: bool) -> None:
    assert file is not None
    size = file.stat().st_size
    if is_cut:
        file.write_bytes(file.read_bytes()[: chance.randrange(size)])
    else:
        flip_a_byte(file, chance.randrange(size))


def test_without_digests_a_flipped_weight_would_pass(store: Store, case: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    case.save(1)
    file = store.local_path(f"{FOLDER}/step-00000001/shard-00000.safetensors")
    assert file is not None
    flip_a_byte(file, -1)
    monkeypatch.setattr(verified, "_until", lambda digest, path, sha256: bool(digest()))
    assert fresh(store).checkpointer.resume().step == 1


def test_a_damaged_checkpoint_that_is_the_only_one_changes_nothing(store: Store, case: Case) -> None:
    case.save(1)
    file = store.local_path(f"{FOLDER}/step-00000001/shard-00000.safetensors")
    assert file is not None
    flip_a_byte(file, -1)
    again = fresh(store)
    before = again.everything()
    resumed = again.checkpointer.resume()
    assert resumed.step == 0
    assert "shard-00000.safetensors differs from its manifest" in resumed.damages[0]
    assert_equal(again.everything(), before)


def test_what_is_read_is_what_was_verified(store: Store, case: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    case.save(1)
    file = store.local_path(f"{FOLDER}/step-00000001/shard-00000.safetensors")
    assert file is not None
    read_data = StoreReader.read_data

    def damaged_meanwhile(*arguments: Any) -> Any:
        flip_a_byte(file, -1)
        return read_data(*arguments)

    monkeypatch.setattr(StoreReader, "read_data", damaged_meanwhile)
    again = fresh(store)
    before = again.everything()
    with pytest.raises(StoreUnavailable, match=r"shard-00000\.safetensors changed while it was read"):
        again.checkpointer.resume()
    assert_equal(again.everything(), before)  # all is in one piece


class SlowStore:
    """Lets a store's writer wait, or fail."""

    def __init__(self, put: Callable[..., None]) -> None:
        self._put = put
        self.may_go_on, self.began = threading.Event(), threading.Event()
        self.problem: Exception | None = None

    def put(self, path: str, data: bytes) -> None:
        """Write an object when it is allowed."""
        self.began.set()
        assert self.may_go_on.wait(SECONDS)
        if self.problem:
            raise self.problem
        self._put(path, data)


@pytest.fixture
def slow(store: Store, monkeypatch: pytest.MonkeyPatch) -> SlowStore:
    """Return the brakes of the test's store."""
    slow = SlowStore(store.put)
    monkeypatch.setattr(store, "put", slow.put)
    return slow


def test_the_training_goes_on_while_a_checkpoint_is_written(store: Store, case: Case, slow: SlowStore) -> None:
    expected = case.everything()
    case.checkpointer.save(1, progress={}, metrics=b"")
    assert slow.began.wait(SECONDS)
    case.step()  # what is written is as it was before
    assert store.list(FOLDER) == []
    slow.may_go_on.set()
    case.checkpointer.wait()
    again = fresh(store)
    assert again.checkpointer.resume().step == 1
    assert_equal(again.everything(), expected)


def test_what_went_wrong_while_writing_is_told_by_the_next_call(store: Store, case: Case, slow: SlowStore) -> None:
    slow.problem = StoreUnavailable("no space left on device")
    slow.may_go_on.set()
    case.checkpointer.save(1, progress={}, metrics=b"")
    with pytest.raises(StoreUnavailable, match="no space"):
        case.save(2)
    slow.problem = None
    assert case.checkpointer.resume().step == 0


def slots(case: Case) -> list[torch.Tensor]:
    """Return the memory in which a training's checkpoints are staged."""
    return case.checkpointer._shard._slots


def test_staging_uses_its_memory_again(case: Case) -> None:
    case.save(1)
    before = [slot.data_ptr() for slot in slots(case)]
    case.step()
    case.save(2)
    assert [slot.data_ptr() for slot in slots(case)] == before


@pytest.mark.parametrize("slot_bytes", [8, 24, 1000])
def test_a_file_is_staged_in_slots_of_bounded_size_and_has_the_same_bytes(
    slot_bytes: int, case: Case, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = f"{FOLDER}/step-00000001/shard-00000.safetensors"
    case.save(1)
    expected = store.read(path)
    monkeypatch.setattr(shard, "SLOT_BYTES", slot_bytes)
    other = fresh(store)
    assert other.checkpointer.resume().step == 1
    other.save(1)
    assert store.read(path) == expected
    assert {len(slot) for slot in slots(other)[:-1]} == {slot_bytes}
    assert len(slots(other)[-1]) <= slot_bytes


@pytest.fixture
def held_when_taken(monkeypatch: pytest.MonkeyPatch) -> Callable[[Case], list[int]]:
    """Return what tells, for each time that memory is taken from now on, how much of a training's is still held."""

    def watch(case: Case) -> list[int]:
        before, counts, empty = [weakref.ref(slot) for slot in slots(case)], [], torch.empty

        def take(*size: int, **how: Any) -> torch.Tensor:
            if how.get("dtype") == torch.uint8:
                counts.append(sum(slot() is not None for slot in before))
            return empty(*size, **how)

        monkeypatch.setattr(torch, "empty", take)
        return counts

    return watch


def test_staging_gives_memory_back_before_it_takes_more(
    store: Store, held_when_taken: Callable[[Case], list[int]]
) -> None:
    case = fresh(store)
    case.save(1)  # before the first step: no moments
    case.step()
    counts = held_when_taken(case)
    case.save(2)
    assert counts == [0]


class Leaving(SingleRank):
    """A rank whose others may be lost."""

    has_lost_ranks = False


def test_a_rank_that_goes_on_alone_first_gives_back_what_a_checkpoint_with_the_others_holds(
    store: Store, slow: SlowStore, held_when_taken: Callable[[Case], list[int]]
) -> None:
    strategy = Leaving(CPU)
    case = fresh(store, strategy=strategy)
    case.checkpointer._is_alone = False
    case.step()
    case.checkpointer.save(1, progress={}, metrics=b"")
    assert slow.began.wait(SECONDS)
    case.step()
    expected, counts = case.everything(), held_when_taken(case)
    strategy.has_lost_ranks = True
    threading.Timer(0.5, slow.may_go_on.set).start()
    case.save(2)
    assert counts == [0]
    again = fresh(store)
    assert again.checkpointer.resume().step == 2
    assert_equal(again.everything(), expected)


@pytest.mark.parametrize("stage", ["prepare_global_plan", "finish"], ids=["staged", "written"])
def test_a_checkpoint_that_was_given_up_never_comes_to_be(
    stage: str, store: Store, case: Case, monkeypatch: pytest.MonkeyPatch
) -> None:
    go_on = getattr(StoreWriter, stage)

    def give_up_first(*arguments: Any, **named: Any) -> Any:
        case.checkpointer._shard.give_up()
        return go_on(*arguments, **named)

    monkeypatch.setattr(StoreWriter, stage, give_up_first)
    with pytest.raises(RuntimeError, match="given up"):
        case.save(1)
    assert case.checkpointer.resume().step == 0


def test_another_model_is_refused(store: Store, case: Case) -> None:
    case.save(1)
    with pytest.raises(BadInput, match=r"architecture.hidden_size is 8, the checkpoint .*/step-00000001 has 7"):
        fresh(store, model={"architecture.hidden_size": 8}).checkpointer.resume()


@pytest.mark.parametrize(
    ("kind", "told"),
    [
        pytest.param("diloco", {"outer/memory": [5.0, 5.0, 5.0]}, id="its-own"),
        pytest.param("ddp", {}, id="another-strategy's"),
    ],
)
def test_a_strategy_is_told_what_it_remembered_and_nothing_of_another(
    store: Store, kind: str, told: dict[str, list[float]]
) -> None:
    case = fresh(store, strategy=Remembering(5.0), kind="diloco")
    case.step()
    case.save(1)
    strategy = Remembering()
    assert fresh(store, strategy=strategy, kind=kind).checkpointer.resume().step == 1
    assert strategy.was_told is not None
    assert {name: tensor.tolist() for name, tensor in strategy.was_told.items()} == told


@pytest.fixture(scope="module")
def two_ranks(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Case]:
    """Save and restore on two ranks in every way; return their folder, and what one rank alone had saved before."""
    folder = tmp_path_factory.mktemp("ranks")
    alone = Case(Store(f"file://{folder / 'single'}"), SingleRank(CPU), seed=5)
    alone.step()
    alone.save(1)
    run_ranks(2, run_rank, folder)
    return folder, alone


def held(folder: Path, rank: int, name: str) -> dict[str, torch.Tensor]:
    tensors = safetensors.torch.load_file(folder / f"rank-{rank}.safetensors")
    return {key.removeprefix(f"{name}:"): tensor for key, tensor in tensors.items() if key.startswith(f"{name}:")}


@pytest.mark.parametrize("rank", [0, 1])
def test_a_checkpoint_is_resharded_to_what_reads_it(two_ranks: tuple[Path, Case], rank: int) -> None:
    folder, alone = two_ranks
    assert_equal(held(folder, rank, "whole as shards"), held(folder, 0, "whole"))
    assert_equal(held(folder, rank, "single as shards"), alone.everything())
    assert_equal(held(folder, rank, "single as replicas"), alone.everything())


@pytest.mark.parametrize(("name", "rank"), [("whole", 0), ("sharded", 0), ("replicas", 0)])
def test_one_rank_goes_on_from_two(two_ranks: tuple[Path, Case], name: str, rank: int) -> None:
    folder, _ = two_ranks
    case = fresh(Store(f"file://{folder / name}"))
    assert case.checkpointer.resume().step == 1
    assert_equal(case.everything(), held(folder, rank, name))


@pytest.mark.parametrize("rank", [0, 1])
def test_each_replica_gets_its_own_back(two_ranks: tuple[Path, Case], rank: int) -> None:
    folder, _ = two_ranks
    assert_equal(held(folder, rank, "replicas again"), held(folder, rank, "replicas"))
    assert not torch.equal(held(folder, 0, "replicas")["last.weight"], held(folder, 1, "replicas")["last.weight"])


@pytest.mark.parametrize("name", ["whole", "sharded"])
def test_ranks_share_the_writing_and_write_nothing_twice(two_ranks: tuple[Path, Case], name: str) -> None:
    folder, alone = two_ranks
    files = sorted((folder / name / FOLDER / "step-00000001").glob("shard-*"))
    sizes = [
        sum(t.nbytes for k, t in safetensors.torch.load_file(file).items() if "/generators/" not in k) for file in files
    ]
    assert sum(sizes) == sum(tensor.nbytes for tensor in alone.everything().values())
    assert max(sizes) < 0.7 * sum(sizes)


def test_what_every_sharded_rank_wants_is_in_one_file(two_ranks: tuple[Path, Case]) -> None:
    checkpoints = CheckpointFolder(Store(f"file://{two_ranks[0] / 'sharded'}"), FOLDER)
    tensors = checkpoints.manifest(1).tensors
    scalars = {chunk.file for tensor in tensors.values() if tensor.shape == () for chunk in tensor.chunks}
    assert scalars == {"shard-00000.safetensors"}


def test_nothing_is_set_before_every_file_is_verified(two_ranks: tuple[Path, Case], tmp_path: Path) -> None:
    shutil.copytree(two_ranks[0] / "whole", tmp_path / "whole")
    files = sorted((tmp_path / "whole" / FOLDER).rglob("shard-*"))
    assert len(files) == 2
    for file in files:
        flip_a_byte(file, -1)
        case = fresh(Store(f"file://{tmp_path / 'whole'}"))
        before = case.everything()
        assert case.checkpointer.resume().step == 0
        assert_equal(case.everything(), before)
        flip_a_byte(file, -1)


@pytest.mark.parametrize("name", WEIGHED)
def test_a_resume_takes_no_memory_beside_what_it_restores(name: str, weighed: list[dict[str, Any]]) -> None:
    for rank in weighed:
        assert rank[name]["fresh"] < 0.8  # two thirds are the moments, which a fresh optimizer has not got
        assert rank[name]["again"] < 0.1


@pytest.fixture(scope="module")
def weighed(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """Return by how much the memory of each of two ranks grew while it resumed, as shares of what it restored."""
    folder = tmp_path_factory.mktemp("weighed")
    run_ranks(2, weigh_rank, folder)
    return [json.loads((folder / f"rank-{rank}.json").read_text()) for rank in range(2)]


@pytest.mark.parametrize("rank", [0, 1])
def test_damage_that_one_rank_meets_sends_all_back(two_ranks: tuple[Path, Case], rank: int) -> None:
    folder, _ = two_ranks
    told = (folder / f"rank-{rank}.txt").read_text()
    assert told.startswith("1 ")
    assert "step-00000002: shard-00001.safetensors differs from its manifest" in told

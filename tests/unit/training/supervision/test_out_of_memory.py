"""Memory that ran out: who says so, and what would fit."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from pipelines.errors import OutOfMemory
from pipelines.spec import TrainingConfig
from pipelines.training.supervision.out_of_memory import GIB, MemoryGroup, advice, explain_kill, host_advice


@pytest.mark.parametrize(
    ("training", "way_out"),
    [
        pytest.param(
            {"batch_size": 16, "ranks": 2},
            "try training.accumulation_steps 2: the same batch, 4 instead of 8 sequences at a time; "
            "or training.batch_size 8",
            id="half-of-an-even-number",
        ),
        pytest.param(
            {"batch_size": 18, "accumulation_steps": 2},
            "try training.accumulation_steps 6: the same batch, 3 instead of 9 sequences at a time; "
            "or training.batch_size 6",
            id="a-third-of-nine",
        ),
        pytest.param(
            {"batch_size": 2, "ranks": 2, "sequence_length": 512},
            "a rank holds one sequence at a time already: try training.activation_checkpointing true, or "
            "training.strategy fsdp on more ranks, or training.sequence_length 256, or a smaller architecture",
            id="one-at-a-time",
        ),
        pytest.param(
            {"batch_size": 2, "ranks": 2, "strategy": "fsdp", "activation_checkpointing": True},
            "one sequence at a time already: try training.sequence_length 128, or a smaller architecture",
            id="everything-tried",
        ),
    ],
)
def test_the_way_out_can_be_copied_into_the_spec(training: dict[str, Any], way_out: str) -> None:
    config = TrainingConfig.model_validate(training)
    assert advice(config).endswith(way_out)


def test_what_is_advised_is_a_valid_spec() -> None:
    TrainingConfig(batch_size=18, accumulation_steps=6)
    TrainingConfig(batch_size=6, accumulation_steps=2)


def test_a_kill_by_the_kernel_is_told_with_its_numbers_and_is_not_retried() -> None:
    error = explain_kill(1, 30 * GIB, 32 * GIB, TrainingConfig(), on_gpu=False)
    assert isinstance(error, OutOfMemory)
    assert not error.retryable
    assert "rank 1 was killed by the kernel, out of memory" in str(error)
    assert "used at least 30.00 GiB of 32.00 GiB; try" in str(error)
    assert "try training.accumulation_steps 2" in str(error)


def test_a_smaller_batch_is_no_way_out_where_batches_are_on_gpus() -> None:
    told = str(explain_kill(1, 30 * GIB, 32 * GIB, TrainingConfig(ranks=2), on_gpu=True))
    assert "accumulation_steps" not in told
    assert told.endswith(
        "32.00 GiB; try more memory for each machine (resources.train.memory), "
        "or fewer ranks on each (resources.train.nodes)"
    )


@pytest.mark.parametrize(
    ("training", "way_out"),
    [
        pytest.param({}, "try more memory for each machine (resources.train.memory)", id="one-rank"),
        pytest.param(
            {"ranks": 2, "strategy": {"kind": "fsdp", "cpu_offload": True}},
            "(resources.train.nodes), or training.strategy.cpu_offload false",
            id="offloaded",
        ),
    ],
)
def test_the_way_out_of_a_small_host_depends_on_what_lies_there(training: dict[str, Any], way_out: str) -> None:
    assert host_advice(TrainingConfig.model_validate(training)).endswith(way_out)


@pytest.mark.parametrize(
    ("line", "folder", "limit_file", "events_file"),
    [
        pytest.param("0::/pod/step\n", "pod/step", "memory.max", "memory.events", id="version-2"),
        pytest.param("0::/not/mounted\n", "", "memory.max", "memory.events", id="version-2-in-a-container"),
        pytest.param(
            "5:cpu,cpuacct:/x\n4:memory:/pod\n0::/\n",
            "memory/pod",
            "memory.limit_in_bytes",
            "memory.oom_control",
            id="version-1",
        ),
    ],
)
def test_the_kernel_tells_limit_and_kills_of_the_control_group(
    line: str, folder: str, limit_file: str, events_file: str, tmp_path: Path
) -> None:
    (tmp_path / "cgroup").write_text(line)
    root = tmp_path / "root"
    (root / folder).mkdir(parents=True)
    (root / folder / limit_file).write_text(f"{8 * GIB}\n")
    (root / folder / events_file).write_text("oom_kill_disable 0\noom 5\noom_kill 2\n")
    group = MemoryGroup.of_this_process(tmp_path / "cgroup", root)
    assert (group.limit_bytes(), group.num_kills()) == (8 * GIB, 2)


@pytest.mark.parametrize("text", ["max\n", "9223372036854771712\n"], ids=["version-2", "version-1"])
def test_no_limit_is_none(text: str, tmp_path: Path) -> None:
    (tmp_path / "memory.max").write_text(text)
    group = MemoryGroup.of_this_process(tmp_path / "absent", tmp_path)
    assert (group.limit_bytes(), group.num_kills()) == (None, 0)

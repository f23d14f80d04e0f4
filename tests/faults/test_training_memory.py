"""A training that needs more memory than its control group has: the kernel kills a rank, and the step says why."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from pipelines.errors import ExitCode
from pipelines.training.supervision.out_of_memory import MemoryGroup
from tests.training_case import DEADLINE_SECONDS, make_case

LIMIT_BYTES = 1200 * 2**20
LARGE = {"hidden_size": 16, "intermediate_size": 2**20}
"""About 100 million weights: 400 MB, and three times as much for gradients and optimizer."""


@pytest.fixture
def small_memory(tmp_path: Path) -> Iterator[Path]:
    """Make a control group with little memory."""
    group = MemoryGroup.of_this_process()
    folder = group.folder / f"slipway-test-{os.getpid()}"
    try:
        folder.mkdir()
    except OSError as error:
        pytest.skip(f"cannot make a control group: {error}")
    try:
        if not (folder / group.limit_name).is_file():
            pytest.skip("control groups below this one have no memory limit")
        (folder / group.limit_name).write_text(str(LIMIT_BYTES))
        yield folder
    finally:
        folder.rmdir()


@pytest.mark.slow
def test_a_rank_that_the_kernel_killed_is_told_with_the_numbers_and_what_would_fit(
    tmp_path: Path, small_memory: Path
) -> None:
    case = make_case(tmp_path, architecture=LARGE, ranks=1, max_restarts=3)
    with case.started(case.info()) as step:
        (small_memory / "cgroup.procs").write_text(str(step.pid))
        output, _ = step.communicate(timeout=DEADLINE_SECONDS)
    assert step.returncode == ExitCode.REFUSED, output
    assert "error: training: rank 0 was killed by the kernel, out of memory: all ranks of this machine used " in output
    assert "of 1.17 GiB; try training.accumulation_steps 2: the same batch, 3 instead of 6 sequences" in output
    assert "the ranks were started again" not in output

"""Strategies whose ranks do not wait for each other at each step: what they learn, remember and survive."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest
import torch
from pydantic import ValidationError

from pipelines.errors import ExitCode
from pipelines.settings import REPOSITORY
from pipelines.spec import DilocoConfig, TrainingConfig
from pipelines.training.launch import RANK_MODULE
from pipelines.training.strategies.diloco import Outer
from tests.strategy_case import Scenario, Trained, train_all
from tests.training_case import DEADLINE_SECONDS, make_case, processes_below, wait_for

STEPS = 22
COMMON = {
    "max_steps": STEPS, "batch_size": 6, "sequence_length": 16, "warmup_steps": 2, "learning_rate": 0.02,
    "precision": "fp32", "checkpoint_every_steps": 5, "keep_checkpoints": 10,
}  # fmt: skip
DILOCO = {**COMMON, "strategy": {"kind": "diloco", "inner_steps": 4, "overlap_steps": 2, "worker_timeout_seconds": 25}}
WITH_A_LOSS = {**COMMON, "strategy": {**DILOCO["strategy"], "worker_timeout_seconds": 10}}  # type: ignore[dict-item]
BETWEEN_ROUNDS = {
    **COMMON, "batch_size": 8,
    "strategy": {"kind": "diloco", "inner_steps": 11, "overlap_steps": 0, "worker_timeout_seconds": 10},
}  # fmt: skip
"""Two checkpoints before the first round, by which workers would learn that one is lost."""

IN_STEP, ASYNCHRONOUS = (
    {**COMMON, "strategy": {"kind": "parameter_server", "max_staleness": bound}} for bound in (0, 2)
)

SCENARIOS = [
    Scenario("ddp", 2, {**COMMON, "strategy": "ddp"}),
    Scenario("server", 3, IN_STEP),
    Scenario("server-resumed", 3, IN_STEP, goes_on="server", from_step=5),
    Scenario("asynchronous", 3, ASYNCHRONOUS),
    Scenario("asynchronous-stopped", 3, ASYNCHRONOUS, is_told_to_stop=True),
    Scenario("diloco", 2, DILOCO),
    Scenario("diloco-resumed", 2, DILOCO, goes_on="diloco", from_step=5),  # an exchange is under way at that step
    Scenario("diloco-stopped", 2, DILOCO, is_told_to_stop=True),
    Scenario("lost-while-saving", 4, BETWEEN_ROUNDS, killed_while_saving=3),
    Scenario("lost", 3, WITH_A_LOSS, killed_at={2: 9}),
]


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Trained:
    """Train all of them."""
    return train_all(tmp_path_factory.mktemp("trained"), SCENARIOS)


@pytest.mark.parametrize("name", ["ddp", "server", "asynchronous", "diloco", "lost", "lost-while-saving"])
def test_every_strategy_learns_and_leaves_a_model(trained: Trained, name: str) -> None:
    readings = trained.readings(name)
    assert readings[-1].step == STEPS
    assert readings[-1].loss < 0.9 * readings[0].loss
    assert trained.is_finished(name)


def test_a_parameter_server_that_waits_for_all_is_ddp(trained: Trained) -> None:
    losses, expected = ({each.step: each.loss for each in trained.readings(name)} for name in ("server", "ddp"))
    assert losses[STEPS] == pytest.approx(expected[STEPS], rel=0.05)  # over the steps since readings of their own
    for name, weight in trained.weights("ddp").items():
        torch.testing.assert_close(trained.weights("server")[name], weight, rtol=1e-3, atol=1e-4)


def test_all_workers_end_with_the_same_bits(trained: Trained) -> None:
    assert_equal(trained.weights("diloco", rank=0), trained.weights("diloco", rank=1))


@pytest.mark.parametrize("name", ["diloco", "server"])
def test_a_resumed_training_ends_with_the_bits_of_an_unbroken_one(trained: Trained, name: str) -> None:
    assert trained.resumed_from(f"{name}-resumed") == 5
    assert_equal(trained.weights(f"{name}-resumed"), trained.weights(name))


@pytest.mark.parametrize("name", ["diloco", "asynchronous"])
def test_workers_that_are_told_to_stop_save_the_same_step(trained: Trained, name: str) -> None:
    assert max(trained.checkpoint_steps(f"{name}-stopped")) == 20  # they look up at step 10, and agree on the next look
    assert not trained.is_finished(f"{name}-stopped")


@pytest.mark.parametrize("name", ["lost", "lost-while-saving"])
def test_the_others_go_on_without_a_killed_worker_and_keep_on_saving(trained: Trained, name: str) -> None:
    assert_equal(trained.weights(name, rank=0), trained.weights(name, rank=1))
    assert max(trained.checkpoint_steps(name)) == STEPS


def test_an_outer_step_of_rate_one_without_momentum_is_local_sgd() -> None:
    before, workers = torch.tensor([1.0, 2.0]), torch.tensor([[3.0, 2.0], [5.0, -4.0]])
    outer = Outer(before.clone(), DilocoConfig(outer_learning_rate=1.0, outer_momentum=0.0))
    outer.step((before - workers).mean(dim=0))
    assert torch.equal(outer.weights, workers.mean(dim=0))


def test_an_outer_step_is_nesterovs() -> None:
    outer = Outer(torch.zeros(1), DilocoConfig(outer_learning_rate=0.5, outer_momentum=0.9))
    momentum, weight = 0.0, 0.0
    for gradient in (1.0, -2.0, 3.0):
        outer.step(torch.tensor([gradient]))
        momentum = 0.9 * momentum + gradient
        weight -= 0.5 * (gradient + 0.9 * momentum)
        assert outer.weights.item() == pytest.approx(weight)


def test_an_exchange_must_end_before_the_next_begins() -> None:
    with pytest.raises(ValidationError, match=re.escape("overlap_steps 31 must not exceed inner_steps 30")):
        DilocoConfig(inner_steps=30, overlap_steps=31)


def test_half_precision_gradients_are_not_for_a_parameter_server() -> None:
    with pytest.raises(ValidationError, match=r"precision fp16 .* try bf16"):
        TrainingConfig.model_validate({"ranks": 2, "precision": "fp16", "strategy": "parameter_server"})


def test_nobody_waits_longer_for_a_lost_worker_than_the_watchdog_for_all() -> None:
    with pytest.raises(ValidationError, match=re.escape("watchdog.min_seconds 60 must exceed twice")):
        TrainingConfig.model_validate({"strategy": {"kind": "diloco", "worker_timeout_seconds": 30}})


@pytest.mark.slow  # a whole training, and a timeout
def test_torchrun_does_not_end_the_others_when_a_worker_is_killed(tmp_path: Path) -> None:
    strategy = {"kind": "diloco", "inner_steps": 10, "worker_timeout_seconds": 10}
    case = make_case(tmp_path, ranks=3, max_steps=600, checkpoint_every_steps=50, strategy=strategy)
    with case.started(case.info()) as step:
        wait_for(case.checkpoint_steps, "a checkpoint")
        rank_of_torchrun, worker = sorted(
            (each for each in processes_below(step.pid, RANK_MODULE) if each.environ()["RANK"] == "2"),
            key=lambda each: each.create_time(),
        )
        worker.kill()
        output, _ = step.communicate(timeout=DEADLINE_SECONDS)
    assert step.returncode == ExitCode.DONE, output
    assert case.receipt(case.info()).result["steps"] == 600
    assert not rank_of_torchrun.is_running()


@pytest.mark.parametrize(
    ("end", "status"),
    [
        pytest.param("os.kill(os.getpid(), signal.SIGKILL)", 0, id="a-lost-worker-is-no-failure"),
        pytest.param("sys.exit(20)", 20, id="one-that-knows-why-is"),
        pytest.param("sys.exit(0)", 0, id="success"),
    ],
)
def test_a_shield_passes_on_how_a_rank_ended_unless_it_was_killed(end: str, status: int) -> None:
    imports = "import os, signal, sys; from pipelines.training.supervision.shield import shield_others"
    program = f"{imports}; shield_others(); {end}"
    environment = {**os.environ, "RANK": "1", "PYTHONPATH": str(REPOSITORY)}
    assert subprocess.run([sys.executable, "-c", program], env=environment, check=False).returncode == status


def assert_equal(found: Mapping[str, torch.Tensor], expected: Mapping[str, torch.Tensor]) -> None:
    for name, weight in expected.items():
        assert torch.equal(found[name], weight), name

"""Memory by strategy, time and cost from a calibration, and what a plan says against what came of it."""

from __future__ import annotations

from typing import Any

import pytest

from pipelines.errors import RanksFailed
from pipelines.spec import ArchitectureConfig, TrainingConfig
from pipelines.store import Store
from pipelines.training.metrics import Reading
from pipelines.training.planning.estimate import check_fits, shortened, summarise, timed
from pipelines.training.planning.facts import Calibration, Device, Plan, Range, Sizes
from pipelines.training.planning.memory import PROCESS_BYTES, checkpoint_bytes, memory_per_rank
from pipelines.training.planning.words import comparison_rows, duration, plan_text

SIZES = Sizes(
    num_parameters=1000,
    num_trained_parameters=1000,
    largest_layer_parameters=200,
    outer_parameters=400,
    flops_per_token=6000,
    compute_bytes=2,
    activation_bytes=50_000,
)
CALIBRATION = Calibration(
    num_steps=20,
    step_seconds=Range(value=0.5, low=0.4, high=0.7),
    save_seconds=0.2,
    fixed_seconds=10.0,
    peak_memory_bytes=60_000,
    matmul_rate=1e9,
)


def training(**settings: Any) -> TrainingConfig:
    return TrainingConfig.model_validate({"max_steps": 100, "checkpoint_every_steps": 25, **settings})


def plan(config: TrainingConfig, *, memory_bytes: int = 1 << 20) -> Plan:
    return Plan(
        total_tokens=1_000_000,
        sizes=SIZES,
        memory=memory_per_rank(SIZES, config, on_gpu=True),
        device=Device(name="a device", memory_bytes=memory_bytes),
        checkpoint_bytes=checkpoint_bytes(SIZES, config),
        calibration=None,
        seconds=None,
        cost=None,
    )


@pytest.mark.parametrize(
    ("strategy", "weights", "optimizer", "exchange"),
    [
        pytest.param("ddp", 4000, 8000, 0, id="ddp-holds-everything"),
        pytest.param("fsdp", 1000, 2000, (2 * 200 + 400) * 2 + 4 * 400, id="fsdp-a-share-and-two-layers"),
        pytest.param({"kind": "fsdp", "reshard_after_forward": False}, 1000, 2000, 3600, id="fsdp-not-resharded"),
        pytest.param({"kind": "fsdp", "cpu_offload": True}, 0, 0, 3200, id="offloaded-shards-are-not-on-the-device"),
        pytest.param({"kind": "tensor", "tensor_ranks": 2}, 1000, 2000, 1600, id="tensor-halves-the-layers-too"),
        pytest.param("diloco", 4000, 8000, 32_000, id="diloco-copies-of-the-weights"),
        pytest.param("parameter_server", 4000, 8000, 8000, id="parameter-server"),
    ],
)
def test_memory_follows_the_strategy(strategy: Any, weights: int, optimizer: int, exchange: int) -> None:
    config = training(ranks=4, batch_size=12, strategy=strategy)
    memory = memory_per_rank(SIZES, config, on_gpu=True)
    assert (memory.weights, memory.optimizer, memory.exchange) == (weights, optimizer, exchange)
    assert memory.total == 2 * weights + optimizer + exchange + SIZES.activation_bytes


def test_without_a_gpu_the_process_counts_and_nothing_is_offloaded() -> None:
    config = training(ranks=4, strategy={"kind": "fsdp", "cpu_offload": True})
    memory = memory_per_rank(SIZES, config, on_gpu=False)
    assert (memory.weights, memory.process) == (1000, PROCESS_BYTES)


def test_frozen_weights_have_neither_gradients_nor_moments() -> None:
    sizes = SIZES.model_copy(update={"num_trained_parameters": 10})
    memory = memory_per_rank(sizes, training(), on_gpu=True)
    assert (memory.weights, memory.gradients, memory.optimizer) == (4000, 40, 80)
    assert checkpoint_bytes(sizes, training()) == 4080


def test_every_worker_of_diloco_saves_a_model_of_its_own() -> None:
    assert checkpoint_bytes(SIZES, training()) == 12_000
    assert checkpoint_bytes(SIZES, training(ranks=2, strategy="diloco")) == 2 * (12_000 + 3 * 4000)


def test_what_does_not_fit_is_refused_with_numbers_and_a_way_out() -> None:
    config = training(batch_size=16)
    check_fits(plan(config), config)
    too_large = r"a rank needs 0\.00 GiB, a device has 0\.00 GiB for it; try training\.accumulation_steps 2"
    with pytest.raises(Exception, match=too_large):
        check_fits(plan(config, memory_bytes=10_000), config)


def reading(step: int, seconds: float) -> Reading:
    return Reading(
        step=step, loss=1.0, learning_rate=0.1, gradient_norm=1.0, tokens=step, tokens_per_second=1.0, seconds=seconds,
        eta_seconds=0.0, at=seconds,
    )  # fmt: skip


def test_a_calibration_leaves_out_the_warm_up_and_tells_saving_blocks_apart() -> None:
    ends = {2: 9.0, 4: 12.0, 6: 13.0, 8: 14.0, 10: 17.0, 12: 18.2, 14: 19.0, 16: 20.0}
    found = summarise(
        [reading(step, seconds) for step, seconds in ends.items()], seconds=30.0, peak_memory_bytes=7, matmul_rate=1e9
    )
    assert found.num_steps == 12
    assert found.step_seconds.value == pytest.approx(0.5)
    assert (found.step_seconds.low, found.step_seconds.high) == (pytest.approx(0.4), pytest.approx(0.6))
    assert found.save_seconds == pytest.approx(2.0)
    assert found.fixed_seconds == pytest.approx(30.0 - 16 * 0.5)


def test_a_calibration_that_says_nothing_is_an_error() -> None:
    with pytest.raises(RanksFailed, match="the calibration ended early"):
        summarise([reading(2, 1.0), reading(4, 2.0)], seconds=5.0, peak_memory_bytes=0, matmul_rate=1.0)


def test_a_calibration_takes_20_steps_or_a_whole_round() -> None:
    assert shortened(training()).max_steps == 24
    assert shortened(training(ranks=2, strategy={"kind": "diloco", "inner_steps": 30})).max_steps == 34


def test_time_and_cost_have_error_bars() -> None:
    config = training(price_per_hour=36.0)
    found = timed(plan(config), CALIBRATION, config)
    assert found.seconds == Range(value=60.8, low=50.8, high=80.8)
    assert found.cost is not None
    assert found.cost.value == pytest.approx(0.608)
    text = plan_text(found, config)
    assert "1,000" in text
    assert "60.8 s (50.8 s to 80.8 s)" in text
    assert "0.61 (0.51 to 0.81) at 36 an hour" in text
    assert "fits" in text


def test_without_a_price_no_cost_is_told() -> None:
    text = plan_text(timed(plan(training()), CALIBRATION, training()), training())
    assert "Cost" not in text


def test_a_plan_is_found_by_the_very_training_that_it_is_about(tmp_path: Any) -> None:
    store, architecture, config = Store(f"file://{tmp_path}"), ArchitectureConfig(), training()
    made = plan(config)
    made.keep(store, architecture, config)
    assert Plan.find(store, architecture, config) == made
    assert Plan.find(store, architecture, training(price_per_hour=1.0)) == made
    assert Plan.find(store, architecture, training(max_steps=101)) is None


def test_a_plan_is_compared_with_what_it_came_to() -> None:
    config = training(price_per_hour=36.0)
    planned = timed(plan(config), CALIBRATION, config)
    found = planned.compare(seconds=70.0, memory_bytes=2**30, price_per_hour=36.0)
    assert found is not None
    assert found.cost == pytest.approx(0.7)
    assert [row[::2] for row in comparison_rows(found)] == [
        ("time", "70.0 s"), ("memory of a rank", "1.00 GiB"), ("cost", "0.70")
    ]  # fmt: skip
    assert plan(config).compare(seconds=70.0, memory_bytes=1, price_per_hour=None) is None


@pytest.mark.parametrize(
    ("seconds", "text"), [(5.0, "5.0 s"), (600.0, "10.0 min"), (7200.0, "2.0 h"), (864_000.0, "10.0 d")]
)
def test_times_are_said_as_people_say_them(seconds: float, text: str) -> None:
    assert duration(seconds) == text

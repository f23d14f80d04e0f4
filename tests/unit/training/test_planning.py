"""Memory by strategy, time and cost from a calibration, and what a plan says against what came of it."""

from __future__ import annotations

from typing import Any

import pytest

from pipelines.errors import BadInput, RanksFailed
from pipelines.spec import ArchitectureConfig, TrainingConfig
from pipelines.store import Store
from pipelines.training.checkpoints.staging import SLOT_BYTES, pinned_bytes, staged_bytes
from pipelines.training.metrics import Reading
from pipelines.training.planning.estimate import check_fits, shortened, summarise, timed
from pipelines.training.planning.facts import Calibration, Ledger, Plan, Range, RankMemory, Sizes
from pipelines.training.planning.memory import (
    GPU_PROCESS_BYTES,
    PROCESS_BYTES,
    checkpoint_bytes,
    memory_per_rank,
)
from pipelines.training.planning.words import comparison_rows, duration, plan_text

SIZES = Sizes(
    num_parameters=1000,
    num_trained_parameters=1000,
    largest_layer_parameters=200,
    outer_parameters=400,
    pinned_shard_bytes=1500,
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


GIB = 2**30
ALL = 12_000
"""Bytes of all weights and moments."""


def plan(
    config: TrainingConfig,
    *,
    sizes: Sizes = SIZES,
    gpu_bytes: int = GIB,
    host_bytes: int = 4 * GIB,
    on_gpu: bool = True,
) -> Plan:
    device, host = memory_per_rank(sizes, config, on_gpu=on_gpu)
    return Plan(
        total_tokens=1_000_000,
        sizes=sizes,
        device=None if device is None else Ledger(name="a GPU", needed=device, available_bytes=gpu_bytes),
        host=Ledger(name="this machine", needed=host, available_bytes=host_bytes),
        checkpoint_bytes=checkpoint_bytes(sizes, config),
        calibration=None,
        seconds=None,
        cost=None,
    )


OFFLOADED = {"kind": "fsdp", "cpu_offload": True}


@pytest.mark.parametrize(
    ("strategy", "weights", "optimizer", "exchange"),
    [
        pytest.param("ddp", 4000, 8000, 0, id="ddp-holds-everything"),
        pytest.param("fsdp", 1000, 2000, (2 * 200 + 400) * 2 + 4 * 400, id="fsdp-a-share-and-two-layers"),
        pytest.param({"kind": "fsdp", "reshard_after_forward": False}, 1000, 2000, 3600, id="fsdp-not-resharded"),
        pytest.param(OFFLOADED, 0, 0, 3200, id="offloaded-shards-are-not-on-the-gpu"),
        pytest.param({"kind": "tensor", "tensor_ranks": 2}, 1000, 2000, 1600, id="tensor-halves-the-layers-too"),
        pytest.param("diloco", 4000, 8000, 0, id="diloco-exchanges-on-the-host"),
        pytest.param("parameter_server", 4000, 8000, 0, id="parameter-server-exchanges-on-the-host"),
    ],
)
def test_a_gpu_holds_what_is_computed_with(strategy: Any, weights: int, optimizer: int, exchange: int) -> None:
    device, _ = memory_per_rank(SIZES, training(ranks=4, batch_size=12, strategy=strategy), on_gpu=True)
    gradients = weights
    assert device == RankMemory(
        weights=weights, gradients=gradients, optimizer=optimizer, exchange=exchange, activations=50_000
    )
    assert device.total == weights + gradients + optimizer + exchange + 50_000


@pytest.mark.parametrize(
    ("ranks", "strategy", "held", "exchange", "checkpoint"),
    [
        pytest.param(4, "ddp", {}, 0, pinned_bytes(ALL // 4), id="ddp-stages-its-share-pinned"),
        pytest.param(4, "fsdp", {}, 0, 4096, id="fsdp-too"),
        pytest.param(
            4, OFFLOADED, {"weights": 1500, "gradients": 1500, "optimizer": 2000}, 0, ALL // 4,
            id="offloaded-shards-are-pinned-and-what-is-staged-is-not",
        ),
        pytest.param(4, "diloco", {}, 8 * 4000, pinned_bytes(ALL + 3 * 4000), id="diloco-copies-and-all-its-state"),
        pytest.param(2, "diloco", {}, 10 * 4000, 32_768, id="diloco-of-two-hand-each-other-everything"),
        pytest.param(4, "parameter_server", {}, 4 * 4000, pinned_bytes(ALL), id="parameter-server"),
    ],
)  # fmt: skip
def test_the_host_of_a_gpu_holds_what_is_exchanged_offloaded_and_staged(
    ranks: int, strategy: Any, held: dict[str, int], exchange: int, checkpoint: int
) -> None:
    _, host = memory_per_rank(SIZES, training(ranks=ranks, batch_size=12, strategy=strategy), on_gpu=True)
    assert host == RankMemory(**held, exchange=exchange, checkpoint=checkpoint, process=GPU_PROCESS_BYTES)


@pytest.mark.parametrize(
    ("strategy", "weights", "exchange", "checkpoint"),
    [
        pytest.param("ddp", 4000, 0, ALL // 4, id="ddp"),
        pytest.param(OFFLOADED, 1000, 3200, ALL // 4, id="nothing-is-offloaded"),
        pytest.param("diloco", 4000, 32_000, ALL + 12_000, id="diloco"),
    ],
)
def test_without_gpus_everything_is_on_the_host_and_nothing_is_pinned(
    strategy: Any, weights: int, exchange: int, checkpoint: int
) -> None:
    device, host = memory_per_rank(SIZES, training(ranks=4, strategy=strategy), on_gpu=False)
    assert device is None
    assert (host.weights, host.gradients, host.optimizer) == (weights, weights, 2 * weights)
    assert (host.exchange, host.activations, host.checkpoint) == (exchange, 50_000, checkpoint)
    assert host.process == PROCESS_BYTES


@pytest.mark.parametrize(("size", "pinned"), [(0, 0), (1, 1), (4096, 4096), (4097, 8192)])
def test_torch_pins_powers_of_two(size: int, pinned: int) -> None:
    assert pinned_bytes(size) == staged_bytes(size) == pinned


def test_a_large_file_is_staged_in_slots_so_that_little_is_pinned_in_vain() -> None:
    assert staged_bytes(9 << 30) == 9 << 30 < pinned_bytes(9 << 30)
    assert staged_bytes(2 * SLOT_BYTES + 4097) == 2 * SLOT_BYTES + 8192


def test_frozen_weights_have_neither_gradients_nor_moments_and_are_not_saved() -> None:
    sizes = SIZES.model_copy(update={"num_trained_parameters": 10})
    device, _ = memory_per_rank(sizes, training(), on_gpu=True)
    assert device is not None
    assert (device.weights, device.gradients, device.optimizer) == (4000, 40, 80)
    assert checkpoint_bytes(sizes, training()) == 120


def test_ranks_with_models_of_their_own_save_them() -> None:
    assert checkpoint_bytes(SIZES, training(ranks=4)) == ALL
    assert checkpoint_bytes(SIZES, training(ranks=2, strategy="diloco")) == 2 * (ALL + 3 * 4000)
    assert checkpoint_bytes(SIZES, training(ranks=3, strategy="parameter_server")) == ALL + 2 * 4000


TWO_BILLION = SIZES.model_copy(
    update={
        "num_parameters": 2_000_000_000,
        "num_trained_parameters": 2_000_000_000,
        "pinned_shard_bytes": 8_000_000_000,
        "activation_bytes": 20 * GIB,
    }
)
DILOCO = training(ranks=8, batch_size=64, strategy="diloco")


def test_diloco_of_two_billion_fits_a_gpu_of_80_gb() -> None:
    made = plan(DILOCO, sizes=TWO_BILLION, gpu_bytes=79 * GIB, host_bytes=128 * GIB)
    check_fits(made, DILOCO)
    text = plan_text(made, DILOCO)
    assert "GPU memory   49.80 GiB a rank at most: weights 7.45 GiB, gradients 7.45 GiB, optimizer 14.90 GiB" in text
    assert "a GPU has 79.00 GiB a rank: fits" in text
    assert "Host memory  106.35 GiB a rank at most: exchange 59.60 GiB, checkpoint 44.75 GiB, process 2.00 GiB" in text
    assert "this machine has 128.00 GiB a rank: fits" in text


def test_a_host_that_is_too_small_for_its_gpus_is_refused_with_numbers_and_a_way_out() -> None:
    made = plan(DILOCO, sizes=TWO_BILLION, gpu_bytes=79 * GIB, host_bytes=64 * GIB)
    with pytest.raises(BadInput) as refused:
        check_fits(made, DILOCO)
    assert str(refused.value) == (
        "training: a rank needs 106.35 GiB, this machine has 64.00 GiB for it; try more memory for each machine "
        "(resources.train.memory), or fewer ranks on each (resources.train.nodes)"
    )
    text = plan_text(made, DILOCO)
    assert "a GPU has 79.00 GiB a rank: fits" in text
    assert "this machine has 64.00 GiB a rank: TOO SMALL" in text


def test_a_gpu_that_is_too_small_is_refused_with_numbers_and_a_way_out() -> None:
    config = training(batch_size=16)
    check_fits(plan(config), config)
    too_large = r"a rank needs 0\.00 GiB, a GPU has 0\.00 GiB for it; try training\.accumulation_steps 2"
    with pytest.raises(BadInput, match=too_large):
        check_fits(plan(config, gpu_bytes=10_000), config)


def test_both_memories_that_are_too_small_are_told_at_once() -> None:
    config = training(ranks=4, strategy=OFFLOADED)
    with pytest.raises(BadInput, match=r"a GPU has .*\. And a rank needs .* training\.strategy\.cpu_offload false"):
        check_fits(plan(config, gpu_bytes=10_000, host_bytes=10_000), config)


def test_without_gpus_a_smaller_batch_is_the_way_out() -> None:
    config = training(batch_size=16)
    with pytest.raises(
        BadInput, match=r"a rank needs 0\.44 GiB, this machine has .* try training\.accumulation_steps 2"
    ):
        check_fits(plan(config, host_bytes=GIB // 4, on_gpu=False), config)


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
    assert text.count("fits") == 2


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


def test_a_plan_of_another_release_is_none(tmp_path: Any) -> None:
    store, architecture, config = Store(f"file://{tmp_path}"), ArchitectureConfig(), training()
    plan(config).keep(store, architecture, config)
    (kept,) = (tmp_path / "plans").iterdir()
    kept.write_text('{"total_tokens": 1, "memory": {"weights": 1}}')
    assert Plan.find(store, architecture, config) is None


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

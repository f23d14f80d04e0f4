"""The training loop of one rank, in this process: precision, accumulation, compilation, and the loader's thread."""

from __future__ import annotations

import functools
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from pipelines.formats.shards import TokenShards
from pipelines.training import loader
from pipelines.training.compilation import compile_layers
from pipelines.training.data import BatchOrder, Share, WindowedTokens
from pipelines.training.loader import Loader
from pipelines.training.loop import FINAL_STEPS
from pipelines.training.loss import NextTokenLoss
from pipelines.training.metrics import Reading, read_metrics
from pipelines.training.model import build_model
from pipelines.training.strategies.single import SingleRank
from tests.loop_case import ARCHITECTURE, VOCABULARY, open_training, write_tokens

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def tokens(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder of tokens."""
    return write_tokens(tmp_path_factory.mktemp("tokens"))


def trained(tokens: Path, folder: Path, **training: Any) -> list[Reading]:
    """Train; return the readings."""
    assert open_training(tokens, folder, **training).run()
    return read_metrics(folder / "work" / "metrics.jsonl")


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_narrow_precision_learns_like_float32(precision: str, tokens: Path, tmp_path: Path) -> None:
    exact = trained(tokens, tmp_path / "fp32")
    narrow = trained(tokens, tmp_path / precision, precision=precision)
    assert exact[-1].loss < 0.9 * exact[0].loss
    assert narrow[-1].loss == pytest.approx(exact[-1].loss, rel=0.01)


def assert_alike(one: list[Reading], other: list[Reading]) -> None:
    """Compare the ends of two trainings: weights would say less, for Adam makes much of the smallest difference."""
    assert (one[-1].loss, one[-1].gradient_norm) == pytest.approx((other[-1].loss, other[-1].gradient_norm), rel=1e-4)


def test_accumulated_micro_batches_give_the_same_step(tokens: Path, tmp_path: Path) -> None:
    whole = trained(tokens, tmp_path / "whole")
    in_parts = trained(tokens, tmp_path / "parts", accumulation_steps=3)
    assert_alike(whole, in_parts)


def test_float16_gradients_that_overflow_change_no_weight_and_halve_the_scale(tokens: Path, tmp_path: Path) -> None:
    training = open_training(tokens, tmp_path, precision="fp16", max_steps=1, warmup_steps=0)
    training._update.restore({"gradient_scaler": {**training._update.progress()["gradient_scaler"], "scale": 1e30}})
    before = [parameter.detach().clone() for parameter in training.model.parameters()]
    assert training.run()
    assert all(torch.equal(one, other) for one, other in zip(before, training.model.parameters(), strict=True))
    assert training._update.progress()["gradient_scaler"]["scale"] == pytest.approx(0.5e30)


def test_the_scale_of_float16_gradients_survives_a_restart(tokens: Path, tmp_path: Path) -> None:
    first = open_training(tokens, tmp_path, precision="fp16", max_steps=8, checkpoint_every_steps=4)
    assert first.run()
    again = open_training(tokens, tmp_path, precision="fp16", max_steps=8, checkpoint_every_steps=4)
    scaler = again._update.progress()["gradient_scaler"]
    assert scaler == first._update.progress()["gradient_scaler"]
    assert scaler["_growth_tracker"] == 8


@pytest.mark.parametrize("size", [pytest.param(1e-3, id="small-enough"), pytest.param(10.0, id="too-large")])
def test_gradients_that_are_clipped_together_have_the_bits_of_those_clipped_one_by_one(size: float) -> None:
    generator = torch.Generator().manual_seed(0)
    gradients = [size * torch.randn(shape, generator=generator) for shape in ((50, 16), (16,), (16, 32), (7, 3, 2))]
    norms, clipped = [], []
    for clip in (SingleRank(CPU).clip, functools.partial(torch.nn.utils.clip_grad_norm_, foreach=False)):
        parameters = [torch.nn.Parameter(torch.zeros_like(gradient)) for gradient in gradients]
        for parameter, gradient in zip(parameters, gradients, strict=True):
            parameter.grad = gradient.clone()
        norms.append(clip(parameters, 1.0))
        clipped.append([parameter.grad for parameter in parameters])
    assert torch.equal(*norms)
    assert all(torch.equal(one, other) for one, other in zip(*clipped, strict=True))
    assert torch.equal(clipped[0][0], gradients[0]) == (norms[0] < 1.0)


def test_equal_trainings_end_with_equal_numbers_whatever_the_clock_says(tokens: Path, tmp_path: Path) -> None:
    readings = [trained(tokens, tmp_path / name)[-2:] for name in ("one", "other")]
    (one_before, one), (_, other) = readings
    assert (one.step, one_before.step) == (24, 24 - FINAL_STEPS)
    assert one.loss == other.loss


@pytest.mark.slow
@pytest.mark.parametrize("activation_checkpointing", [False, True])
def test_compiled_layers_compute_the_same(activation_checkpointing: bool, tokens: Path, tmp_path: Path) -> None:
    plain = trained(tokens, tmp_path / "plain")
    compiled = trained(tokens, tmp_path / "compiled", compile=True, activation_checkpointing=activation_checkpointing)
    assert_alike(plain, compiled)


@pytest.mark.parametrize("model_type", ["llama", "mistral", "qwen2", "qwen3", "gpt_neox", "gpt2"])
def test_all_layers_of_a_model_are_one_graph(model_type: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """More layers than dynamo compiles anew before it gives up; none of them breaks the graph."""
    from torch._dynamo.testing import CompileCounter

    counter, compile_with = CompileCounter(), torch.compile
    monkeypatch.setattr(torch, "compile", lambda function, **how: compile_with(function, backend=counter, **how))
    torch._dynamo.reset()
    architecture = ARCHITECTURE.model_copy(update={"model_type": model_type, "num_layers": 10})
    model = build_model(architecture, vocabulary_size=VOCABULARY, eos_id=0, seed=1)
    compile_layers(model)
    NextTokenLoss(model)(torch.ones(2, 17, dtype=torch.int64)).backward()
    assert counter.frame_count == 1


def open_loader(folder: Path, share: Share) -> tuple[Loader, WindowedTokens, BatchOrder]:
    windows = WindowedTokens(TokenShards.open(folder).split("train"), 16)
    order = BatchOrder(windows.num_windows, batch_size=6, seed=1)
    return Loader(windows, order, share, CPU), windows, order


@pytest.mark.parametrize("block_tokens", [1, 200, 1 << 16])
def test_the_loader_yields_what_the_order_says(
    block_tokens: int, tokens: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loader, "BLOCK_TOKENS", block_tokens)
    share = Share(rank=1, world_size=2, accumulation_steps=3)
    opened, windows, order = open_loader(tokens, share)
    batches = [torch.cat(batch).tolist() for batch in opened.batches(range(5, 55))]  # each before the next is asked for
    rows = np.empty((50 * 3, 17), np.int64)
    windows.read(order.windows(range(5, 55), share).ravel(), rows)
    assert batches == rows.reshape(50, 3, 17).tolist()


def loader_threads() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name.startswith("loader")]


def test_the_loader_reads_ahead_in_one_thread_that_ends_with_the_iterator(tokens: Path) -> None:
    opened, _, _ = open_loader(tokens, Share(0, 1))
    batches = opened.batches(range(1_000_000_000))
    next(batches)
    assert len(loader_threads()) == 1
    batches.close()
    assert loader_threads() == []


def test_what_goes_wrong_in_the_thread_is_raised_where_the_batch_is_taken(
    tokens: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(_windows: object, _rows: object) -> None:
        raise OSError("the disk is gone")

    opened, windows, _ = open_loader(tokens, Share(0, 1))
    monkeypatch.setattr(windows, "read", fail)
    with pytest.raises(OSError, match="the disk is gone"):
        next(opened.batches(range(4)))
    assert loader_threads() == []

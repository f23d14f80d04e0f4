"""The loss without the logits of a whole batch: the same numbers as the plain one, in less memory."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch.nn import functional
from torch.utils._python_dispatch import TorchDispatchMode

from pipelines.training.data import NO_TOKEN
from pipelines.training.loss import IGNORED, chunked_cross_entropy

TOKENS, WIDTH, VOCABULARY = 96, 16, 50

Loss = Callable[[torch.Tensor, torch.Tensor, torch.Tensor], torch.Tensor]


def plain(hidden: torch.Tensor, weight: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    losses = functional.cross_entropy((hidden @ weight.T).float(), targets, ignore_index=IGNORED, reduction="none")
    return losses.mean()


def chunked(hidden: torch.Tensor, weight: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    return chunked_cross_entropy(hidden, weight, targets, chunk_tokens=7)


@pytest.fixture
def alone() -> Iterator[None]:
    """Let this process be the only rank of a group."""
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    yield
    dist.destroy_process_group()


def divided(hidden: torch.Tensor, weight: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    return chunked_cross_entropy(hidden, weight, targets, group=dist.group.WORLD, chunk_tokens=7)


def learn(loss: Loss, *, dtype: torch.dtype = torch.float32, factor: float = 1.0) -> list[torch.Tensor]:
    """Return the loss of some tokens, some of them ignored, and its gradients divided by the factor."""
    generator = torch.Generator().manual_seed(0)
    hidden = torch.randn(TOKENS, WIDTH, generator=generator, requires_grad=True)
    weight = torch.randn(VOCABULARY, WIDTH, generator=generator, requires_grad=True)
    targets = torch.randint(VOCABULARY, (TOKENS,), generator=generator)
    targets[-5:] = IGNORED
    with torch.autocast("cpu", dtype, enabled=dtype is not torch.float32):
        value = loss(hidden, weight, targets)
    value.backward(torch.tensor(factor))
    return [value.detach(), hidden.grad / factor, weight.grad / factor]


@pytest.mark.usefixtures("alone")
@pytest.mark.parametrize("loss", [chunked, divided])
@pytest.mark.parametrize("factor", [1.0, 1 / 3, 65536.0])
def test_loss_and_gradients_are_those_of_the_plain_one(loss: Loss, factor: float) -> None:
    for found, expected in zip(learn(loss, factor=factor), learn(plain), strict=True):
        torch.testing.assert_close(found, expected)


@pytest.mark.usefixtures("alone")
@pytest.mark.parametrize("loss", [chunked, divided])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_narrow_products_are_summed_in_float32(loss: Loss, dtype: torch.dtype) -> None:
    (value, *gradients), (expected_loss, *expected) = learn(loss, dtype=dtype), learn(plain)
    assert value.dtype is torch.float32
    assert value.item() == pytest.approx(expected_loss.item(), rel=2e-3)
    for found, exact in zip(gradients, expected, strict=True):
        assert torch.linalg.vector_norm(found - exact) < 0.02 * torch.linalg.vector_norm(exact)


class Made(TorchDispatchMode):
    """Sees the result of every operation."""

    def __init__(self) -> None:
        super().__init__()
        self.shapes: set[tuple[int, ...]] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Call the operation, and look at what it returns."""
        result = func(*args, **(kwargs or {}))
        for value in result if isinstance(result, tuple | list) else [result]:
            if isinstance(value, torch.Tensor):
                self.shapes.add(tuple(value.shape))
        return result


@pytest.mark.usefixtures("alone")
@pytest.mark.parametrize(
    ("loss", "is_whole"),
    [
        pytest.param(chunked, False, id="chunked"),
        pytest.param(divided, False, id="divided"),
        pytest.param(plain, True, id="control"),
    ],
)
def test_the_logits_of_a_whole_batch_never_exist(loss: Loss, is_whole: bool) -> None:
    with Made() as made:
        learn(loss)
    assert (max(map(math.prod, made.shapes)) >= TOKENS * VOCABULARY) is is_whole


def test_a_token_weighs_the_same_in_whichever_part_of_a_batch_it_is() -> None:
    hidden, weight = torch.randn(TOKENS, WIDTH), torch.randn(VOCABULARY, WIDTH)
    targets = torch.randint(VOCABULARY, (TOKENS,))
    targets[-TOKENS // 3 :] = IGNORED
    parts = [chunked(hidden[part], weight, targets[part]) for part in (slice(TOKENS // 2), slice(TOKENS // 2, None))]
    torch.testing.assert_close(sum(parts) / 2, chunked(hidden, weight, targets))


@pytest.mark.parametrize("is_frozen", [True, False])
def test_the_gradient_of_frozen_output_weights_is_not_computed(is_frozen: bool) -> None:
    hidden = torch.randn(TOKENS, WIDTH, requires_grad=True)
    weight = torch.randn(VOCABULARY, WIDTH, requires_grad=not is_frozen)
    with Made() as made:
        chunked(hidden, weight, torch.zeros(TOKENS, dtype=torch.int64)).backward()
    assert ((VOCABULARY, WIDTH) not in made.shapes) is is_frozen
    assert (weight.grad is None) is is_frozen
    assert hidden.grad is not None


def test_windows_and_loss_mean_the_same_by_no_token() -> None:
    assert NO_TOKEN == IGNORED

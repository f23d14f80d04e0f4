"""The loss that a language model learns by: cross-entropy of the next token, without the logits of a whole batch."""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.tensor import DTensor
from torch.nn import functional

IGNORED = -1
"""In a window: no token. What is beyond the end of the data is neither read nor learnt."""

_CHUNK_LOGITS = {"cpu": 1 << 20, "cuda": 1 << 26}
"""Logits that exist at once: what a processor's cache holds, what fills a GPU."""

_MIN_CHUNK_TOKENS = {"cpu": 256, "cuda": 1024}
"""However large the vocabulary: fewer tokens at once make slow matrix products."""


class NextTokenLoss(nn.Module):  # type: ignore[misc]  # torch is not followed by mypy
    """A causal language model with its loss inside, so that a wrapper sees one forward pass."""

    def __init__(self, model: nn.Module, *, chunk_tokens: int | None = None) -> None:
        """Wrap a model; `chunk_tokens` is as in `chunked_cross_entropy`."""
        super().__init__()
        self.model = model
        self._chunk_tokens = chunk_tokens

    def forward(self, windows: torch.Tensor) -> torch.Tensor:
        """Return the mean cross-entropy in nats of the next token.

        Where there is none it counts as 0, so that a token weighs the same in whichever micro-batch it is.

        Args:
            windows: shape (batch, sequence_length + 1).
        """
        inputs, targets = windows[:, :-1].clamp_min(0), windows[:, 1:].flatten()
        hidden = self.model.base_model(input_ids=inputs, use_cache=False).last_hidden_state.flatten(0, 1)
        head = self.model.get_output_embeddings()
        if isinstance(head.weight, DTensor):  # each rank of a group has the logits of a part of the vocabulary
            group = head.weight.device_mesh.get_group()
            return chunked_cross_entropy(
                hidden, head.weight.to_local(), targets, group=group, chunk_tokens=self._chunk_tokens
            )
        return chunked_cross_entropy(hidden, head.weight, targets, chunk_tokens=self._chunk_tokens)


def suitable_chunk_tokens(device_type: str, vocabulary_size: int) -> int:
    """Return how many rows of logits a device had best have at once."""
    return max(_MIN_CHUNK_TOKENS[device_type], _CHUNK_LOGITS[device_type] // vocabulary_size)


def chunked_cross_entropy(
    hidden: torch.Tensor,
    weight: torch.Tensor,
    targets: torch.Tensor,
    *,
    group: dist.ProcessGroup | None = None,
    chunk_tokens: int | None = None,
) -> torch.Tensor:
    """Return the sum of the cross-entropies of `hidden @ weight.T`, over their number; only some rows exist at once.

    As `torch.nn.functional.linear_cross_entropy` does with options, gradients are computed in the forward pass, so that
    no logits are kept or computed again; but whatever the type of the matrix products, this sums loss and gradients in
    float32: torch 2.13 returns a bfloat16 loss, which has three digits.

    A vocabulary may be divided among ranks, by equal parts in their order: then each has the logits of its part, and
    the loss is the same on all, as Megatron-LM's parallel cross-entropy has it (Shoeybi et al. 2019, section 3).

    Args:
        hidden: shape (tokens, width); with a group the same on all of its ranks.
        weight: of the output layer, shape (vocabulary, width), or this rank's part of it.
        targets: shape (tokens,); IGNORED where there is none.
        group: ranks among which the vocabulary is divided; None: this one has all of it.
        chunk_tokens: most rows of logits at once; None: what suits the device.
    """
    rows = chunk_tokens or suitable_chunk_tokens(hidden.device.type, len(weight))
    loss: torch.Tensor = _ChunkedCrossEntropy.apply(hidden, weight, targets, rows, group)
    return loss


class _ChunkedCrossEntropy(torch.autograd.Function):  # type: ignore[misc]  # torch is not followed by mypy
    @staticmethod
    def forward(  # noqa: PLR0917  # autograd passes all by position
        ctx: Any,
        hidden: torch.Tensor,
        weight: torch.Tensor,
        targets: torch.Tensor,
        chunk_tokens: int,
        group: dist.ProcessGroup | None,
    ) -> torch.Tensor:
        head = weight.to(_product_dtype(hidden))
        is_target = (targets != IGNORED).unsqueeze(1)
        loss = torch.zeros((), device=hidden.device)
        hidden_gradient = torch.empty_like(hidden)
        weight_gradient = torch.zeros_like(weight, dtype=torch.float32) if ctx.needs_input_grad[1] else None
        with torch.autocast(hidden.device.type, enabled=False):
            for start in range(0, len(targets), chunk_tokens):
                rows = slice(start, start + chunk_tokens)
                inputs = hidden[rows].to(head.dtype)
                chunk_loss, logits_gradient = _loss_and_gradient(inputs @ head.T, targets[rows], group)
                loss += chunk_loss
                hidden_gradient[rows] = (logits_gradient @ head) * is_target[rows]
                if weight_gradient is not None:
                    _add_product(weight_gradient, logits_gradient.T, inputs * is_target[rows])
        if group:
            dist.all_reduce(hidden_gradient, group=group)
        ctx.save_for_backward(hidden_gradient, weight_gradient)
        ctx.weight_dtype = weight.dtype
        return loss / len(targets)

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        hidden_gradient, weight_gradient = ctx.saved_tensors
        factor = gradient / len(hidden_gradient)  # only now, in float32: float16 gradients would have vanished
        if weight_gradient is not None:
            weight_gradient = weight_gradient.mul_(factor).to(ctx.weight_dtype)
        return hidden_gradient.mul_(factor), weight_gradient, None, None, None


def _product_dtype(hidden: torch.Tensor) -> torch.dtype:
    kind = hidden.device.type
    return torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else hidden.dtype


def _loss_and_gradient(
    logits: torch.Tensor, targets: torch.Tensor, group: dist.ProcessGroup | None
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the sum of the losses, and the gradient of each as if it were alone, in the type of the logits."""
    if group:
        return _loss_and_gradient_of_part(logits, targets, group)
    log_shares = torch.log_softmax(logits, dim=1, dtype=torch.float32)
    loss = functional.nll_loss(log_shares, targets, ignore_index=IGNORED, reduction="sum")
    places = targets.clamp_min(0).unsqueeze(1)
    gradient = log_shares.exp_().scatter_add_(1, places, log_shares.new_full((1, 1), -1.0).expand_as(places))
    return loss, gradient.to(logits.dtype)


def _loss_and_gradient_of_part(
    logits: torch.Tensor, targets: torch.Tensor, group: dist.ProcessGroup
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the same where each rank of a group has the logits of its part of the vocabulary."""
    size = logits.shape[1]
    places = targets - size * dist.get_rank(group)
    is_here = ((places >= 0) & (places < size)).unsqueeze(1)
    places = places.clamp(0, size - 1).unsqueeze(1)
    largest = logits.amax(dim=1, keepdim=True).float()
    dist.all_reduce(largest, dist.ReduceOp.MAX, group)
    distances = logits.float() - largest
    target = distances.gather(1, places) * is_here
    shares = distances.exp_()
    sums = torch.cat([shares.sum(dim=1, keepdim=True), target], dim=1)
    dist.all_reduce(sums, group=group)
    total, target = sums.split(1, dim=1)
    losses = (total.log() - target).masked_fill(targets.unsqueeze(1) == IGNORED, 0)
    gradient = shares.div_(total).scatter_add_(1, places, -is_here.float())
    return losses.sum(), gradient.to(logits.dtype)


def _add_product(total: torch.Tensor, left: torch.Tensor, right: torch.Tensor) -> None:
    if total.dtype == left.dtype:
        total.addmm_(left, right)
    else:
        total += left @ right  # narrow factors, wide sum

"""The loss that a language model learns by: cross-entropy of the next token, without the logits of a whole batch."""

from __future__ import annotations

from typing import Any

import torch
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

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, windows: torch.Tensor) -> torch.Tensor:
        """Return the mean cross-entropy in nats of the next token.

        Where there is none it counts as 0, so that a token weighs the same in whichever micro-batch it is.

        Args:
            windows: shape (batch, sequence_length + 1).
        """
        inputs, targets = windows[:, :-1].clamp_min(0), windows[:, 1:].flatten()
        hidden = self.model.base_model(input_ids=inputs, use_cache=False).last_hidden_state.flatten(0, 1)
        head = self.model.get_output_embeddings()
        if isinstance(head.weight, DTensor):  # the vocabulary is spread over ranks: the head knows how
            logits = head(hidden).float()
            return functional.cross_entropy(logits, targets, ignore_index=IGNORED, reduction="sum") / len(targets)
        return chunked_cross_entropy(hidden, head.weight, targets)


def chunked_cross_entropy(
    hidden: torch.Tensor, weight: torch.Tensor, targets: torch.Tensor, *, chunk_tokens: int | None = None
) -> torch.Tensor:
    """Return the sum of the cross-entropies of `hidden @ weight.T`, over their number; only some rows exist at once.

    As `torch.nn.functional.linear_cross_entropy` does with options, gradients are computed in the forward pass, so that
    no logits are kept or computed again; but whatever the type of the matrix products, this sums loss and gradients in
    float32: torch 2.13 returns a bfloat16 loss, which has three digits.

    Args:
        hidden: shape (tokens, width).
        weight: of the output layer, shape (vocabulary, width).
        targets: shape (tokens,); IGNORED where there is none.
        chunk_tokens: most rows of logits at once; None: what suits the device.
    """
    kind = hidden.device.type
    rows = chunk_tokens or max(_MIN_CHUNK_TOKENS[kind], _CHUNK_LOGITS[kind] // len(weight))
    loss: torch.Tensor = _ChunkedCrossEntropy.apply(hidden, weight, targets, rows)
    return loss


class _ChunkedCrossEntropy(torch.autograd.Function):  # type: ignore[misc]  # torch is not followed by mypy
    @staticmethod
    def forward(
        ctx: Any, hidden: torch.Tensor, weight: torch.Tensor, targets: torch.Tensor, chunk_tokens: int
    ) -> torch.Tensor:
        head = weight.to(_product_dtype(hidden))
        is_target = (targets != IGNORED).unsqueeze(1)
        loss = torch.zeros((), device=hidden.device)
        hidden_gradient = torch.empty_like(hidden)
        weight_gradient = torch.zeros_like(weight, dtype=torch.float32)
        with torch.autocast(hidden.device.type, enabled=False):
            for start in range(0, len(targets), chunk_tokens):
                rows = slice(start, start + chunk_tokens)
                inputs = hidden[rows].to(head.dtype)
                chunk_loss, logits_gradient = _loss_and_gradient(inputs @ head.T, targets[rows])
                loss += chunk_loss
                hidden_gradient[rows] = (logits_gradient @ head) * is_target[rows]
                _add_product(weight_gradient, logits_gradient.T, inputs * is_target[rows])
        ctx.save_for_backward(hidden_gradient, weight_gradient)
        ctx.weight_dtype = weight.dtype
        return loss / len(targets)

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, None, None]:
        hidden_gradient, weight_gradient = ctx.saved_tensors
        factor = gradient / len(hidden_gradient)  # only now, in float32: float16 gradients would have vanished
        return hidden_gradient.mul_(factor), weight_gradient.mul_(factor).to(ctx.weight_dtype), None, None


def _product_dtype(hidden: torch.Tensor) -> torch.dtype:
    kind = hidden.device.type
    return torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else hidden.dtype


def _loss_and_gradient(logits: torch.Tensor, targets: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the sum of the losses, and the gradient of each as if it were alone, in the type of the logits."""
    log_shares = torch.log_softmax(logits, dim=1, dtype=torch.float32)
    loss = functional.nll_loss(log_shares, targets, ignore_index=IGNORED, reduction="sum")
    places = targets.clamp_min(0).unsqueeze(1)
    gradient = log_shares.exp_().scatter_add_(1, places, log_shares.new_full((1, 1), -1.0).expand_as(places))
    return loss, gradient.to(logits.dtype)


def _add_product(total: torch.Tensor, left: torch.Tensor, right: torch.Tensor) -> None:
    if total.dtype == left.dtype:
        total.addmm_(left, right)
    else:
        total += left @ right  # narrow factors, wide sum

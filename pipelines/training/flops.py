"""The arithmetic of a training: what a token takes, and what this device can do."""

from __future__ import annotations

import time

import torch
from torch import nn
from transformers.pytorch_utils import Conv1D

_TRAINED, _FROZEN = 6, 4
"""Operations per weight and token: 2 forward, 2 for the gradient of the input, 2 for the gradient of the weight."""

_ATTENTION = 12
"""Operations per layer, width and position: two products (scores, values), 2 forward and 4 backward each."""

_RATE_SIZES = {"cpu": 768, "cuda": 8192}
_RATE_ROUNDS = 5


def flops_per_token(model: nn.Module, sequence_length: int) -> int:
    """Return the floating-point operations of forward and backward pass per token, by the usual convention.

    Every matrix counts, the head too; looking up embeddings is no arithmetic; attention counts as if it were not
    causal; what activation checkpointing computes again does not count. Chowdhery et al., "PaLM: Scaling Language
    Modeling with Pathways", 2022, appendix B.

    Args:
        model: of `transformers`, also on the meta device, or divided among ranks.
        sequence_length: tokens per sequence.
    """
    matrices = (module.weight for module in model.modules() if isinstance(module, nn.Linear | Conv1D))
    products = sum(weight.numel() * (_TRAINED if weight.requires_grad else _FROZEN) for weight in matrices)
    config = model.config
    head_width = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    width = config.num_attention_heads * head_width
    return int(products + _ATTENTION * config.num_hidden_layers * width * sequence_length)


def matmul_rate(device: torch.device, dtype: torch.dtype) -> float:
    """Return the operations per second of a large matrix product on this device, the best of several.

    The rate that is really there is the measure of a training's speed: data sheets know nothing of clocks, power limits
    and other users.
    """
    size = _RATE_SIZES[device.type]
    left, right = torch.randn(2, size, size, device=device, dtype=dtype)
    seconds = []
    for _ in range(_RATE_ROUNDS):
        started = time.perf_counter()
        torch.mm(left, right)
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        seconds.append(time.perf_counter() - started)
    return float(2 * size**3 / min(seconds))

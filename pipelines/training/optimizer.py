"""AdamW as language models use it."""

from __future__ import annotations

import torch
from torch import nn

from pipelines.spec import TrainingConfig

_FUSED_DEVICES = frozenset({"cpu", "cuda"})


def build_optimizer(model: nn.Module, config: TrainingConfig, device: torch.device) -> torch.optim.AdamW:
    """Return AdamW with weight decay on matrices only; norms and biases are left alone.

    Loshchilov and Hutter, "Decoupled Weight Decay Regularization", 2019.
    """
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    groups = [
        {"params": [p for p in parameters if p.dim() >= 2], "weight_decay": config.weight_decay},
        {"params": [p for p in parameters if p.dim() < 2], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(
        [group for group in groups if group["params"]],
        lr=config.learning_rate,
        betas=(config.beta1, config.beta2),
        fused=device.type in _FUSED_DEVICES,
    )


def set_learning_rate(optimizer: torch.optim.Optimizer, value: float) -> None:
    """Use a learning rate from now on."""
    for group in optimizer.param_groups:
        group["lr"] = value

"""`torch.compile`, layer by layer."""

from __future__ import annotations

import torch
from torch import nn

from pipelines.training.layers import decoder_layers


def compile_layers(model: nn.Module) -> None:
    """Compile what each decoder layer computes, at its first use; equal layers are compiled once.

    What strategies hang around a layer (gathering its weights, computing it again) stays outside, and its parameters
    keep their names.
    """
    for layer in decoder_layers(model):
        layer.forward = torch.compile(layer.forward, dynamic=False)

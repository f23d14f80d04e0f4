"""The decoder layers of a model: the unit in which it is divided among ranks, compiled, and computed again."""

from __future__ import annotations

import functools

from torch import nn
from torch.utils.checkpoint import checkpoint
from transformers.modeling_layers import GradientCheckpointingLayer


def decoder_layers(module: nn.Module) -> list[nn.Module]:
    """Return the decoder layers of a `transformers` model in their order, whatever the model is wrapped in."""
    return [layer for layer in module.modules() if isinstance(layer, GradientCheckpointingLayer)]


def recompute_activations(model: nn.Module) -> None:
    """Keep the input of each decoder layer only; the backward pass computes what happened inside again.

    What strategies hang around a layer stays outside, so its weights are gathered once for both.

    Chen et al., "Training Deep Nets with Sublinear Memory Cost", 2016.
    """
    for layer in decoder_layers(model):
        layer.forward = functools.partial(checkpoint, layer.forward, use_reentrant=False)

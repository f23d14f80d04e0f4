"""The size of a model and of one step, found without computing: on tensors that have a shape and no data."""

from __future__ import annotations

import math
from collections.abc import Iterable

import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.distributed._tools.mem_tracker import MemTracker

from pipelines.spec import ArchitectureConfig, TrainingConfig
from pipelines.training.adapters import attach
from pipelines.training.checkpoints.staging import pinned_bytes
from pipelines.training.flops import flops_per_token
from pipelines.training.layers import decoder_layers, recompute_activations
from pipelines.training.loss import NextTokenLoss, suitable_chunk_tokens
from pipelines.training.model import bare_model, transformers_config
from pipelines.training.planning.facts import Sizes
from pipelines.training.planning.memory import FLOAT, num_shards
from pipelines.training.precision import compute_dtype

_CPU = torch.device("cpu")


def measure_sizes(
    architecture: ArchitectureConfig, training: TrainingConfig, vocabulary_size: int, *, on_gpu: bool
) -> Sizes:
    """Return the sizes of a training.

    Args:
        architecture: of the model.
        training: how it is trained.
        vocabulary_size: entries of its tokenizer.
        on_gpu: whether it is for ranks with GPUs, which take more logits at once.

    Raises:
        BadInput: when the architecture cannot be built, or has no layers of the names that adapters are to have.
    """
    kind = "cuda" if on_gpu else "cpu"
    dtype = compute_dtype(training.precision, torch.device("cuda", 0) if on_gpu else _CPU)
    model = bare_model(transformers_config(architecture, vocabulary_size=vocabulary_size, eos_id=0))
    if training.start.lora:
        attach(model, training.start.lora, base="", revision="")
    if training.activation_checkpointing:
        recompute_activations(model)
    total = _count(model.parameters())
    layers = [_count(layer.parameters()) for layer in decoder_layers(model)]
    shards = num_shards(training)
    return Sizes(
        num_parameters=total,
        num_trained_parameters=_count(p for p in model.parameters() if p.requires_grad),
        largest_layer_parameters=max(layers),
        outer_parameters=total - sum(layers),
        pinned_shard_bytes=sum(pinned_bytes(FLOAT * math.ceil(p.numel() / shards)) for p in model.parameters()),
        flops_per_token=flops_per_token(model, training.sequence_length),
        compute_bytes=dtype.itemsize,
        activation_bytes=_activation_bytes(model, training, dtype, suitable_chunk_tokens(kind, vocabulary_size)),
    )


def _activation_bytes(model: nn.Module, training: TrainingConfig, dtype: torch.dtype, chunk_tokens: int) -> int:
    """Return what a micro-batch needs at the peak of forward and backward pass."""
    sequences = training.batch_size // (training.data_ranks * training.accumulation_steps)
    with FakeTensorMode(allow_non_fake_inputs=True):
        _place_on_host(model)
        module = NextTokenLoss(model, chunk_tokens=chunk_tokens)
        windows = torch.zeros((sequences, training.sequence_length + 1), dtype=torch.long)
        tracker = MemTracker()
        tracker.track_external(module, windows)
        with tracker, torch.autocast("cpu", dtype, enabled=dtype is not torch.float32):
            module(windows).backward()
    peak = tracker.get_tracker_snapshot("peak")[_CPU]
    return int(peak["Activation"] + peak["Temp"])


def _place_on_host(model: nn.Module) -> None:
    """Replace tensors of the meta device by fake ones of the host, where the loss and autocast know what to do.

    `Module.to_empty` would exchange the contents of tensors, which fake ones do not allow. All weights are trained
    here, for the tracker of torch 2.13 knows no frozen ones: beside adapters, activations are then told from above.
    """
    placed: dict[torch.Tensor, torch.Tensor] = {}  # tied weights stay one
    for module in model.modules():
        for name, weight in list(module.named_parameters(recurse=False, remove_duplicate=False)):
            new = nn.Parameter(torch.empty_like(weight, device=_CPU))
            setattr(module, name, placed.setdefault(weight, new))
        for name, buffer in list(module.named_buffers(recurse=False)):
            setattr(module, name, torch.empty_like(buffer, device=_CPU))


def _count(parameters: Iterable[nn.Parameter]) -> int:
    return sum(parameter.numel() for parameter in parameters)

"""Which part of each module a rank of a tensor-parallel group holds, for every architecture.

Shoeybi et al., "Megatron-LM: Training Multi-Billion Parameter Language Models Using Model Parallelism", 2019: the first
matrix of a pair is divided by columns, the second by rows, so that one sum over the ranks follows each pair. Between
pairs every rank holds all activations.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping

import torch
from torch import nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.tensor import DTensor, Partial, Placement, Replicate, Shard, distribute_module, distribute_tensor
from torch.distributed.tensor.parallel import ColwiseParallel, ParallelStyle, RowwiseParallel, SequenceParallel
from transformers import PreTrainedModel

_GPT2_PLAN = {
    "h.*.attn": "fused_heads",
    "h.*.attn.c_attn": "",  # by the line above
    "h.*.attn.c_proj": "transposed_rowwise",
    "h.*.mlp.c_fc": "transposed_colwise",
    "h.*.mlp.c_proj": "transposed_rowwise",
}
"""What `transformers` has no plan for."""


def tensor_plan(model: PreTrainedModel) -> dict[str, ParallelStyle]:
    """Return the style of every module that has parameters of its own, or heads to divide, by name.

    Matrices of layers follow the plan that `transformers` has for an architecture, whose words are torch's styles;
    input and output embeddings are divided by vocabulary; the rest is the same on every rank.
    """
    words = _words(model)
    special = {model.get_input_embeddings(): "vocabulary_in", model.get_output_embeddings(): "vocabulary_out"}
    plan: dict[str, ParallelStyle] = {}
    for name, module in model.named_modules():
        default = "same" if dict(module.named_parameters(recurse=False)) else ""
        if word := special.get(module) or words.get(re.sub(r"\.\d+", ".*", name), default):
            plan[name] = _STYLES[word]()
    return plan


def _words(model: PreTrainedModel) -> dict[str, str]:
    base: Mapping[str, str] = model.config.base_model_tp_plan or _GPT2_PLAN
    return {f"{model.base_model_prefix}.{name}": word for name, word in base.items()}


class Placed(ParallelStyle):  # type: ignore[misc]  # torch is not followed by mypy
    """Divides the parameters of any module as told; its inputs and outputs are plain tensors.

    For what torch has no style of: layers whose matrices are transposed, and modules that every rank computes alike.
    """

    def __init__(
        self,
        parameters: Mapping[str, Placement] | None = None,
        inputs: Placement | None = None,
        outputs: Placement | None = None,
    ) -> None:
        self._parameters = parameters or {}
        self._inputs, self._outputs = inputs or Replicate(), outputs or Replicate()

    def _apply(self, module: nn.Module, device_mesh: DeviceMesh) -> nn.Module:
        return distribute_module(module, device_mesh, self._divide, self._enter, self._leave)

    def _divide(self, _name: str, module: nn.Module, mesh: DeviceMesh) -> None:
        for name, placement in self._parameters.items():
            _divide(module, name, mesh, placement)

    def _enter(self, _module: nn.Module, inputs: tuple[torch.Tensor, ...], mesh: DeviceMesh) -> DTensor:
        return DTensor.from_local(inputs[0], mesh, [self._inputs], run_check=False)

    def _leave(self, _module: nn.Module, output: DTensor, _mesh: DeviceMesh) -> torch.Tensor:
        local: torch.Tensor = output.redistribute(placements=[self._outputs]).to_local()
        return local


class FusedHeads(ParallelStyle):  # type: ignore[misc]  # torch is not followed by mypy
    """Divides GPT-2's attention, whose one matrix holds all queries, then all keys, then all values."""

    def _apply(self, module: nn.Module, device_mesh: DeviceMesh) -> nn.Module:
        module.c_attn = ColumnsOfHeads(module.c_attn, device_mesh)
        module.split_size //= device_mesh.size()
        return module


class ColumnsOfHeads(nn.Module):  # type: ignore[misc]  # torch is not followed by mypy
    """The queries, keys and values of one rank's heads, from a matrix whose columns are not in the order of heads.

    The matrix keeps its order of columns, so that weights and checkpoints are those of any other strategy. It is held
    divided by rows, and gathered when it is used.
    """

    def __init__(self, whole: nn.Module, mesh: DeviceMesh) -> None:
        super().__init__()
        self._mesh = mesh
        self.weight, self.bias = whole.weight, whole.bias
        for name in ("weight", "bias"):
            _divide(self, name, mesh, Shard(0))

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        """Return shape (..., 3 * hidden_size / ranks) for inputs of shape (..., hidden_size)."""
        replicated = DTensor.from_local(hidden, self._mesh, [Replicate()], run_check=False)
        inputs = replicated.to_local(grad_placements=[Partial()])
        return nn.functional.linear(inputs, self._columns(self.weight).T, self._columns(self.bias))

    def _columns(self, parameter: DTensor) -> torch.Tensor:
        """Return this rank's part of queries, keys and values, shape (..., 3 * hidden_size / ranks)."""
        whole = parameter.redistribute(placements=[Replicate()]).to_local(grad_placements=[Partial()])
        parts: torch.Tensor = whole.unflatten(-1, (3, self._mesh.size(), -1))
        return parts[..., self._mesh.get_local_rank(), :].flatten(-2)


_STYLES: Mapping[str, Callable[[], ParallelStyle]] = {
    "colwise": ColwiseParallel,
    "rowwise": RowwiseParallel,
    "replicated_with_grad_allreduce": lambda: SequenceParallel(sequence_dim=2, use_local_output=True),  # of heads
    "transposed_colwise": lambda: Placed({"weight": Shard(1), "bias": Shard(0)}, outputs=Shard(-1)),
    "transposed_rowwise": lambda: Placed({"weight": Shard(0)}, inputs=Shard(-1)),
    "fused_heads": FusedHeads,
    "vocabulary_in": lambda: RowwiseParallel(input_layouts=Replicate()),
    "vocabulary_out": lambda: ColwiseParallel(use_local_output=False),
    "same": Placed,
}


def _divide(module: nn.Module, name: str, mesh: DeviceMesh, placement: Placement) -> None:
    whole = getattr(module, name)
    parameter = nn.Parameter(distribute_tensor(whole, mesh, [placement]), requires_grad=whole.requires_grad)
    module.register_parameter(name, parameter)

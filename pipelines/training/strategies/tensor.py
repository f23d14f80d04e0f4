"""Tensor parallel within groups of ranks, fully sharded data parallel across the groups."""

from __future__ import annotations

import torch
from torch import nn
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.tensor.parallel import parallelize_module
from transformers import PreTrainedConfig, PreTrainedModel

from pipelines.errors import BadInput
from pipelines.spec import TensorConfig
from pipelines.training.strategies.fsdp import FullyShardedDataParallel
from pipelines.training.strategies.tensor_plan import tensor_plan


class TensorParallel(FullyShardedDataParallel):
    """Neighbouring ranks share every matrix, and learn from the same data; across such groups it is `fully_shard`."""

    def __init__(self, device: torch.device, config: TensorConfig, dtype: torch.dtype) -> None:
        self._tensor = config
        super().__init__(device, config, dtype)
        self.data_rank, self.data_world_size = self._data_mesh.get_local_rank(), self._data_mesh.size()

    def shard(self, module: nn.Module) -> nn.Module:
        if problem := self._tensor.misfit(_divided_sizes(module.model)):
            raise BadInput(problem)
        parallelize_module(module.model, self._tensor_mesh, tensor_plan(module.model))
        module.model.tie_weights()
        module.model.get_input_embeddings().register_forward_hook(_arrived)
        return super().shard(module)

    def _open_mesh(self) -> DeviceMesh:
        shape = (self._tensor.data_ranks(self.world_size), self._tensor.tensor_ranks)
        mesh = init_device_mesh(self.device.type, shape, mesh_dim_names=("data", "tensor"))
        mesh._flatten()  # a sum over all ranks is then one exchange, not one for each dimension
        self._tensor_mesh = mesh["tensor"]
        return mesh["data"]


def _divided_sizes(model: PreTrainedModel) -> dict[str, int]:
    """Return what the plan divides, by its name in a spec; here the vocabulary is known too."""
    config = model.config
    return {
        "architecture.num_heads": config.num_attention_heads,
        "architecture.num_key_value_heads": getattr(config, "num_key_value_heads", config.num_attention_heads),
        "architecture.intermediate_size": _intermediate_size(config),
        "preparation.tokenizer.vocabulary_size": config.vocab_size,
    }


def _intermediate_size(config: PreTrainedConfig) -> int:
    size: int = config.n_inner or 4 * config.n_embd if config.model_type == "gpt2" else config.intermediate_size
    return size


def _arrived(_module: nn.Module, _inputs: object, output: torch.Tensor) -> torch.Tensor:
    """Return what an exchange brings once it is there: a compiled layer (torch 2.13) loses its gradient before."""
    return output.clone()

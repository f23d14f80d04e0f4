"""Fully sharded data parallel: each rank holds a part of every weight, gradient and optimizer state."""

from __future__ import annotations

import functools
from collections.abc import Iterator, Sequence

import torch
from torch import nn
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import CPUOffloadPolicy, MixedPrecisionPolicy, OffloadPolicy, fully_shard
from torch.distributed.tensor import DTensor

from pipelines.spec import FsdpConfig, TensorConfig
from pipelines.training.initial import Named, make_room
from pipelines.training.layers import decoder_layers
from pipelines.training.strategies.ranks import Ranks
from pipelines.training.strategies.single import Together


class FullyShardedDataParallel(Ranks, Together):
    """PyTorch's `fully_shard` (FSDP2): a layer is whole only while it computes.

    Weights are gathered, and computed with, in `dtype`. What a rank keeps of them, of the sums of their gradients and
    of the optimizer's state is float32. Gradients are exchanged with every micro-batch rather than the last alone, for
    until then each rank would hold all of them.

    Zhao et al., "PyTorch FSDP: Experiences on Scaling Fully Sharded Data Parallel", 2023.
    """

    def __init__(self, device: torch.device, config: FsdpConfig | TensorConfig, dtype: torch.dtype) -> None:
        super().__init__(device)
        self.data_rank, self.data_world_size = self.rank, self.world_size
        self._config = config
        self._dtype = dtype
        self._data_mesh = self._open_mesh()

    def shard(self, module: nn.Module) -> nn.Module:
        """Divide each decoder layer's weights, and then what is around the layers, over the ranks of a mesh."""
        divide = functools.partial(
            fully_shard,
            mesh=self._data_mesh,
            mp_policy=MixedPrecisionPolicy(param_dtype=self._dtype, reduce_dtype=torch.float32),
            offload_policy=CPUOffloadPolicy() if self._is_offloaded else OffloadPolicy(),
        )
        for layer in decoder_layers(module):
            divide(layer, reshard_after_forward=self._config.reshard_after_forward)
        divide(module)
        make_room(module, "cpu" if self._is_offloaded else self.device)
        return module

    def clip(self, parameters: Sequence[nn.Parameter], max_norm: float) -> torch.Tensor:
        gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
        norm: torch.Tensor = nn.utils.get_total_norm(gradients).full_tensor()
        nn.utils.clip_grads_with_norm_(parameters, max_norm, norm)
        return norm.to(self.device)

    def full_weights(self, model: nn.Module) -> Iterator[Named]:
        for name, weight in model.named_parameters():
            whole = weight.detach().full_tensor() if isinstance(weight, DTensor) else weight.detach()
            yield name, whole.cpu() if self.rank == 0 else whole

    def _open_mesh(self) -> DeviceMesh:
        """Return the ranks among which each parameter is divided by rows."""
        return init_device_mesh(self.device.type, (self.world_size,), mesh_dim_names=("data",))

    @property
    def _is_offloaded(self) -> bool:
        return self._config.cpu_offload and self.device.type == "cuda"  # else everything is on the host anyway

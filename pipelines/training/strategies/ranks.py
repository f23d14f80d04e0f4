"""What ranks tell each other, whatever the strategy."""

from __future__ import annotations

import torch
import torch.distributed as dist


class Ranks:
    """This rank among the others of its process group. Gloo on CPU, NCCL on GPU."""

    def __init__(self, device: torch.device) -> None:
        self.rank, self.world_size, self.device = dist.get_rank(), dist.get_world_size(), device
        self._hosts = dist.new_group(backend="gloo") if device.type == "cuda" else None  # None: the ranks' own group

    def mean(self, values: torch.Tensor) -> torch.Tensor:
        total = values.clone()
        dist.all_reduce(total)
        return total / self.world_size

    def from_first(self, value: int) -> int:
        shared = torch.tensor([value], device=self.device)
        dist.broadcast(shared, src=0)
        return int(shared.item())

    def any_rank(self, claim: bool) -> bool:
        shared = torch.tensor([int(claim)])
        dist.all_reduce(shared, op=dist.ReduceOp.MAX, group=self._hosts)
        return bool(shared.item())

    def agree_to_stop(self, claim: bool) -> bool:
        return self.any_rank(claim)

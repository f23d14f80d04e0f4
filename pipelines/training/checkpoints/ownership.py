"""Which rank saves what, where several hold the same: known to each without a word."""

from __future__ import annotations

import heapq
from collections.abc import Mapping

import torch
from torch.distributed.tensor import DTensor

from pipelines.training.checkpoints.shard import local


def owned(shared: Mapping[str, torch.Tensor], rank: int, world_size: int) -> dict[str, torch.Tensor]:
    """Return those of the shared tensors that one rank saves: its parts of divided ones, its share of whole ones.

    Each rank copies and writes about as much as any other, and nothing twice. Rank 0 saves all scalars, which
    every rank wants: else one that wants its own part of the rest would read every file for them.
    """
    whole = {name: tensor for name, tensor in shared.items() if not isinstance(tensor, DTensor)}
    divided = {name: tensor for name, tensor in shared.items() if isinstance(tensor, DTensor)}
    scalars = {name for name, tensor in whole.items() if tensor.dim() == 0}
    mine = _share({name: tensor.nbytes for name, tensor in whole.items() if name not in scalars}, rank, world_size)
    mine |= scalars if rank == 0 else set()
    parts = {name: tensor for name, tensor in divided.items() if _is_first_holder(tensor) and has_elements(tensor)}
    return {name: tensor for name, tensor in shared.items() if name in mine or name in parts}


def has_elements(tensor: torch.Tensor) -> bool:
    """Return whether this rank holds any part of a tensor; with more ranks than rows, some hold none."""
    return bool(local(tensor).numel() > 0 or tensor.numel() == 0)


def _share(sizes: Mapping[str, int], rank: int, world_size: int) -> set[str]:
    """Return the names that fall to a rank when each, the largest first, goes to the rank with the least so far."""
    loads = [(0, each) for each in range(world_size)]
    mine = set()
    for name, size in sorted(sizes.items(), key=lambda item: (-item[1], item[0])):
        load, least = heapq.heappop(loads)
        heapq.heappush(loads, (load + size, least))
        if least == rank:
            mine.add(name)
    return mine


def _is_first_holder(tensor: DTensor) -> bool:
    """Return whether this rank is the first of those that hold the same part."""
    coordinate = tensor.device_mesh.get_coordinate()
    if coordinate is None:
        return False
    return all(
        position == 0
        for position, placement in zip(coordinate, tensor.placements, strict=True)
        if placement.is_replicate()
    )

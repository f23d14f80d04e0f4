"""What strategies have in common whose ranks do not wait for each other at each step."""

from __future__ import annotations

import torch

from pipelines.training.strategies.ranks import Ranks
from pipelines.training.strategies.single import Whole


class Independent(Ranks, Whole):
    """A rank with a model of its own."""

    def __init__(self, device: torch.device) -> None:
        super().__init__(device)
        self.replica = str(self.rank)

    def mean(self, values: torch.Tensor) -> torch.Tensor:
        """Return this rank's own values: nobody waits for others to tell how it goes."""
        return values

"""Low communication: workers train on their own, and exchange what they have learnt now and then."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor

import torch
import torch.distributed as dist
from torch import nn

from pipelines.spec import DilocoConfig
from pipelines.training.strategies.independent import Independent
from pipelines.training.strategies.rounds import Rounds
from pipelines.training.strategies.vectors import HostCopies, trained_parameters


class Diloco(Independent):
    """AdamW on each worker, and every `inner_steps` an outer Nesterov step along the mean of what they changed.

    Douillard et al., "DiLoCo: Distributed Low-Communication Training of Language Models", 2023. The exchange goes on
    while the next inner steps are taken, as in Douillard et al., "Streaming DiLoCo with overlapping communication",
    2025; what a worker has learnt meanwhile is kept, not mixed: its weights move by as much as the shared ones did.

    A worker that is slow or lost is left out (`Rounds`). One that comes back brings what it has learnt.
    """

    def __init__(self, device: torch.device, config: DilocoConfig, store: dist.Store) -> None:
        super().__init__(device)
        self.data_rank, self.data_world_size = self.rank, self.world_size
        self._config = config
        self._rounds = Rounds(store, self.rank, self.world_size, config.worker_timeout_seconds)
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="diloco")
        self._exchange: Future[bool] | None = None
        """Returns whether all stop."""

        self._unsent_steps = 0
        self._is_told_to_stop = self._all_stop = False

    @property
    def has_lost_ranks(self) -> bool:
        return self._rounds.has_left_out

    def lose_ranks(self) -> None:
        self._rounds.leave_out()

    def wrap(self, module: nn.Module, example: torch.Tensor) -> nn.Module:
        self._copies = HostCopies(trained_parameters(module), self.device)
        self._outer = Outer(self._copies.vector(), self._config)
        self._sent = self._copies.vector()
        self._change = self._copies.vector(extra=1)
        self._share_own_weights()
        return module

    def after_step(self, model: nn.Module, step: int) -> None:
        round_steps, overlap_steps = self._config.inner_steps, self._config.overlap_steps
        self._unsent_steps = step % round_steps
        if self._exchange and (step - overlap_steps) % round_steps == 0:
            self._use_exchange(self._exchange)
        if self._unsent_steps == 0:
            self._begin_exchange()
            if overlap_steps == 0:
                self._take_shared_weights()

    def finish(self, model: nn.Module) -> None:
        """Exchange what was learnt since the last exchange; all workers then hold the same weights."""
        if self._unsent_steps:
            if self._exchange:
                self._use_exchange(self._exchange)
            self._begin_exchange()
        self._take_shared_weights()
        self._copies.wait()  # what the workers remember may yet be overwritten
        self._rounds.leave(self._outer.memory)
        self._thread.shutdown()

    def agree_to_stop(self, claim: bool) -> bool:
        """Return what the last exchange said: workers stop at the same step, without a word between exchanges."""
        self._is_told_to_stop |= claim
        return self._all_stop

    def state(self) -> Mapping[str, torch.Tensor]:
        if self._exchange:
            self._exchange.result()
        return {
            "weights": self._outer.weights.data,
            "momentum": self._outer.momentum,
            "sent": self._sent,
            "unsent_steps": torch.tensor([self._unsent_steps]),
            "is_outcome_unused": torch.tensor([self._exchange is not None]),
        }

    def restore(self, state: Mapping[str, torch.Tensor]) -> None:
        if not state:  # another strategy left its weights
            self._share_own_weights()
            return
        for tensor, name in zip((*self._outer.memory, self._sent), ("weights", "momentum", "sent"), strict=True):
            tensor.copy_(state[name])
        self._unsent_steps = int(state["unsent_steps"].item())
        if state["is_outcome_unused"].item():
            self._measure_change()
            self._exchange = Future()
            self._exchange.set_result(False)

    def _share_own_weights(self) -> None:
        self._copies.read(self._sent)
        self._copies.wait()
        self._outer.weights.copy_(self._sent)

    def _begin_exchange(self) -> None:
        """Send how far this worker went from the shared weights, and whether it was told to stop."""
        self._copies.read(self._sent)
        self._exchange = self._thread.submit(self._average, self._is_told_to_stop)

    def _average(self, is_told_to_stop: bool) -> bool:
        """Move the shared weights with the other workers, while training goes on; return whether all stop."""
        self._copies.wait()
        self._measure_change()
        self._change[-1] = float(is_told_to_stop)
        average = self._rounds.average(self._change, self._outer.memory)
        self._outer.step(average[:-1])
        self._measure_change()
        return bool(average[-1].item() > 0)

    def _measure_change(self) -> None:
        """Note how far the shared weights are from where this worker was."""
        torch.sub(self._outer.weights.data, self._sent, out=self._change[:-1])

    def _take_shared_weights(self) -> None:
        if self._exchange:
            self._end_exchange(self._exchange)
        self._copies.write(self._outer.weights.data)

    def _use_exchange(self, exchange: Future[bool]) -> None:
        """Move this worker's weights by as much as the shared ones moved from where this worker was."""
        self._end_exchange(exchange)
        self._copies.add(self._change[:-1])

    def _end_exchange(self, exchange: Future[bool]) -> None:
        self._all_stop |= exchange.result()
        self._exchange = None


class Outer:
    """The shared weights and their optimizer, on the host."""

    def __init__(self, weights: torch.Tensor, config: DilocoConfig) -> None:
        self.weights = nn.Parameter(weights, requires_grad=False)
        self.momentum = torch.zeros_like(weights)
        self._optimizer = torch.optim.SGD(
            [self.weights],
            lr=config.outer_learning_rate,
            momentum=config.outer_momentum,
            nesterov=config.outer_momentum > 0.0,
        )
        if config.outer_momentum > 0.0:
            self._optimizer.state[self.weights]["momentum_buffer"] = self.momentum

    @property
    def memory(self) -> Sequence[torch.Tensor]:
        """What all workers that took part in all rounds hold alike."""
        return self.weights.data, self.momentum

    def step(self, gradient: torch.Tensor) -> None:
        """Take one step against a gradient: the mean of how far the workers are below the shared weights."""
        self.weights.grad = gradient
        self._optimizer.step()
        self.weights.grad = None

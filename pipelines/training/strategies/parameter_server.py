"""Asynchronous SGD with a parameter server: rank 0 holds the weights, the others send it gradients.

Messages are vectors over gloo's send and receive: `torch.distributed.rpc` would pickle them.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence

import torch
import torch.distributed as dist
from torch import nn

from pipelines.spec import ParameterServerConfig
from pipelines.training.strategies.independent import Independent
from pipelines.training.strategies.vectors import pieces, set_weights, to_vector, trained_parameters

SERVER = 0
"""Rank of the server."""

_NEVER = -1.0


class Server(Independent):
    """Takes gradients from whichever workers have some; each step of its optimizer is taken along as many as workers.

    A worker that has sent its gradient gets the newest weights when it is no further ahead of the slowest worker, and
    of the optimizer, than the bound allows: Ho et al., "More Effective Distributed ML via a Stale Synchronous Parallel
    Parameter Server", 2013. With bound 0 all wait for all, and the weights are those of `ddp`.
    """

    def __init__(self, device: torch.device, config: ParameterServerConfig) -> None:
        super().__init__(device)
        self.data_rank, self.data_world_size = 0, self.world_size - 1  # the loop reads data, which nobody learns from
        self._max_staleness = config.max_staleness
        self._applied = 0
        self._sent = dict.fromkeys(range(1, self.world_size), 0)
        self._waiting = set[int]()
        self._stop_step = _NEVER
        self._step = 0
        self._is_told_to_stop = False

    def wrap(self, module: nn.Module, example: torch.Tensor) -> nn.Module:
        self._trained = trained_parameters(module)
        self._received = Received(self)
        return self._received

    @contextlib.contextmanager
    def micro_batch(self, module: nn.Module, *, last: bool) -> Iterator[None]:
        self._received.is_last = last
        yield

    def receive(self) -> torch.Tensor:
        """Set the gradients to the mean of the next ones to arrive, as many as there are workers.

        Returns:
            The mean of their losses.
        """
        message = torch.empty(sum(parameter.numel() for parameter in self._trained) + 2)
        total = torch.zeros_like(message)
        for _ in self._sent:
            worker = dist.recv(message, group=self._hosts)
            total += message
            self._sent[worker] += 1
            self._waiting.add(worker)
            self._answer()
        mean, (loss, claims) = total[:-2] / len(self._sent), total[-2:] / len(self._sent)
        for parameter, gradient in zip(self._trained, pieces(mean, self._trained), strict=True):
            parameter.grad = gradient.to(parameter)
        self._is_told_to_stop |= bool(claims.item() > 0)
        return loss

    def after_step(self, model: nn.Module, step: int) -> None:
        self._step = step
        self._applied += 1
        self._answer()

    def agree_to_stop(self, claim: bool) -> bool:
        """Return whether it is the step at which all stop: one that no worker has reached when it is told."""
        self._is_told_to_stop |= claim
        if self._is_told_to_stop and self._stop_step == _NEVER:
            self._stop_step = self._step + self._max_staleness + 2
        return self._stop_step != _NEVER and self._step >= self._stop_step

    def _answer(self) -> None:
        """Send the weights to those that may go on."""
        bound = min(self._applied, *self._sent.values()) + self._max_staleness
        ready = sorted(worker for worker in self._waiting if self._sent[worker] <= bound)
        if not ready:
            return
        message = torch.cat([to_vector(self._trained), torch.tensor([self._stop_step])])
        for worker in ready:
            dist.send(message, worker, group=self._hosts)
        self._waiting.difference_update(ready)


class Received(nn.Module):  # type: ignore[misc]  # torch is not followed by mypy
    """What the server calls in place of a model: its loss is the workers', its gradients are theirs."""

    def __init__(self, server: Server) -> None:
        super().__init__()
        self._server = server
        self._micro_batches = 0
        self._anchor = nn.Parameter(torch.zeros((), device=server.device))
        self.is_last = True
        """Whether the next micro-batch is the last of its step."""

    def forward(self, windows: torch.Tensor) -> torch.Tensor:
        """Return a loss whose mean over the micro-batches of a step is the workers'."""
        self._micro_batches += 1
        loss = 0.0 * self._anchor
        if self.is_last:
            loss = loss + self._server.receive().to(self._server.device) * self._micro_batches
            self._micro_batches = 0
        return loss


class Worker(Independent):
    """Sends its gradients to the server, and goes on with the weights that come back; it has no optimizer of its own.

    The loop's optimizer finds no gradients here, and so changes nothing; whether a step is refused the server decides,
    which sees what all workers sent.
    """

    judges = False

    def __init__(self, device: torch.device) -> None:
        super().__init__(device)
        self.data_rank, self.data_world_size = self.rank - 1, self.world_size - 1
        self._losses: list[torch.Tensor] = []
        self._stop_step = _NEVER
        self._step = 0
        self._is_told_to_stop = False

    def wrap(self, module: nn.Module, example: torch.Tensor) -> nn.Module:
        self._trained = trained_parameters(module)
        module.register_forward_hook(lambda _module, _inputs, loss: self._losses.append(loss.detach()))
        return module

    def clip(self, parameters: Sequence[nn.Parameter], max_norm: float) -> torch.Tensor:
        """Send the gradients; the server clips their mean."""
        gradients = [torch.zeros_like(p) if p.grad is None else p.grad for p in self._trained]
        norm: torch.Tensor = nn.utils.get_total_norm(gradients)
        loss = torch.stack(self._losses).mean().cpu()
        told = torch.stack([loss, torch.tensor(float(self._is_told_to_stop))])
        dist.send(torch.cat([to_vector(gradients), told]), SERVER, group=self._hosts)
        self._losses.clear()
        for parameter in self._trained:
            parameter.grad = None
        return norm

    def after_step(self, model: nn.Module, step: int) -> None:
        message = torch.empty(sum(parameter.numel() for parameter in self._trained) + 1)
        dist.recv(message, SERVER, group=self._hosts)
        set_weights(self._trained, message[:-1])
        self._step, self._stop_step = step, float(message[-1])

    def agree_to_stop(self, claim: bool) -> bool:
        """Return whether it is the step at which the server said that all stop."""
        self._is_told_to_stop |= claim
        return self._stop_step != _NEVER and self._step >= self._stop_step

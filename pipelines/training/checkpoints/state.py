"""What a checkpoint remembers of a training, tensor by tensor, under names that no strategy and no wrapper changes.

<owner>/model/<parameter>               trained weights
<owner>/optimizer/<parameter>/<entry>   its moments and steps
<owner>/strategy/<name>                 what the strategy remembers
rank-<rank>/generators/states           random number generators

The owner is `shared` while all ranks hold one model together, and `replica-<replica>` where each has its own.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

import torch
from torch import nn

from pipelines.training.checkpoints.manifest import Manifest, SavedTensor
from pipelines.training.checkpoints.shard import TORCH_DTYPES
from pipelines.training.strategies import Strategy

_SHARED = "shared"
_WRAPPERS = ("_checkpoint_wrapped_module.", "_orig_mod.")
"""What activation checkpointing and compilation add to the names of parameters."""


class TrainingState:
    """Trained weights, optimizer, strategy and random number generators of one rank.

    Weights that are not trained come from where the training started; they are not saved.
    """

    def __init__(self, model: nn.Module, optimizer: torch.optim.Optimizer, strategy: Strategy) -> None:
        self._optimizer = optimizer
        self._strategy = strategy
        self._parameters = dict(_trained(model))
        self._owner = f"replica-{strategy.replica}" if strategy.replica else _SHARED
        self._generators = f"rank-{strategy.rank}/generators/states"

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Shapes of the trained weights, whole, by name."""
        return {name: tuple(parameter.shape) for name, parameter in self._parameters.items()}

    def shared(self) -> dict[str, torch.Tensor]:
        """Return what all ranks hold together: the same tensors everywhere, or each rank its part of them."""
        return dict(self._tensors()) if self._owner == _SHARED else {}

    def own(self) -> dict[str, torch.Tensor]:
        """Return what only this rank holds."""
        replica = {} if self._owner == _SHARED else dict(self._tensors())
        return {**replica, self._generators: generator_states(self._strategy.device)}

    def wanted(self, manifest: Manifest, *, with_strategy: bool) -> dict[str, torch.Tensor]:
        """Return, for each saved tensor that this rank needs, the one that it is read into: the live one, if there is.

        Where there is none yet, as for the moments of a fresh optimizer, it is the one that `adopt` makes live.
        """
        source = self._source(manifest.tensors)
        remembered = self._strategy.state() if with_strategy else {}
        wanted = {}
        for name, saved in manifest.tensors.items():
            owner, kind, rest = name.split("/", 2)
            if owner == source and (kind != "strategy" or with_strategy):
                wanted[name] = self._like(kind, rest, saved, remembered)
        states = generator_states(self._strategy.device)
        saved_states = manifest.tensors.get(self._generators)
        if saved_states is not None and saved_states.shape == tuple(states.shape):
            wanted[self._generators] = states
        return wanted

    def adopt(self, wanted: Mapping[str, torch.Tensor]) -> None:
        """Go on with what was wanted, which now holds this rank's part of the saved values.

        The strategy is given what it remembered; nothing, when another one wrote the checkpoint.
        """
        remembered = {}
        for name, tensor in wanted.items():
            _, kind, rest = name.split("/", 2)
            if kind == "optimizer":
                parameter, _, entry = rest.rpartition("/")
                self._optimizer.state[self._parameters[parameter]][entry] = tensor
            elif kind == "strategy":
                remembered[rest] = tensor
        if self._generators in wanted:
            set_generator_states(wanted[self._generators], self._strategy.device)
        self._strategy.restore(remembered)

    def _tensors(self) -> Iterator[tuple[str, torch.Tensor]]:
        for name, parameter in self._parameters.items():
            yield f"{self._owner}/model/{name}", parameter
            for entry, value in self._optimizer.state.get(parameter, {}).items():
                yield f"{self._owner}/optimizer/{name}/{entry}", value
        for name, value in self._strategy.state().items():
            yield f"{self._owner}/strategy/{name}", value

    def _source(self, saved: Iterable[str]) -> str:
        """Return whose model this rank takes: its own, else that of all together, else the first replica's."""
        owners = {owner for owner, kind, _ in (name.split("/", 2) for name in saved) if kind == "model"}
        return next(owner for owner in (self._owner, _SHARED, *sorted(owners)) if owner in owners)

    def _like(self, kind: str, rest: str, saved: SavedTensor, remembered: Mapping[str, torch.Tensor]) -> torch.Tensor:
        if kind == "model":
            return self._parameters[rest]
        if kind == "optimizer":
            return self._optimizer_entry(*rest.rpartition("/")[::2], saved)
        current = remembered.get(rest)
        if current is not None and tuple(current.shape) == saved.shape:
            return current
        return torch.zeros(saved.shape, dtype=TORCH_DTYPES[saved.dtype], device=self._strategy.device)

    def _optimizer_entry(self, parameter: str, entry: str, saved: SavedTensor) -> torch.Tensor:
        like = self._parameters[parameter]
        current: torch.Tensor | None = self._optimizer.state.get(like, {}).get(entry)
        if current is not None:
            return current
        dtype = TORCH_DTYPES[saved.dtype]
        if tuple(like.shape) == saved.shape:
            return torch.zeros_like(like, dtype=dtype, requires_grad=False)
        return torch.zeros(saved.shape, dtype=dtype, device=like.device)


def generator_states(device: torch.device) -> torch.Tensor:
    """Return the states of this rank's random number generators as bytes, shape (n,)."""
    states = [torch.get_rng_state()]
    if device.type == "cuda":
        states.append(torch.cuda.get_rng_state(device))
    return torch.cat(states)


def set_generator_states(states: torch.Tensor, device: torch.device) -> None:
    """Put back what `generator_states` returned."""
    size = torch.get_rng_state().numel()
    torch.set_rng_state(states[:size].clone())  # given a view, torch reads from the wrong address
    if device.type == "cuda":
        torch.cuda.set_rng_state(states[size:].clone(), device)


def _trained(model: nn.Module) -> Iterator[tuple[str, nn.Parameter]]:
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            yield _unwrapped(name), parameter


def _unwrapped(name: str) -> str:
    for wrapper in _WRAPPERS:
        name = name.replace(wrapper, "")
    return name

"""Low-rank adapters by `peft`: attached to given weights, trained in their place, proved to have moved, merged."""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import nn
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from pipelines.errors import AdapterUnsound, BadInput
from pipelines.spec import LoraConfig
from pipelines.training.initial import Named

if TYPE_CHECKING:
    from peft import PeftModel

_NAME = "default"
"""What peft calls an adapter that is the only one."""

_MOVES = f"lora_B.{_NAME}.weight"
"""Name of a matrix that begins at zero: only a gradient moves it, weight decay does not."""

_PARTS = re.compile(r"\.(base_layer|lora_[AB])\.")
"""In the names of an adapted layer's weights."""


def attach(model: PreTrainedModel, lora: LoraConfig, *, base: str, revision: str) -> PeftModel:
    """Return a model whose own weights are frozen, with adapters beside them.

    Hu et al., "LoRA: Low-Rank Adaptation of Large Language Models", 2021.

    Args:
        model: to be adapted, on the meta device; it is changed.
        lora: what the adapters are.
        base: where the weights came from, which the adapter says that it belongs to.
        revision: of `base`; empty where it has none.

    Raises:
        BadInput: when there is no linear layer of a name that is to be adapted.
    """
    import peft

    _check_targets(model, lora.target_modules)
    model.name_or_path = base
    config = peft.LoraConfig(
        r=lora.rank,
        lora_alpha=lora.alpha,
        lora_dropout=lora.dropout,
        target_modules=list(lora.target_modules) or "all-linear",
        task_type="CAUSAL_LM",
        fan_in_fan_out=model.config.model_type == "gpt2",  # its Conv1D holds the transposed matrix
        revision=revision or None,
    )
    return peft.get_peft_model(model, config, low_cpu_mem_usage=True)  # adapters, too, without weights


def random_adapters(model: nn.Module, seed: int) -> Iterator[Named]:
    """Yield the adapters of a model as they begin; equal arguments give equal ones.

    Args:
        model: as `attach` made it; its adapters are brought to the host.
        seed: of the random numbers.
    """
    from peft.tuners.lora import LoraLayer

    torch.manual_seed(seed)
    for prefix, layer in model.named_modules():
        if isinstance(layer, LoraLayer):
            for matrices in (layer.lora_A, layer.lora_B):
                matrices.to_empty(device="cpu")
            layer.reset_lora_parameters(_NAME, init_lora_weights=True)
            yield from (
                (f"{prefix}.{name}", weight) for name, weight in layer.named_parameters() if ".lora_" in f".{name}"
            )


def merged(
    adapted: PeftModel, weights: Iterable[Named], begun: Callable[[str], torch.Tensor], folder: Path
) -> Iterator[Named]:
    """Yield a model's weights with its adapters merged into them, layer by layer; then save the adapter.

    Args:
        adapted: the model as `attach` made it.
        weights: of the model inside of it, after the training, those of a layer in a row.
        begun: returns a weight as it was given, by its name.
        folder: where the adapter goes, as `peft` reads it.

    Raises:
        AdapterUnsound: at the end, when the adapter did not move, or anything else did.
    """
    model, adapter = adapted.get_base_model(), dict[str, torch.Tensor]()
    still, moved = list[str](), list[str]()
    for name, items in itertools.groupby(weights, key=lambda item: _PARTS.split(item[0])[0]):
        parts = dict(items)
        frozen = {_PARTS.sub(".", key): weight for key, weight in parts.items() if ".lora_" not in key}
        moved += [key for key, weight in frozen.items() if not torch.equal(begun(key).to(weight.dtype), weight)]
        if name in parts:
            yield name, parts[name]
            continue
        own = {key.removeprefix(f"{name}."): weight for key, weight in parts.items()}
        adapter |= {key: weight for key, weight in parts.items() if ".lora_" in key}
        still += [] if own[_MOVES].any() else [name]
        yield from _merged_layer(model.get_submodule(name), name, own)
    _refuse_unsound(still, moved)
    _save(adapted, adapter, folder)


def _merged_layer(layer: nn.Module, name: str, weights: dict[str, torch.Tensor]) -> Iterator[Named]:
    layer.load_state_dict(weights, assign=True)
    layer.merge(safe_merge=True)
    for key, weight in layer.get_base_layer().named_parameters():
        yield f"{name}.{key}", weight.detach()
    layer.to_empty(device="meta")


def _save(adapted: PeftModel, adapter: dict[str, torch.Tensor], folder: Path) -> None:
    config = adapted.peft_config[_NAME]
    config.target_modules = sorted(config.target_modules)  # a set: equal adapters are to be equal bytes
    state = {f"base_model.model.{name}": weight for name, weight in adapter.items()}
    adapted.save_pretrained(folder, state_dict=state, save_embedding_layers=False)
    (folder / "README.md").unlink()  # a form with nothing filled in


def _refuse_unsound(still: list[str], moved: list[str]) -> None:
    """See that every adapter moved, and nothing else did."""
    if still:
        raise AdapterUnsound(
            f"training: the adapters of {len(still)} layers did not move, such as {min(still)}; "
            "raise training.learning_rate, or leave them out of training.start.lora.target_modules"
        )
    if moved:
        raise AdapterUnsound(
            f"training: {len(moved)} frozen weights changed, such as {min(moved)}; the adapter does not belong to "
            "training.start.weights any more; choose another training.strategy"
        )


def _check_targets(model: PreTrainedModel, names: tuple[str, ...]) -> None:
    """See that each name is one of a linear layer: `peft` is content when some of them are."""
    head, kinds = model.get_output_embeddings(), (nn.Linear, Conv1D)
    layers = [name for name, module in model.named_modules() if isinstance(module, kinds) and module is not head]
    known = {name.rpartition(".")[2] for name in layers}
    unknown = sorted(set(names) - known)
    if unknown:
        raise BadInput(
            f"training.start.lora.target_modules: {', '.join(unknown)}: no linear layer of {model.config.model_type} "
            f"has this name; known names: {', '.join(sorted(known))}"
        )

"""Low-rank adapters by `peft`: attached to given weights, trained in their place, proved to have moved, merged."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import nn
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from pipelines.errors import AdapterUnsound, BadInput
from pipelines.spec import LoraConfig

if TYPE_CHECKING:
    from peft import PeftModel

_NAME = "default"
"""What peft calls an adapter that is the only one."""

_MOVES = f".lora_B.{_NAME}"
"""In the names of matrices that begin at zero: only a gradient moves them, weight decay does not."""


def attach(model: PreTrainedModel, lora: LoraConfig, *, base: str, revision: str, seed: int) -> PeftModel:
    """Return a model whose own weights are frozen, with adapters of random weights; equal arguments give equal ones.

    Hu et al., "LoRA: Low-Rank Adaptation of Large Language Models", 2021.

    Args:
        model: to be adapted; it is changed.
        lora: what the adapters are.
        base: where the weights came from, which the adapter says that it belongs to.
        revision: of `base`; empty where it has none.
        seed: of the adapters' weights.

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
    torch.manual_seed(seed)
    return peft.get_peft_model(model, config)


def finish(adapted: PeftModel, weights: Mapping[str, torch.Tensor], folder: Path) -> nn.Module:
    """Save a trained adapter, and return the model with the adapter merged into its weights.

    Args:
        adapted: the model as `attach` returned it when the training began.
        weights: of the model inside of it, after the training.
        folder: where the adapter goes, as `peft` reads it.

    Raises:
        AdapterUnsound: when the adapter did not move, or anything else did.
    """
    model = adapted.get_base_model()
    _check_moved(model, weights)
    model.load_state_dict(weights)
    config = adapted.peft_config[_NAME]
    config.target_modules = sorted(config.target_modules)  # a set: equal adapters are to be equal bytes
    adapted.save_pretrained(folder, save_embedding_layers=False)
    (folder / "README.md").unlink()  # a form with nothing filled in
    merged: nn.Module = adapted.merge_and_unload(safe_merge=True)
    return merged


def _check_moved(begun: nn.Module, weights: Mapping[str, torch.Tensor]) -> None:
    """Compare the weights after a training with those before it: every adapter moved, and nothing else did."""
    before = begun.state_dict()
    trained = {name for name, parameter in begun.named_parameters() if parameter.requires_grad}
    still = [name.partition(_MOVES)[0] for name in trained if _MOVES in name and _equal(before, weights, name)]
    if still:
        raise AdapterUnsound(
            f"training: the adapters of {len(still)} layers did not move, such as {min(still)}; "
            "raise training.learning_rate, or leave them out of training.start.lora.target_modules"
        )
    moved = [name for name in before if name not in trained and not _equal(before, weights, name)]
    if moved:
        raise AdapterUnsound(
            f"training: {len(moved)} frozen weights changed, such as {min(moved)}; the adapter does not belong to "
            "training.start.weights any more; choose another training.strategy"
        )


def _equal(before: Mapping[str, torch.Tensor], after: Mapping[str, torch.Tensor], name: str) -> bool:
    return bool(torch.equal(before[name], after[name].to(before[name].dtype)))


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

"""The model: a `transformers` architecture, and the loss that it learns by."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedConfig

from pipelines.errors import BadInput
from pipelines.spec import ArchitectureConfig

TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json")


def build_model(architecture: ArchitectureConfig, *, vocabulary_size: int, eos_id: int, seed: int) -> nn.Module:
    """Return a model with random weights; equal arguments give equal weights."""
    config = transformers_config(architecture, vocabulary_size=vocabulary_size, eos_id=eos_id)
    torch.manual_seed(seed)
    model: nn.Module = AutoModelForCausalLM.from_config(config, dtype=torch.float32, attn_implementation="sdpa")
    return model


def transformers_config(architecture: ArchitectureConfig, *, vocabulary_size: int, eos_id: int) -> PreTrainedConfig:
    """Translate an architecture into the words of its family in `transformers`; dropout is off, for epochs are few.

    Raises:
        BadInput: when the family cannot have what was asked for.
    """
    if architecture.model_type in _WITHOUT_GROUPS and architecture.num_key_value_heads != architecture.num_heads:
        raise BadInput(
            f"architecture.num_key_value_heads {architecture.num_key_value_heads} must equal num_heads "
            f"{architecture.num_heads} for {architecture.model_type}, which has no grouped-query attention"
        )
    return AutoConfig.for_model(
        architecture.model_type,
        vocab_size=vocabulary_size,
        bos_token_id=eos_id,
        eos_token_id=eos_id,
        pad_token_id=None,
        tie_word_embeddings=architecture.tie_embeddings,
        **_sizes(architecture),
    )


_WITHOUT_GROUPS = frozenset({"gpt2", "gpt_neox"})


def _sizes(architecture: ArchitectureConfig) -> dict[str, Any]:
    if architecture.model_type == "gpt2":
        return {
            "n_embd": architecture.hidden_size,
            "n_inner": architecture.intermediate_size,
            "n_layer": architecture.num_layers,
            "n_head": architecture.num_heads,
            "n_positions": architecture.context_length,
            **dict.fromkeys(("resid_pdrop", "embd_pdrop", "attn_pdrop"), 0.0),
        }
    sizes: dict[str, Any] = {
        "hidden_size": architecture.hidden_size,
        "intermediate_size": architecture.intermediate_size,
        "num_hidden_layers": architecture.num_layers,
        "num_attention_heads": architecture.num_heads,
        "max_position_embeddings": architecture.context_length,
    }
    if architecture.model_type not in _WITHOUT_GROUPS:
        sizes["num_key_value_heads"] = architecture.num_key_value_heads
    if architecture.model_type == "qwen3":
        sizes["head_dim"] = architecture.hidden_size // architecture.num_heads
    if architecture.model_type == "mistral":
        sizes["sliding_window"] = None
    return sizes


def save_model(model: nn.Module, weights: Mapping[str, torch.Tensor], tokenizer: Path, folder: Path) -> None:
    """Write weights, configuration and tokenizer in Hugging Face format; equal weights give equal bytes."""
    model.save_pretrained(folder, state_dict=dict(weights))
    for name in TOKENIZER_FILES:
        shutil.copyfile(tokenizer / name, folder / name)

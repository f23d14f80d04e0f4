"""The model: a `transformers` architecture, first without weights."""

from __future__ import annotations

from typing import Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedConfig, PreTrainedModel

from pipelines.errors import BadInput
from pipelines.spec import ArchitectureConfig
from pipelines.training.initial import place, random_weights


def build_model(architecture: ArchitectureConfig, *, vocabulary_size: int, eos_id: int, seed: int) -> PreTrainedModel:
    """Return a whole model with random weights, on the host; equal arguments give equal weights."""
    config = transformers_config(architecture, vocabulary_size=vocabulary_size, eos_id=eos_id)
    model = bare_model(config).to_empty(device="cpu")
    model.tie_weights()
    place(model, random_weights(bare_model(config), seed))
    return model


def bare_model(config: PreTrainedConfig) -> PreTrainedModel:
    """Return a model without weights: on the meta device, where tensors have shapes and no data."""
    with torch.device("meta"):
        return AutoModelForCausalLM.from_config(config, dtype=torch.float32, attn_implementation="sdpa")


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

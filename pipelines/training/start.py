"""The model as a training begins, and as it is published: random weights, given ones, or given ones with an adapter."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

import torch
from safetensors import SafetensorError
from tokenizers import Tokenizer
from torch import nn
from transformers import AutoConfig, AutoModelForCausalLM, GenerationConfig, PreTrainedConfig, PreTrainedModel

from pipelines.errors import BadInput
from pipelines.formats.shards import TokenShards
from pipelines.spec import ArchitectureConfig, LoraConfig
from pipelines.training import adapters
from pipelines.training.job import TrainingJob
from pipelines.training.model import build_model, save_model

if TYPE_CHECKING:
    from peft import PeftModel

FIELD = "training.start.weights"
_DROPOUTS = ("attention_dropout", "hidden_dropout", "resid_pdrop", "embd_pdrop", "attn_pdrop")


def starting_model(job: TrainingJob) -> nn.Module:
    """Return the model with which a training begins; equal jobs give equal weights.

    Raises:
        BadInput: when the given weights do not fit the spec's architecture, the tokens, or the adapter.
    """
    start, seed = job.training.start, job.training.seed
    if job.start is None:
        shards = TokenShards.open(job.tokens)
        return build_model(job.architecture, vocabulary_size=shards.vocabulary_size, eos_id=shards.eos_id, seed=seed)
    if start.lora:
        return _adapted_model(job, job.start, start.lora).get_base_model()
    torch.manual_seed(seed)
    return _given_model(job, job.start)


def save_trained(job: TrainingJob, model: nn.Module, weights: Mapping[str, torch.Tensor]) -> None:
    """Leave the whole model in Hugging Face format, and its adapter where one was trained.

    Args:
        job: the training.
        model: what was trained.
        weights: the whole model's weights by name, adapters included.

    Raises:
        AdapterUnsound: when the adapter did not move, or anything else did.
    """
    lora = job.training.start.lora
    if job.start is not None and lora:
        model = adapters.finish(_adapted_model(job, job.start, lora), weights, job.adapter_folder)
        weights = model.state_dict()
    save_model(model, weights, job.tokenizer, job.model_folder)


def _adapted_model(job: TrainingJob, folder: Path, lora: LoraConfig) -> PeftModel:
    start = job.training.start
    return adapters.attach(
        _given_model(job, folder),
        lora,
        base=start.weights.removeprefix("hf://"),
        revision=start.revision,
        seed=job.training.seed,
    )


def _given_model(job: TrainingJob, folder: Path) -> PreTrainedModel:
    """Return the model in a folder, in float32, with the spec's end of text and without dropout."""
    shards = TokenShards.open(job.tokens)
    try:
        config = AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    except (OSError, ValueError) as error:
        raise BadInput(f"{FIELD}: config.json cannot be read: {error}") from error
    _check_architecture(config, job.architecture)
    _check_vocabulary(config, shards.vocabulary_size, tokens=job.tokenizer, weights=folder)
    config.eos_token_id = shards.eos_id  # documents end with it; the tokens were made so
    for name in _DROPOUTS:
        if hasattr(config, name):
            setattr(config, name, 0.0)
    model = _load(config, folder)
    model.generation_config = GenerationConfig.from_model_config(config)
    return model.train()


def _load(config: PreTrainedConfig, folder: Path) -> PreTrainedModel:
    try:
        model, info = AutoModelForCausalLM.from_pretrained(
            folder,
            config=config,
            dtype=torch.float32,
            attn_implementation="sdpa",
            use_safetensors=True,
            local_files_only=True,
            output_loading_info=True,
        )
    except (OSError, ValueError, RuntimeError, SafetensorError) as error:
        raise BadInput(
            f"{FIELD}: the weights cannot be loaded as config.json says: {error}; copy them again"
        ) from error
    for problem, names in (("lack", info["missing_keys"]), ("hold what has no place there:", info["unexpected_keys"])):
        if names:  # transformers would go on with random numbers, or without these
            raise BadInput(
                f"{FIELD}: the weights do not fit their config.json: they {problem} {_some(names)}; "
                "give weights and config.json that were saved together"
            )
    return model


def _check_architecture(config: PreTrainedConfig, architecture: ArchitectureConfig) -> None:
    """Compare what the spec says with what the weights are; everything else is taken from the weights."""
    known = get_args(ArchitectureConfig.model_fields["model_type"].annotation)
    if config.model_type not in known:
        raise BadInput(f"{FIELD}: architecture {config.model_type!r} is not one of {', '.join(known)}; give others")
    found = _described(config)
    wrong = {name: value for name, value in found.items() if getattr(architecture, name) != value}
    if wrong:
        given = ", ".join(f"{name} {getattr(architecture, name)}" for name in wrong)
        right = ", ".join(f"{name}: {json.dumps(value)}" for name, value in wrong.items())
        raise BadInput(f"architecture: {given} do not fit {FIELD}; write `architecture: {{{right}}}`")
    if architecture.context_length > config.max_position_embeddings:
        raise BadInput(
            f"architecture.context_length {architecture.context_length} must be at most "
            f"{config.max_position_embeddings}, the positions of {FIELD}"
        )


def _described(config: PreTrainedConfig) -> dict[str, Any]:
    """Return a configuration in the words of the spec; the reverse of `model.transformers_config`."""
    heads = config.num_attention_heads
    width = (config.n_inner or 4 * config.n_embd) if config.model_type == "gpt2" else config.intermediate_size
    return {
        "model_type": config.model_type,
        "hidden_size": config.hidden_size,
        "intermediate_size": width,
        "num_layers": config.num_hidden_layers,
        "num_heads": heads,
        "num_key_value_heads": getattr(config, "num_key_value_heads", None) or heads,
        "tie_embeddings": config.tie_word_embeddings,
    }


def _check_vocabulary(config: PreTrainedConfig, vocabulary_size: int, *, tokens: Path, weights: Path) -> None:
    """See that the tokens mean what they meant to the weights; padded vocabularies are larger than the tokenizer's."""
    way_out = "set preparation.tokenizer.uri to the weights' own tokenizer"
    if vocabulary_size > config.vocab_size:
        raise BadInput(
            f"{FIELD}: the tokens' vocabulary of {vocabulary_size} is larger than the weights' {config.vocab_size}; "
            f"{way_out}"
        )
    own = weights / "tokenizer.json"
    if own.is_file() and _vocabulary(own) != _vocabulary(tokens / "tokenizer.json"):
        raise BadInput(f"{FIELD}: the tokens were not made by the weights' tokenizer; {way_out}")


def _vocabulary(file: Path) -> dict[str, int]:
    vocabulary: dict[str, int] = Tokenizer.from_file(str(file)).get_vocab(with_added_tokens=True)
    return vocabulary


def _some(names: set[str]) -> str:
    shown = sorted(names)[:3]
    return ", ".join(shown) + (f" and {len(names) - len(shown)} more" if len(names) > len(shown) else "")

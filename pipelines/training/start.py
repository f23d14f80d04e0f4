"""The model as a training begins, and as it is published: random weights, given ones, or given ones with an adapter."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

import torch
from tokenizers import Tokenizer
from torch import nn
from transformers import AutoConfig, PreTrainedConfig, PreTrainedModel

from pipelines.errors import BadInput
from pipelines.formats.shards import TokenShards
from pipelines.spec import ArchitectureConfig, LoraConfig
from pipelines.training import adapters
from pipelines.training.export import save_model
from pipelines.training.given import FIELD, GivenWeights
from pipelines.training.initial import Named, buffers, place, random_weights
from pipelines.training.job import TrainingJob
from pipelines.training.model import bare_model, transformers_config

if TYPE_CHECKING:
    from peft import PeftModel

_DROPOUTS = ("attention_dropout", "hidden_dropout", "resid_pdrop", "embd_pdrop", "attn_pdrop")


def model_without_weights(job: TrainingJob) -> nn.Module:
    """Return the model of a training on the meta device, with its adapters where it has some.

    Raises:
        BadInput: when the given weights do not fit the spec's architecture, the tokens, or the adapter.
    """
    if job.start is None:
        shards = TokenShards.open(job.tokens)
        return bare_model(
            transformers_config(job.architecture, vocabulary_size=shards.vocabulary_size, eos_id=shards.eos_id)
        )
    model = bare_model(_given_config(job, job.start))
    GivenWeights(job.start, model)
    return _adapted(job, model, lora).get_base_model() if (lora := job.training.start.lora) else model.train()


def give_weights(job: TrainingJob, model: nn.Module) -> None:
    """Set a model's weights, or this rank's parts of them, to those with which a training begins.

    Equal jobs give equal weights, whatever the strategy.
    """
    start, seed, bare = job.training.start, job.training.seed, bare_model(model.config)
    if job.start is None:
        place(model, random_weights(bare, seed))
        return
    torch.manual_seed(seed)
    GivenWeights(job.start, bare).load(model)
    place(model, buffers(bare))
    if start.lora:
        place(model, adapters.random_adapters(_adapted(job, bare, start.lora).get_base_model(), seed))


def save_trained(job: TrainingJob, model: nn.Module, weights: Iterable[Named]) -> None:
    """Leave the whole model in Hugging Face format, and its adapter where one was trained.

    Args:
        job: the training.
        model: what was trained.
        weights: of the whole model, one by one, adapters included.

    Raises:
        AdapterUnsound: when the adapter did not move, or anything else did.
    """
    lora, bare = job.training.start.lora, bare_model(model.config)
    if job.start is not None and lora:
        begun = GivenWeights(job.start, bare)
        adapted = _adapted(job, bare_model(model.config), lora)
        weights = adapters.merged(adapted, weights, begun.read, job.adapter_folder)
    save_model(bare, weights, job.tokenizer, job.model_folder)


def _adapted(job: TrainingJob, model: PreTrainedModel, lora: LoraConfig) -> PeftModel:
    start = job.training.start
    return adapters.attach(model, lora, base=start.weights.removeprefix("hf://"), revision=start.revision)


def _given_config(job: TrainingJob, folder: Path) -> PreTrainedConfig:
    """Return the configuration in a folder, with the spec's end of text and without dropout."""
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
    return config


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

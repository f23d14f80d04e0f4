"""Load a causal language model from a Hugging Face folder: safetensors and JSON only, never pickle or its code."""

from __future__ import annotations

import json
import logging
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from tokenizers import Tokenizer
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedConfig, PreTrainedModel
from transformers.utils.logging import disable_progress_bar

from pipelines.inference.errors import ModelUnusable

logger = logging.getLogger(__name__)

REQUIRED_FILES = ("config.json", "tokenizer.json")

DEFAULT_POSITIONS = 2048
"""Context of architectures that state no limit of their own."""


@dataclass(frozen=True)
class LoadedModel:
    """Weights, tokenizer and the few facts that generation needs."""

    model: PreTrainedModel
    tokenizer: Tokenizer
    end_tokens: frozenset[int]
    """Tokens that end a text."""

    max_positions: int
    """Longest sequence, prompt and answer together, in tokens."""

    vocab_size: int

    @property
    def end_token(self) -> int | None:
        """The token that separates documents; None when the model has none."""
        return min(self.end_tokens, default=None)


def load_model(folder: Path, *, dtype: torch.dtype = torch.float32) -> LoadedModel:
    """Return the model in `folder`, on the CPU, ready for inference.

    Raises:
        ModelUnusable: when a file or a weight is missing, or the architecture keeps state that the engine cannot hold.
    """
    started = time.monotonic()
    for name in REQUIRED_FILES:
        if not (folder / name).is_file():
            raise ModelUnusable(f"model folder {folder} has no {name}; it must be a Hugging Face model folder")
    if not any(folder.glob("*.safetensors")):
        raise ModelUnusable(f"model folder {folder} has no safetensors weights; other formats are never read")
    try:
        config = AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
        positions = _max_positions(config)
        model = _load_weights(folder, dtype)
    except (OSError, ValueError, RuntimeError, SafetensorError) as error:
        raise ModelUnusable(f"model folder {folder} cannot be loaded: {error}") from error
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    tokenizer.no_padding()
    tokenizer.no_truncation()
    logger.info(
        "loaded %s: %.1f M parameters, context %d, %.1f s",
        type(model).__name__,
        model.num_parameters() / 1e6,
        positions,
        time.monotonic() - started,
    )
    return LoadedModel(model, tokenizer, _end_tokens(folder, config), positions, int(config.vocab_size))


def _load_weights(folder: Path, dtype: torch.dtype) -> PreTrainedModel:
    disable_progress_bar()
    model, info = AutoModelForCausalLM.from_pretrained(
        folder,
        dtype=dtype,
        use_safetensors=True,
        local_files_only=True,
        trust_remote_code=False,
        output_loading_info=True,
    )
    if info["missing_keys"]:  # transformers would go on with random numbers in their place
        raise ModelUnusable(f"model folder {folder} lacks weights: {', '.join(sorted(info['missing_keys']))}")
    return model.eval().requires_grad_(requires_grad=False)


def _end_tokens(folder: Path, config: PreTrainedConfig) -> frozenset[int]:
    """Return the tokens that end a text: generation_config.json has the last word, as in `transformers`."""
    path = folder / "generation_config.json"
    settings: dict[str, Any] = json.loads(path.read_text("utf-8")) if path.is_file() else {}
    value = settings.get("eos_token_id", getattr(config, "eos_token_id", None))
    if value is None:
        return frozenset()
    return frozenset([value] if isinstance(value, int) else value)


def _max_positions(config: PreTrainedConfig) -> int:
    """Return the longest context in which every layer sees every earlier token.

    Inside a sliding window a windowed layer is a full one, so the window bounds the context instead of the mask.
    """
    layers = set(getattr(config, "layer_types", None) or ["full_attention"])
    windowed = "sliding_attention" in layers or config.model_type == "mistral"
    unknown = layers - {"full_attention", "sliding_attention"}
    if unknown or getattr(config, "is_encoder_decoder", False):
        kinds = ", ".join(sorted(unknown)) or "an encoder"
        raise ModelUnusable(
            f"architecture {config.model_type} has {kinds}; the engine runs decoders with full attention"
        )
    positions = int(getattr(config, "max_position_embeddings", None) or DEFAULT_POSITIONS)
    window = getattr(config, "sliding_window", None)
    return min(positions, int(window)) if windowed and window else positions

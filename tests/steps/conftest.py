"""Tiny real models and tokenizers, made on the fly."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.live_s3 import LiveS3

CORPUS = (
    "Return the value of the named attribute of an object. ",
    "Raise an exception if the file does not exist; otherwise open it for reading. ",
    "This module gives access to paths, files and folders: naïve café, 東京, Ωmega, 🙂. ",
    "The quick brown fox jumps over the lazy dog while the iterator yields numbers 0123456789. ",
)
"""Enough text for merges, with characters of two, three and four bytes."""


def make_tokenizer(folder: Path, vocab_size: int = 384) -> Path:
    """Train a byte-level BPE tokenizer into `folder`; `<|endoftext|>` is token 0."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=["<|endoftext|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(CORPUS, trainer)
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer.save(str(folder / "tokenizer.json"))
    return folder


def make_model(
    folder: Path, *, seed: int = 0, vocab_size: int = 384, model_type: str = "llama", **settings: object
) -> Path:
    """Write a random-weight model with its tokenizer to `folder`, in Hugging Face format."""
    import torch
    from tokenizers import Tokenizer
    from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedTokenizerFast

    make_tokenizer(folder, vocab_size)
    sizes: dict[str, object] = {
        "vocab_size": vocab_size,
        "hidden_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "max_position_embeddings": 128,
        "initializer_range": 0.5,  # sharp enough that rounding never decides between two tokens
        "bos_token_id": 0,
        "eos_token_id": 0,
    }
    if model_type != "gpt2":
        sizes["intermediate_size"] = 64
    if model_type in ("llama", "mistral", "qwen2", "qwen3"):
        sizes["num_key_value_heads"] = 2
    torch.manual_seed(seed)
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model(model_type, **sizes | settings), dtype=torch.float32)
    model.save_pretrained(folder)
    wrapped = PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer.from_file(str(folder / "tokenizer.json")), eos_token="<|endoftext|>"
    )
    wrapped.save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def tiny_tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a byte-level BPE tokenizer of 384 entries."""
    return make_tokenizer(tmp_path_factory.mktemp("tokenizer"))


@pytest.fixture(scope="session")
def tiny_model_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a random-weight Llama (hidden 32, 2 layers, vocabulary 384, context 128)."""
    return make_model(tmp_path_factory.mktemp("model"))


@pytest.fixture
def s3_environment(s3: LiveS3, monkeypatch: pytest.MonkeyPatch) -> None:
    """Make this process find the S3 server, and nothing that the machine's own configuration says."""
    import fsspec

    for name, value in s3.environment.items():
        monkeypatch.setenv(name, value)
    for name in ("AWS_SHARED_CREDENTIALS_FILE", "AWS_CONFIG_FILE"):
        monkeypatch.setenv(name, "/nonexistent")
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    fsspec.filesystem("s3").clear_instance_cache()  # a client keeps the address and the credentials that it began with

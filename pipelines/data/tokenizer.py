"""The tokenizer: a byte-level BPE trained on the training split, or an existing one, in Hugging Face form."""

from __future__ import annotations

import hashlib
import json
import posixpath
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipelines.artifacts import canonical_json
from pipelines.data.places import open_place
from pipelines.errors import DataRejected

if TYPE_CHECKING:
    from tokenizers import Tokenizer

TOKENIZER = "tokenizer.json"
SETTINGS = "tokenizer_config.json"
_TEMPLATE = "chat_template.jinja"

END_OF_TEXT = "<|endoftext|>"
ROLES = ("system", "user", "assistant")
_FIELD = "preparation.tokenizer.uri"

CHAT_TEMPLATE = (
    "{% for message in messages %}"
    "{% if message['role'] not in ['system', 'user', 'assistant'] %}"
    "{{ raise_exception('role must be system, user or assistant, got ' + message['role']) }}"
    "{% endif %}"
    "{{ '<|' + message['role'] + '|>' + message['content'] + eos_token }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>' }}{% endif %}"
)
"""One special token per role before what was said, end-of-text after it."""

_SPECIAL_TOKENS = (
    "eos_token",
    "bos_token",
    "pad_token",
    "unk_token",
    "additional_special_tokens",
    "extra_special_tokens",
)
_KEPT_SETTINGS = (*_SPECIAL_TOKENS, "chat_template", "model_max_length", "clean_up_tokenization_spaces")
"""What is taken over of an existing tokenizer's settings; never code to load (`auto_map`)."""


@dataclass(frozen=True)
class TokenizerFiles:
    """A tokenizer as its files; equal tokenizers are equal bytes."""

    tokenizer: bytes
    settings: bytes

    @property
    def digest(self) -> str:
        """sha256 over both files."""
        return hashlib.sha256(
            hashlib.sha256(self.tokenizer).digest() + hashlib.sha256(self.settings).digest()
        ).hexdigest()

    def write(self, folder: Path) -> None:
        """Write the files, as `transformers.AutoTokenizer` loads them."""
        folder.mkdir(parents=True, exist_ok=True)
        (folder / TOKENIZER).write_bytes(self.tokenizer)
        (folder / SETTINGS).write_bytes(self.settings)


def train(texts: Iterable[str], vocabulary_size: int) -> TokenizerFiles:
    """Train a byte-level BPE (Sennrich et al. 2016; bytes as in GPT-2): any text has tokens, and comes back unchanged.

    Args:
        texts: the training split, and nothing else: a tokenizer that has seen validation text flatters it.
        vocabulary_size: entries, 256 bytes and the special tokens included; little text may give fewer.
    """
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    roles = [f"<|{role}|>" for role in ROLES]
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary_size,
        min_frequency=2,
        special_tokens=[END_OF_TEXT, *roles],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    settings = {
        "eos_token": END_OF_TEXT,
        "bos_token": END_OF_TEXT,
        "pad_token": END_OF_TEXT,
        "additional_special_tokens": roles,
        "chat_template": CHAT_TEMPLATE,
    }
    return TokenizerFiles(tokenizer.to_str().encode(), _settings(settings))


def load_existing(uri: str) -> TokenizerFiles:
    """Read an existing tokenizer from a folder, from its `tokenizer.json`, or from hf://owner/name.

    Raises:
        DataRejected: when there is no tokenizer, or none that marks the end of a text.
        StoreUnavailable: when the place cannot be reached at present.
    """
    folder = posixpath.dirname(uri) if uri.endswith(f"/{TOKENIZER}") else uri.rstrip("/")
    place = open_place(folder, (TOKENIZER, SETTINGS, _TEMPLATE), field=_FIELD)
    names = place.names()
    if TOKENIZER not in names:
        raise DataRejected(f"{_FIELD}: no {TOKENIZER} in {folder}; save it with save_pretrained")
    tokenizer = place.read(TOKENIZER)
    settings: dict[str, Any] = {}
    if SETTINGS in names:
        settings = _parse_settings(place.read(SETTINGS), folder)
    if _TEMPLATE in names:
        settings["chat_template"] = place.read(_TEMPLATE).decode()
    kept = {name: _plain(settings[name]) for name in _KEPT_SETTINGS if settings.get(name) is not None}
    files = TokenizerFiles(tokenizer, _settings(kept))
    eos_id(open_for_encoding(files), files, folder)
    return files


def open_for_encoding(files: TokenizerFiles) -> Tokenizer:
    """Return the tokenizer for documents: a special token's name in a text is text, and ends nothing.

    Raises:
        DataRejected: when the bytes are no tokenizer.
    """
    from tokenizers import Tokenizer

    try:
        tokenizer = Tokenizer.from_str(files.tokenizer.decode())
    except Exception as error:  # the library raises nothing more precise
        raise DataRejected(f"{_FIELD}: {TOKENIZER} cannot be read: {error}; save it again") from error
    tokenizer.encode_special_tokens = True
    return tokenizer


def eos_id(tokenizer: Tokenizer, files: TokenizerFiles, origin: str = "the tokenizer") -> int:
    """Return the id of the token that ends every document.

    Raises:
        DataRejected: when the settings name none that is in the vocabulary.
    """
    name = json.loads(files.settings).get("eos_token")
    found = None if name is None else tokenizer.token_to_id(name)
    if found is None:
        raise DataRejected(
            f"{_FIELD}: {origin}: eos_token {name!r} is not in the vocabulary; "
            f"name one in {SETTINGS}: documents end with it"
        )
    return int(found)


def _settings(values: dict[str, Any]) -> bytes:
    return canonical_json(
        {"tokenizer_class": "PreTrainedTokenizerFast", "clean_up_tokenization_spaces": False, **values}
    )


def _parse_settings(data: bytes, folder: str) -> dict[str, Any]:
    try:
        settings = json.loads(data)
    except ValueError as error:
        raise DataRejected(f"{_FIELD}: {folder}/{SETTINGS} is not JSON: {error}") from error
    if not isinstance(settings, dict):
        raise DataRejected(f"{_FIELD}: {folder}/{SETTINGS} is not a JSON object")
    return settings


def _plain(value: Any) -> Any:
    """Return a setting with each special token as its text; transformers may also write it as an object."""
    match value:
        case {"content": str(content)}:
            return content
        case list():
            return [_plain(each) for each in value]
        case _:
            return value

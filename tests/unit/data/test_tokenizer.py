"""The tokenizer: trained or taken over, as files that are equal for equal input."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from pipelines.data import tokenizer
from pipelines.data.tokenizer import END_OF_TEXT, TokenizerFiles
from pipelines.errors import DataRejected

TEXTS = ["Return the value of the attribute. ", "Raise an error if the file is missing: naïve café 東京 🙂. "] * 20


@pytest.fixture(scope="module")
def trained() -> TokenizerFiles:
    return tokenizer.train(TEXTS, 320)


@pytest.mark.parametrize("text", ["the attribute", "日本 🦜 unseen", "", " \n\t", "\x00"])
def test_any_text_comes_back_unchanged(trained: TokenizerFiles, text: str) -> None:
    encoder = tokenizer.open_for_encoding(trained)

    assert encoder.decode(encoder.encode(text).ids) == text


def test_the_vocabulary_is_as_large_as_asked_for_with_end_of_text_first(trained: TokenizerFiles) -> None:
    encoder = tokenizer.open_for_encoding(trained)

    assert encoder.get_vocab_size() == 320
    assert tokenizer.eos_id(encoder, trained) == 0


def test_equal_texts_give_equal_files(trained: TokenizerFiles) -> None:
    assert tokenizer.train(iter(TEXTS), 320) == trained
    assert tokenizer.train(TEXTS, 321).digest != trained.digest


def test_the_name_of_a_special_token_in_a_document_ends_nothing(trained: TokenizerFiles) -> None:
    encoder = tokenizer.open_for_encoding(trained)

    ids = encoder.encode(f"before {END_OF_TEXT} after <|user|>").ids
    assert 0 not in ids
    assert encoder.token_to_id("<|user|>") not in ids


def test_an_existing_tokenizer_is_taken_over_without_code(trained: TokenizerFiles, tmp_path: Path) -> None:
    trained.write(tmp_path)
    settings = {
        "eos_token": {"content": END_OF_TEXT, "lstrip": False, "__type": "AddedToken"},
        "auto_map": {"AutoTokenizer": ["evil.py", None]},
        "tokenizer_class": "Evil",
        "model_max_length": 512,
    }
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(settings))
    (tmp_path / "chat_template.jinja").write_text("{{ messages }}")

    for uri in (str(tmp_path), str(tmp_path / "tokenizer.json"), f"file://{tmp_path}"):
        files = tokenizer.load_existing(uri)
        assert files.tokenizer == trained.tokenizer
        assert json.loads(files.settings) == {
            "tokenizer_class": "PreTrainedTokenizerFast",
            "clean_up_tokenization_spaces": False,
            "eos_token": END_OF_TEXT,
            "model_max_length": 512,
            "chat_template": "{{ messages }}",
        }


@pytest.mark.parametrize(
    ("files", "message"),
    [
        pytest.param({"notes.txt": "hello"}, "nothing to read at", id="nothing-there"),
        pytest.param({"tokenizer_config.json": "{}"}, "no tokenizer.json in", id="settings-only"),
        pytest.param({"tokenizer.json": "{"}, "tokenizer.json cannot be read", id="not-a-tokenizer"),
        pytest.param({"tokenizer_config.json": "{", "tokenizer.json": None}, "is not JSON", id="settings-not-json"),
        pytest.param(
            {"tokenizer_config.json": "[]", "tokenizer.json": None}, "not a JSON object", id="settings-a-list"
        ),
        pytest.param({"tokenizer.json": None}, "eos_token None is not in the vocabulary", id="no-end-of-text"),
        pytest.param(
            {"tokenizer.json": None, "tokenizer_config.json": '{"eos_token": "</s>"}'},
            "eos_token '</s>' is not in the vocabulary",
            id="foreign-end-of-text",
        ),
    ],
)
def test_an_unusable_tokenizer_is_refused(
    trained: TokenizerFiles, tmp_path: Path, files: dict[str, str | None], message: str
) -> None:
    for name, content in files.items():
        (tmp_path / name).write_bytes(trained.tokenizer if content is None else content.encode())

    with pytest.raises(DataRejected, match=message):
        tokenizer.load_existing(str(tmp_path))

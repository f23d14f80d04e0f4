"""Preparation: duplicates leave, nothing leaks, and equal inputs give equal artifacts in every process."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from pipelines.artifacts import ArtifactRef, publish
from pipelines.data import dataset, duplicates, sources
from pipelines.errors import DataRejected
from pipelines.formats.shards import TokenShards
from pipelines.settings import Settings
from pipelines.spec import Source
from pipelines.store import Store
from tests.steps.step_run import execute, settings_in

WORDS = (
    "value",
    "return",
    "object",
    "file",
    "error",
    "raise",
    "naïve",
    "名前",
    "path",
    "list",
    "open",
    "count",
    "item",
)
REPOSITORY = Path(__file__).parents[2]


def make_rows(count: int) -> list[dict[str, Any]]:
    """Return unrelated documents of 30 words."""
    chosen = random.Random(7)  # noqa: S311 - texts, no secrets
    return [
        {"id": f"d{number}", "text": " ".join(f"{chosen.choice(WORDS)}{chosen.randrange(99)}" for _ in range(30))}
        for number in range(count)
    ]


def validated(folder: Path, rows: list[dict[str, Any]]) -> tuple[Settings, dict[str, Any], dict[str, Any]]:
    """Return settings, spec and inputs as validation leaves them, in a folder of its own."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    source = Source(kind="jsonl", uri=str(folder / "rows.jsonl"))
    corpus = sources.read(source)
    dataset.write(corpus.table, folder / "dataset")
    settings = settings_in(folder)
    ref = publish(Store(settings.store_url()), "dataset", folder / "dataset")
    spec = {
        "data": {"source": source.model_dump(mode="json")},
        "preparation": {"tokenizer": {"vocabulary_size": 400}, "shard_tokens": 2048},
    }
    return settings, spec, {"dataset": ref.model_dump(), "source_digest": corpus.digest}


def folder_of(settings: Settings, ref: dict[str, str]) -> Path:
    path = Store(settings.store_url()).local_path(ArtifactRef.model_validate(ref).uri)
    assert path is not None
    return path


def test_documents_become_shards_that_decode_to_them(tmp_path: Path) -> None:
    from tokenizers import Tokenizer

    rows = make_rows(300)
    settings, spec, inputs = validated(tmp_path, rows)

    result = execute("prepare", settings, spec, inputs).result

    shards = TokenShards.open(folder_of(settings, result["tokens"]))
    tokenizer = Tokenizer.from_file(str(folder_of(settings, result["tokenizer"]) / "tokenizer.json"))
    texts = {row["id"]: row["text"] for row in rows}
    seen = {}
    for name in ("train", "validation"):
        split = shards.split(name)
        for position, document in enumerate(shards.documents(name)):
            *tokens, last = split.document(position).tolist()
            assert last == shards.eos_id
            seen[document.id] = tokenizer.decode(tokens)
    assert seen == texts
    assert [document.text for document in shards.documents("validation")] == [
        texts[document.id] for document in shards.documents("validation")
    ]
    assert result["num_documents"] == 300 == result["num_train_documents"] + result["num_validation_documents"]
    assert result["num_train_tokens"] == len(shards.split("train"))
    assert result["num_validation_tokens"] == len(shards.split("validation"))
    assert result["vocabulary_size"] == shards.vocabulary_size == tokenizer.get_vocab_size() == 400


def test_duplicates_and_empty_documents_leave_and_are_counted(tmp_path: Path) -> None:
    rows = make_rows(200)
    rows += [{"id": f"copy{number}", "text": f"  {rows[number]['text']}\n"} for number in range(5)]
    rows += [{"id": f"near{number}", "text": f"{rows[number]['text']} end"} for number in range(3)]
    rows += [{"id": "none", "text": None}, {"id": "blank", "text": " \n"}]
    settings, spec, inputs = validated(tmp_path, rows)

    result = execute("prepare", settings, spec, inputs).result

    counts = {name: result[f"num_{name}"] for name in ("documents", "exact_duplicates", "near_duplicates", "too_short")}
    assert counts == {"documents": 200, "exact_duplicates": 5, "near_duplicates": 3, "too_short": 2}
    shards = TokenShards.open(folder_of(settings, result["tokens"]))
    kept = {document.id for name in ("train", "validation") for document in shards.documents(name)}
    assert kept == {row["id"] for row in rows[:200]}


@pytest.mark.parametrize("overlooked", ["find_exact", "find_near"])
def test_a_duplicate_that_removal_overlooks_is_caught_as_a_leak(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, overlooked: str
) -> None:
    rows = make_rows(200)
    added = "" if overlooked == "find_exact" else " end"
    rows += [{"id": f"copy{number}", "text": rows[number]["text"] + added} for number in range(200)]
    settings, spec, inputs = validated(tmp_path, rows)
    if overlooked == "find_exact":
        spec["preparation"]["near_duplicate_threshold"] = 1.0
    monkeypatch.setattr(duplicates, overlooked, lambda *_, **__: [])

    with pytest.raises(DataRejected, match=r"leakage: \d+ of \d+ validation documents have a duplicate in train"):
        execute("prepare", settings, spec, inputs)
    assert not (tmp_path / "store" / "artifacts" / "tokens").exists()


def test_the_tokenizer_has_not_seen_validation(tmp_path: Path) -> None:
    """With other validation documents only, the tokenizer stays byte for byte the same."""
    from pipelines.data.splits import is_validation

    rows = make_rows(300)
    other = [
        row | {"text": row["text"].upper()} if is_validation(row["id"], fraction=0.08, seed=0) else row for row in rows
    ]
    results = [
        execute("prepare", *validated(tmp_path / name, content)).result
        for name, content in (("one", rows), ("other", other))
    ]

    assert results[0]["tokenizer"] == results[1]["tokenizer"]
    assert results[0]["tokens"] != results[1]["tokens"]


def test_a_source_that_changed_after_validation_stops_the_run(tmp_path: Path) -> None:
    rows = make_rows(100)
    settings, spec, inputs = validated(tmp_path, rows)
    execute("prepare", settings, spec, inputs)
    with (tmp_path / "rows.jsonl").open("a", encoding="utf-8") as file:
        file.write('{"id": "late", "text": "too late"}\n')

    with pytest.raises(DataRejected, match=r"rows\.jsonl changed after it was validated: sha256 .*trigger a new run"):
        execute("prepare", settings, spec, inputs, run_id="r2")


def test_too_few_documents_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DataRejected, match="no document of 2 falls into validation"):
        execute("prepare", *validated(tmp_path, make_rows(2)))


PROCESS = """
import json, sys
from pathlib import Path
from tests.steps.test_prepare import execute, make_rows, validated
print(json.dumps(execute("prepare", *validated(Path(sys.argv[1]), make_rows(400))).result, sort_keys=True))
"""


def test_equal_inputs_give_equal_digests_in_every_process_and_folder(tmp_path: Path) -> None:
    results = set()
    for seed, threads in (("1", "1"), ("2", "2"), ("77", "2")):
        environment = os.environ | {"PYTHONHASHSEED": seed, "RAYON_NUM_THREADS": threads}
        command = [sys.executable, "-c", PROCESS, str(tmp_path / f"seed{seed}")]
        done = subprocess.run(command, cwd=REPOSITORY, env=environment, capture_output=True, text=True, check=True)
        results.add(done.stdout)

    assert len(results) == 1


def test_transformers_loads_the_tokenizer_with_its_chat_template(tmp_path: Path) -> None:
    from transformers import AutoTokenizer

    settings, spec, inputs = validated(tmp_path, make_rows(100))
    result = execute("prepare", settings, spec, inputs).result
    loaded = AutoTokenizer.from_pretrained(folder_of(settings, result["tokenizer"]))

    assert (loaded.eos_token, loaded.eos_token_id, loaded.pad_token) == ("<|endoftext|>", 0, "<|endoftext|>")
    assert len(loaded) == result["vocabulary_size"]
    text = "return the naïve 名前"
    assert loaded.decode(loaded(text)["input_ids"]) == text
    chat = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Open?"}]
    assert loaded.apply_chat_template(chat, tokenize=False, add_generation_prompt=True) == (
        "<|system|>Be brief.<|endoftext|><|user|>Open?<|endoftext|><|assistant|>"
    )
    ids = loaded.apply_chat_template(chat, add_generation_prompt=True, return_dict=False)
    assert ids[-1] == loaded.convert_tokens_to_ids("<|assistant|>") < 4
    with pytest.raises(Exception, match="role must be system, user or assistant, got tool"):
        loaded.apply_chat_template([{"role": "tool", "content": "x"}], tokenize=False)


def test_a_saved_tokenizer_is_used_instead_of_a_trained_one(tmp_path: Path) -> None:
    from transformers import AutoTokenizer

    settings, spec, inputs = validated(tmp_path, make_rows(100))
    trained = execute("prepare", settings, spec, inputs).result
    saved = tmp_path / "saved"
    AutoTokenizer.from_pretrained(folder_of(settings, trained["tokenizer"])).save_pretrained(saved)
    spec["preparation"]["tokenizer"] = {"uri": str(saved)}

    result = execute("prepare", settings, spec, inputs, run_id="r2").result

    assert result["vocabulary_size"] == trained["vocabulary_size"]
    shards = [TokenShards.open(folder_of(settings, each["tokens"])).split("train") for each in (trained, result)]
    assert shards[0].slice(0, 500).tolist() == shards[1].slice(0, 500).tolist()
    loaded = AutoTokenizer.from_pretrained(folder_of(settings, result["tokenizer"]))
    chat = [{"role": "user", "content": "Open?"}]
    assert loaded.apply_chat_template(chat, tokenize=False) == "<|user|>Open?<|endoftext|>"

    (saved / "chat_template.jinja").write_text("{{ messages }}")
    assert not execute("prepare", settings, spec, inputs, run_id="r3").reused

"""Token shards: one logical array over many files, and refusal of files that do not belong together."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from pipelines.artifacts import describe
from pipelines.errors import ArtifactCorrupt, BadInput
from pipelines.formats.shards import Document, EncodedDocument, TokenShards, dtype_for, write_shards

EOS = 0


def documents(count: int, *, texts: bool = False) -> list[EncodedDocument]:
    """Return documents of 0 to 6 tokens."""
    return [
        EncodedDocument(f"d{index}", [1 + (index + each) % 90 for each in range(index % 7)], "é" if texts else None)
        for index in range(count)
    ]


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Write shards of 1,024 tokens, so that documents cross borders."""
    folder = tmp_path_factory.mktemp("shards") / "tokens"
    parts = {"train": documents(2000), "validation": documents(30, texts=True)}
    write_shards(folder, parts, vocabulary_size=100, eos_id=EOS, shard_tokens=1024)
    return folder


@pytest.fixture
def folder(written: Path, tmp_path: Path) -> Path:
    """Return a copy of the shards that a test may damage."""
    return shutil.copytree(written, tmp_path / "tokens")


def test_every_document_comes_back_with_its_end_of_text(folder: Path) -> None:
    split = TokenShards.open(folder).split("train")

    for index, document in enumerate(documents(2000)):
        assert split.document(index).tolist() == [*np.asarray(document.tokens).tolist(), EOS]
    assert split.num_documents == 2000
    assert len(split) == split.document_offsets[-1]


@pytest.mark.parametrize(
    ("start", "stop"),
    [
        pytest.param(0, 10, id="inside-one-shard"),
        pytest.param(1020, 1030, id="across-a-border"),
        pytest.param(1000, 3100, id="across-a-whole-shard"),
        pytest.param(1024, 2048, id="exactly-one-shard"),
        pytest.param(1024, 1024, id="nothing"),
    ],
)
def test_a_split_is_one_array_whatever_the_shards(folder: Path, tmp_path: Path, start: int, stop: int) -> None:
    write_shards(tmp_path / "whole", {"train": documents(2000)}, vocabulary_size=100, eos_id=EOS)
    whole = TokenShards.open(tmp_path / "whole").split("train")
    split = TokenShards.open(folder).split("train")

    assert split.slice(start, stop).tolist() == whole.slice(start, stop).tolist()
    assert split.slice(start, stop).dtype == np.uint16


def test_the_end_of_the_split_can_be_read_and_nothing_beyond(folder: Path) -> None:
    split = TokenShards.open(folder).split("train")

    assert split.slice(len(split) - 1, len(split)).tolist() == [EOS]
    with pytest.raises(IndexError, match="split train"):
        split.slice(0, len(split) + 1)


def test_tokens_are_mapped_and_cannot_be_written(folder: Path) -> None:
    with pytest.raises(ValueError, match="read-only"):
        TokenShards.open(folder).split("train").slice(0, 5)[0] = 1


def test_texts_are_kept_for_the_splits_that_give_them(folder: Path) -> None:
    shards = TokenShards.open(folder)

    assert shards.documents("validation")[3] == Document(id="d3", text="é")
    assert shards.documents("train")[3] == Document(id="d3", text="")


def test_equal_documents_give_equal_bytes(folder: Path, tmp_path: Path) -> None:
    parts = {"train": iter(documents(2000)), "validation": documents(30, texts=True)}
    write_shards(tmp_path / "again", parts, vocabulary_size=100, eos_id=EOS, shard_tokens=1024)

    assert describe("tokens", folder).digest == describe("tokens", tmp_path / "again").digest


@pytest.mark.parametrize(("size", "expected"), [(65_536, "uint16"), (65_537, "uint32")])
def test_the_smallest_type_is_chosen(size: int, expected: str) -> None:
    assert dtype_for(size) == expected


def test_large_vocabularies_take_four_bytes(tmp_path: Path) -> None:
    write_shards(tmp_path, {"train": [EncodedDocument("a", [70_000])]}, vocabulary_size=100_000, eos_id=99_999)

    split = TokenShards.open(tmp_path).split("train")
    assert split.document(0).tolist() == [70_000, 99_999]
    assert (tmp_path / "train" / "00000.bin").read_bytes()[:4] == (70_000).to_bytes(4, "little")


@pytest.mark.parametrize(
    ("tokens", "settings", "message"),
    [
        pytest.param([100], {}, r"document 'a'.*must be in 0\.\.99", id="token-outside-the-vocabulary"),
        pytest.param([-1], {}, r"document 'a'.*must be in 0\.\.99", id="negative-token"),
        pytest.param([1], {"eos_id": 100}, "eos_id 100 must be in", id="eos-outside-the-vocabulary"),
        pytest.param(
            [1], {"vocabulary_size": 70_000, "dtype": "uint16"}, "must be at most 65536 for uint16", id="type-too-small"
        ),
    ],
)
def test_tokens_that_do_not_fit_are_refused(
    tmp_path: Path, tokens: list[int], settings: dict[str, object], message: str
) -> None:
    arguments = {"vocabulary_size": 100, "eos_id": EOS} | settings
    with pytest.raises(BadInput, match=message):
        write_shards(tmp_path, {"train": [EncodedDocument("a", tokens)]}, **arguments)  # type: ignore[arg-type]


def cut_a_shard(folder: Path) -> None:
    path = folder / "train" / "00001.bin"
    path.write_bytes(path.read_bytes()[:-2])


def remove_a_shard(folder: Path) -> None:
    (folder / "train" / "00001.bin").unlink()


def swap_offsets(folder: Path) -> None:
    (folder / "train" / "offsets.npy").write_bytes((folder / "validation" / "offsets.npy").read_bytes())


def pickle_offsets(folder: Path) -> None:
    np.save(folder / "train" / "offsets.npy", np.array([{"a": 1}], object), allow_pickle=True)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (cut_a_shard, "00001.bin has 2046 bytes, index says 2048"),
        (remove_a_shard, "00001.bin is missing"),
        (swap_offsets, "does not match the index"),
        (pickle_offsets, "cannot be read"),
    ],
)
def test_files_that_do_not_match_the_index_are_refused(folder: Path, damage: object, message: str) -> None:
    damage(folder)  # type: ignore[operator]
    with pytest.raises(ArtifactCorrupt, match=message):
        TokenShards.open(folder).split("train")


def test_a_document_list_that_lost_a_line_is_refused(folder: Path) -> None:
    path = folder / "validation" / "documents.jsonl"
    path.write_text("".join(path.read_text(encoding="utf-8").splitlines(keepends=True)[:-1]), encoding="utf-8")
    with pytest.raises(ArtifactCorrupt, match="29 documents in validation, index says 30"):
        TokenShards.open(folder).documents("validation")


def test_a_folder_without_a_valid_index_is_refused(folder: Path) -> None:
    index = json.loads((folder / "index.json").read_text(encoding="utf-8"))
    (folder / "index.json").write_text(json.dumps(index | {"format": "other"}), encoding="utf-8")
    with pytest.raises(ArtifactCorrupt, match=r"no valid index\.json"):
        TokenShards.open(folder)


def test_an_unknown_split_names_the_known_ones(folder: Path) -> None:
    with pytest.raises(BadInput, match=r"'test' is not in .*; splits: train, validation"):
        TokenShards.open(folder).split("test")

"""Token shards: documents as memory-mapped tokens, the form in which training and evaluation read a corpus.

    index.json                      what the rest is
    <split>/00000.bin, 00001.bin    little-endian uint16 or uint32 tokens, no header
    <split>/offsets.npy             int64, one more than there are documents: where each document starts
    <split>/documents.jsonl         one line per document: its id, and its text where evaluation needs it

A split is one logical array: documents one after the other, each with its end-of-text token, in fixed order. A shard
border may fall inside a document.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Self

import numpy as np
import numpy.typing as npt
from pydantic import Field, ValidationError

from pipelines.errors import ArtifactCorrupt, BadInput
from pipelines.spec import Frozen

INDEX = "index.json"

Tokens = npt.NDArray[np.unsignedinteger[Any]]
"""uint16 or uint32, shape (n,)."""
DtypeName = Literal["uint16", "uint32"]

_DTYPES: dict[str, np.dtype[np.unsignedinteger[Any]]] = {"uint16": np.dtype("<u2"), "uint32": np.dtype("<u4")}


class ShardFile(Frozen):
    """One file of tokens."""

    path: str
    """Relative to the folder."""

    num_tokens: int = Field(ge=1)


class SplitIndex(Frozen):
    """One split, such as `train`."""

    shards: tuple[ShardFile, ...]
    num_tokens: int = Field(ge=0)
    num_documents: int = Field(ge=0)


class ShardIndex(Frozen):
    """What `index.json` holds."""

    format: Literal["slipway-token-shards-1"] = "slipway-token-shards-1"
    dtype: DtypeName
    vocabulary_size: int = Field(ge=1)
    eos_id: int = Field(ge=0)
    """Token at the end of every document."""

    splits: dict[str, SplitIndex]


@dataclass(frozen=True, slots=True)
class EncodedDocument:
    """A document on its way into a shard; `tokens` without end-of-text, `text` None where it is not kept."""

    id: str
    tokens: npt.ArrayLike
    text: str | None = None


@dataclass(frozen=True, slots=True)
class Document:
    """A document as a reader gets it; `text` is empty for splits that keep ids only."""

    id: str
    text: str


def dtype_for(vocabulary_size: int) -> DtypeName:
    """Return the smallest type that holds every token of a vocabulary."""
    return "uint16" if vocabulary_size <= 1 << 16 else "uint32"


class TokenSplit:
    """The tokens of one split as one logical, read-only array; the files are memory-mapped."""

    def __init__(self, folder: Path, name: str, index: SplitIndex, dtype: DtypeName) -> None:
        """Map the files of a split.

        Raises:
            ArtifactCorrupt: when files and index disagree.
        """
        self.name = name
        self.num_documents = index.num_documents
        self.dtype = _DTYPES[dtype]
        self._shards = [_map_shard(folder, shard, self.dtype) for shard in index.shards]
        self._starts = np.concatenate([[0], np.cumsum([len(shard) for shard in self._shards], dtype=np.int64)])
        self.document_offsets = _load_offsets(folder / name / "offsets.npy", index)
        """int64, shape (num_documents + 1,): document i is tokens [offsets[i], offsets[i + 1]), end-of-text too."""

    def __len__(self) -> int:
        return int(self._starts[-1])

    def slice(self, start: int, stop: int) -> Tokens:
        """Return tokens start to stop (exclusive): a view inside one shard, a copy across a border.

        Raises:
            IndexError: when the range leaves the split.
        """
        if not 0 <= start <= stop <= len(self):
            raise IndexError(f"tokens {start}..{stop} of split {self.name}, which holds {len(self)}")
        first = int(np.searchsorted(self._starts, start, side="right")) - 1
        parts: list[Tokens] = []
        while start < stop:
            base, end = int(self._starts[first]), min(stop, int(self._starts[first + 1]))
            parts.append(self._shards[first][start - base : end - base])
            start, first = end, first + 1
        if len(parts) == 1:
            return parts[0]
        return np.concatenate(parts) if parts else np.empty(0, self.dtype)

    def fill(self, rows: npt.NDArray[np.int64], starts: npt.NDArray[np.int64]) -> None:
        """Copy the tokens from each start on into a row, shape (len(starts), length), without a loop over starts.

        Raises:
            IndexError: when a row leaves the split.
        """
        length = rows.shape[1]
        order = np.argsort(starts)
        ordered = starts[order]
        begins = np.searchsorted(ordered, self._starts[:-1])
        ends = np.maximum(begins, np.searchsorted(ordered, self._starts[1:] - length, side="right"))
        for number in np.flatnonzero(begins < ends).tolist():
            inside = slice(begins[number], ends[number])
            rows[order[inside]] = _rows(self._shards[number], length)[ordered[inside] - self._starts[number]]
        for begin, end in zip([0, *ends.tolist()], [*begins.tolist(), len(starts)], strict=True):
            for row in order[begin:end].tolist():  # across a border
                rows[row] = self.slice(int(starts[row]), int(starts[row]) + length)

    def document_bounds(self, index: int) -> tuple[int, int]:
        """Return where document `index` starts and stops (exclusive, end-of-text included)."""
        return int(self.document_offsets[index]), int(self.document_offsets[index + 1])

    def document(self, index: int) -> Tokens:
        """Return the tokens of document `index`, end-of-text included."""
        return self.slice(*self.document_bounds(index))


class TokenShards:
    """A folder of token shards, opened for reading."""

    def __init__(self, folder: Path, index: ShardIndex) -> None:
        self.folder = folder
        self.index = index

    @classmethod
    def open(cls, folder: Path) -> Self:
        """Open a folder.

        Raises:
            ArtifactCorrupt: when it has no valid index.
        """
        try:
            return cls(folder, ShardIndex.model_validate_json((folder / INDEX).read_bytes()))
        except (FileNotFoundError, ValidationError) as error:
            raise ArtifactCorrupt(f"token shards in {folder}: no valid {INDEX}: {error}") from error

    @property
    def vocabulary_size(self) -> int:
        """Entries of the tokenizer that made the tokens."""
        return self.index.vocabulary_size

    @property
    def eos_id(self) -> int:
        """Token at the end of every document."""
        return self.index.eos_id

    def split(self, name: str) -> TokenSplit:
        """Return the tokens of a split.

        Raises:
            BadInput: when there is no such split.
            ArtifactCorrupt: when its files and the index disagree.
        """
        return TokenSplit(self.folder, name, self._split_index(name), self.index.dtype)

    def documents(self, name: str) -> list[Document]:
        """Return ids and texts of a split, in the order of its tokens.

        Raises:
            BadInput: when there is no such split.
            ArtifactCorrupt: when their number differs from the index.
        """
        index = self._split_index(name)
        with (self.folder / name / "documents.jsonl").open(encoding="utf-8") as file:
            rows = [json.loads(line) for line in file]
        if len(rows) != index.num_documents:
            raise ArtifactCorrupt(
                f"token shards in {self.folder}: {len(rows)} documents in {name}, index says {index.num_documents}"
            )
        return [Document(id=row["id"], text=row.get("text", "")) for row in rows]

    def _split_index(self, name: str) -> SplitIndex:
        try:
            return self.index.splits[name]
        except KeyError:
            known = ", ".join(sorted(self.index.splits))
            raise BadInput(f"split: {name!r} is not in {self.folder}; splits: {known}") from None


def write_shards(
    folder: Path,
    splits: Mapping[str, Iterable[EncodedDocument]],
    *,
    vocabulary_size: int,
    eos_id: int,
    dtype: DtypeName | None = None,
    shard_tokens: int = 4_000_000,
) -> ShardIndex:
    """Write documents as token shards; equal documents give equal bytes.

    Args:
        folder: where to write; made if absent.
        splits: documents per split; each is consumed once, so that a corpus need not fit in memory.
        vocabulary_size: entries of the tokenizer.
        eos_id: token that ends every document.
        dtype: type of a token on disk; None: the smallest that fits.
        shard_tokens: most tokens per file.

    Raises:
        BadInput: when a token does not fit the vocabulary, or the vocabulary does not fit the type.
    """
    chosen = dtype or dtype_for(vocabulary_size)
    limit = int(np.iinfo(_DTYPES[chosen]).max) + 1
    if vocabulary_size > limit:
        raise BadInput(f"vocabulary_size {vocabulary_size} must be at most {limit} for {chosen}; use uint32")
    if not 0 <= eos_id < vocabulary_size:
        raise BadInput(f"eos_id {eos_id} must be in 0..{vocabulary_size - 1}, the vocabulary")
    index = ShardIndex(
        dtype=chosen,
        vocabulary_size=vocabulary_size,
        eos_id=eos_id,
        splits={
            name: _SplitWriter(folder, name, _DTYPES[chosen], shard_tokens).write(documents, vocabulary_size, eos_id)
            for name, documents in splits.items()
        },
    )
    (folder / INDEX).write_text(json.dumps(index.model_dump(mode="json"), indent=1, sort_keys=True), encoding="utf-8")
    return index


class _SplitWriter:
    """Cut a stream of documents into files of at most `shard_tokens` tokens."""

    def __init__(self, folder: Path, name: str, dtype: np.dtype[np.unsignedinteger[Any]], shard_tokens: int) -> None:
        self._folder = folder
        self._name = name
        self._dtype = dtype
        self._shard_tokens = shard_tokens
        self._waiting: list[Tokens] = []
        self._num_waiting = 0
        self._shards: list[ShardFile] = []

    def write(self, documents: Iterable[EncodedDocument], vocabulary_size: int, eos_id: int) -> SplitIndex:
        """Write all documents of the split."""
        (self._folder / self._name).mkdir(parents=True, exist_ok=True)
        offsets = [0]
        with (self._folder / self._name / "documents.jsonl").open("w", encoding="utf-8", newline="\n") as file:
            for document in documents:
                tokens = _checked(document, vocabulary_size)
                self._add(np.append(tokens, eos_id).astype(self._dtype))
                offsets.append(offsets[-1] + len(tokens) + 1)
                row = {"id": document.id} | ({} if document.text is None else {"text": document.text})
                file.write(json.dumps(row, ensure_ascii=False, separators=(",", ":")) + "\n")
        if self._num_waiting:
            self._flush(self._num_waiting)
        np.save(self._folder / self._name / "offsets.npy", np.asarray(offsets, "<i8"), allow_pickle=False)
        return SplitIndex(shards=tuple(self._shards), num_tokens=offsets[-1], num_documents=len(offsets) - 1)

    def _add(self, tokens: Tokens) -> None:
        self._waiting.append(tokens)
        self._num_waiting += len(tokens)
        while self._num_waiting >= self._shard_tokens:
            self._flush(self._shard_tokens)

    def _flush(self, num_tokens: int) -> None:
        merged = np.concatenate(self._waiting)
        path = f"{self._name}/{len(self._shards):05d}.bin"
        merged[:num_tokens].tofile(self._folder / path)
        self._shards.append(ShardFile(path=path, num_tokens=num_tokens))
        self._waiting = [merged[num_tokens:]]
        self._num_waiting -= num_tokens


def _checked(document: EncodedDocument, vocabulary_size: int) -> npt.NDArray[np.int64]:
    tokens = np.asarray(document.tokens, np.int64)
    if tokens.size and (tokens.min() < 0 or tokens.max() >= vocabulary_size):
        raise BadInput(
            f"document {document.id!r}: tokens {tokens.min()}..{tokens.max()} must be in 0..{vocabulary_size - 1}, "
            "the vocabulary; encode it with the tokenizer that belongs to these shards"
        )
    return tokens


def _map_shard(folder: Path, shard: ShardFile, dtype: np.dtype[np.unsignedinteger[Any]]) -> Tokens:
    path = folder / shard.path
    expected = shard.num_tokens * dtype.itemsize
    actual = path.stat().st_size if path.is_file() else -1
    if actual != expected:
        found = "is missing" if actual < 0 else f"has {actual} bytes"
        raise ArtifactCorrupt(f"token shards in {folder}: {shard.path} {found}, index says {expected} bytes")
    return np.asarray(np.memmap(path, dtype, mode="r"))  # a plain view: slicing the memmap class costs microseconds


def _rows(shard: Tokens, length: int) -> Tokens:
    """Return a view of the `length` tokens from each place on; numpy's own sliding windows take long to make."""
    shape, (step,) = (len(shard) - length + 1, length), shard.strides
    return np.ndarray(shape, shard.dtype, shard, strides=(step, step))


def _load_offsets(path: Path, index: SplitIndex) -> npt.NDArray[np.int64]:
    try:
        offsets = np.load(path, allow_pickle=False)
    except (OSError, ValueError) as error:
        raise ArtifactCorrupt(f"token shards: {path} cannot be read: {error}") from error
    if offsets.shape != (index.num_documents + 1,) or offsets[-1] != index.num_tokens:
        raise ArtifactCorrupt(
            f"token shards: {path} does not match the index: {index.num_documents} documents, {index.num_tokens} tokens"
        )
    return np.asarray(offsets, np.int64)

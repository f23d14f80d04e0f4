"""From a source to one table of documents, with the digest of exactly the bytes that were read."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from pipelines.data import decode, python_docs
from pipelines.data.files import list_files
from pipelines.errors import DataRejected

if TYPE_CHECKING:
    import pyarrow as pa

    from pipelines.spec import Source

_SUFFIXES = {
    "parquet": (".parquet",),
    "jsonl": (".jsonl", ".ndjson", ".json"),
    "csv": (".csv",),
    "text": (".txt", ".md", ".rst"),
}


@dataclass(frozen=True)
class Corpus:
    """All rows of a source: columns `id` and `text`, both strings, then the source's others."""

    table: pa.Table
    digest: str
    """sha256 over names and contents of the files, as `fingerprint` computes it, of the bytes behind `table`."""

    files: tuple[tuple[str, int], ...]
    """Name and number of rows of each file, in the order of the table."""

    def origin(self, row: int) -> str:
        """Return where a row of the table comes from, for messages."""
        for name, num_rows in self.files:
            if row < num_rows:
                return f"{name}, row {row + 1}"
            row -= num_rows
        raise IndexError(f"row {row} is not in the corpus")


def read(source: Source) -> Corpus:
    """Read a source once.

    Raises:
        DataRejected: when it is missing, empty, truncated, wrongly encoded, or of changing schema; names file, place,
            rule and way out.
        StoreUnavailable: when it cannot be reached at present.
    """
    digest = _Digest()
    tables: list[tuple[str, pa.Table]] = []
    for name, data in _contents(source):
        digest.add(name, data)
        tables.append((name, decode.decode(source, name, data)))
    table = decode.normalise(decode.concatenate(tables), source, tables)
    return Corpus(table, digest.hexdigest(), tuple((name, part.num_rows) for name, part in tables))


def fingerprint(source: Source) -> str:
    """Return the sha256 over the names and contents of a source's files: the same bytes, wherever they lie, give one.

    Raises:
        DataRejected: when there is nothing to read.
        StoreUnavailable: when it cannot be reached at present.
    """
    digest = _Digest()
    for name, data in _contents(source):
        digest.add(name, data)
    return digest.hexdigest()


def check_unchanged(source: Source, digest: str) -> None:
    """Compare a source with the digest that validation pinned.

    Raises:
        DataRejected: when its bytes are others now.
        StoreUnavailable: when it cannot be reached at present.
    """
    found = fingerprint(source)
    if found != digest:
        raise DataRejected(
            f"data.source: {source.uri or source.kind} changed after it was validated: "
            f"sha256 {found[:12]} now, {digest[:12]} then; trigger a new run, which validates it as it is now"
        )


class _Digest:
    """A sha256 over names and contents that no other names and contents share."""

    def __init__(self) -> None:
        self._sha256 = hashlib.sha256()

    def add(self, name: str, data: bytes) -> None:
        self._sha256.update(f"{hashlib.sha256(data).hexdigest()} {name!r}\n".encode())

    def hexdigest(self) -> str:
        return self._sha256.hexdigest()


def _contents(source: Source) -> Iterator[tuple[str, bytes]]:
    if source.kind == "python-docs":
        for name, path in python_docs.source_files():
            yield name, path.read_bytes()
    else:
        for file in list_files(source.uri, _SUFFIXES[source.kind]):
            yield file.name, file.read()

"""The dataset artifact: the validated rows as Parquet, the same bytes for the same rows."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from pipelines.data.sources import Corpus
from pipelines.errors import DataRejected

FILE = "documents.parquet"

_SHOWN = 3


def check_identities(corpus: Corpus) -> None:
    """Check that every document has an id of its own: split and evaluation tell documents apart by it.

    Raises:
        DataRejected: names the first offending rows.
    """
    first_row: dict[str, int] = {}
    problems = []
    for row, identity in enumerate(corpus.table["id"].to_pylist()):
        if identity is None:
            problems.append(f"{corpus.origin(row)}: no id")
        elif (before := first_row.setdefault(identity, row)) != row:
            problems.append(f"{corpus.origin(row)}: id {identity!r} is also that of {corpus.origin(before)}")
    if problems:
        shown = "; ".join(problems[:_SHOWN])
        more = f" and {len(problems) - _SHOWN} more" if len(problems) > _SHOWN else ""
        raise DataRejected(f"data.source.id_column: {shown}{more}; every document needs an id of its own")


def write(table: pa.Table, folder: Path) -> None:
    """Write rows to `documents.parquet` in a folder, with fixed settings and nothing about time or machine."""
    folder.mkdir(parents=True, exist_ok=True)
    pq.write_table(
        table.replace_schema_metadata(None),
        folder / FILE,
        version="2.6",
        data_page_version="1.0",
        compression="zstd",
        compression_level=3,
        row_group_size=64 * 1024,
    )


def read(folder: Path, columns: list[str] | None = None) -> pa.Table:
    """Return the rows of a dataset, all columns or some."""
    return pq.read_table(folder / FILE, columns=columns)

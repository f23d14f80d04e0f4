"""From the bytes of one file to a table, and from the tables of all files to one, with errors that name the place."""

from __future__ import annotations

import codecs
import io
import json
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from pipelines.data import python_docs
from pipelines.errors import DataRejected

if TYPE_CHECKING:
    from pipelines.spec import Source

NamedTable = tuple[str, pa.Table]

_MAGIC = b"PAR1"


def decode(source: Source, name: str, data: bytes) -> pa.Table:
    """Return the rows of one file.

    Raises:
        DataRejected: names file, line or row, rule and way out.
    """
    if not data and source.kind != "python-docs":
        raise DataRejected(f"{name}: the file is empty; write it again, or remove it from the source")
    return _DECODERS[source.kind](source, name, data)


def concatenate(tables: Sequence[NamedTable]) -> pa.Table:
    """Return the rows of all files as one table.

    Raises:
        DataRejected: when two files have different columns, or a column of types that do not go together.
    """
    first_name, first = tables[0]
    for name, table in tables[1:]:
        _check_same_columns(first_name, first.column_names, name, table.column_names)
    try:
        return pa.concat_tables([table for _, table in tables], promote_options="permissive")
    except (pa.ArrowInvalid, pa.ArrowTypeError) as error:
        for name, table in tables[1:]:
            for field in table.schema:
                expected = first.schema.field(field.name).type
                if not pa.types.is_null(expected) and field.type not in (expected, pa.null()):
                    raise DataRejected(
                        f"{name}: column '{field.name}' holds {field.type}, in {first_name} it holds {expected}; "
                        "all files of a source have one schema: convert one of them"
                    ) from error
        raise DataRejected(f"the files' schemas do not go together: {error}") from error


def normalise(table: pa.Table, source: Source, files: Sequence[NamedTable]) -> pa.Table:
    """Return the table with string columns `id` and `text` first; a source without ids gets `<file>:<row>`.

    Raises:
        DataRejected: when there is no row, no text column, or one that holds no text.
    """
    if not table.num_rows:
        raise DataRejected(f"data.source: no rows in {len(files)} file(s); check where the data was written")
    text = _text(_column(table, source.text_column, "text_column"), source.text_column)
    if source.id_column in table.column_names:
        ids = table[source.id_column].cast(pa.string())
    elif source.id_column == "id":
        ids = pa.chunked_array([[f"{name}:{row + 1}" for row in range(part.num_rows)] for name, part in files])
    else:
        ids = _column(table, source.id_column, "id_column")
    columns = {"id": ids, "text": text}
    for name in table.column_names:
        if name in (source.text_column, source.id_column):
            continue
        if name in columns:
            raise DataRejected(
                f"data.source: column '{name}' would be replaced by '{getattr(source, f'{name}_column')}', "
                f"which data.source.{name}_column names; rename one of them"
            )
        columns[name] = table[name]
    return pa.table(columns).replace_schema_metadata(None).combine_chunks()


def _column(table: pa.Table, name: str, setting: str) -> pa.ChunkedArray:
    if name not in table.column_names:
        raise DataRejected(
            f"data.source.{setting}: there is no column '{name}'; columns: {', '.join(table.column_names)}"
        )
    return table[name]


def _text(column: pa.ChunkedArray, name: str) -> pa.ChunkedArray:
    kind = column.type.value_type if pa.types.is_dictionary(column.type) else column.type
    if not (pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind)):
        raise DataRejected(
            f"data.source.text_column: column '{name}' holds {column.type}, not text; name another or convert it"
        )
    return column.cast(pa.string())


def _check_same_columns(first_name: str, first: list[str], name: str, columns: list[str]) -> None:
    missing, added = sorted(set(first) - set(columns)), sorted(set(columns) - set(first))
    if missing or added:
        difference = "; ".join(
            f"{what} {', '.join(names)}" for what, names in (("lacks", missing), ("adds", added)) if names
        )
        raise DataRejected(
            f"{name}: other columns than {first_name}: {difference}; all files of a source have one schema: "
            "convert one of them, or name only files that belong together"
        )


def _decode_python_docs(source: Source, name: str, data: bytes) -> pa.Table:
    rows = list(python_docs.documents(name, data))
    return pa.Table.from_pylist(rows, pa.schema([(column, pa.string()) for column in python_docs.COLUMNS]))


def _decode_parquet(source: Source, name: str, data: bytes) -> pa.Table:
    import pyarrow.parquet as pq

    if not data.startswith(_MAGIC):
        raise DataRejected(f"{name}: not a Parquet file: it does not begin with {_MAGIC.decode()}; check data.source")
    if not data.endswith(_MAGIC):
        raise DataRejected(f"{name}: the Parquet footer is missing: the file was cut off; write it again")
    try:
        return pq.read_table(io.BytesIO(data))
    except (pa.ArrowException, OSError) as error:
        raise DataRejected(f"{name}: damaged Parquet file: {error}; write it again") from error


def _decode_jsonl(source: Source, name: str, data: bytes) -> pa.Table:
    lines = _decode_text(source, name, data).split("\n")
    rows = [_json_row(name, number, line, is_last=number == len(lines)) for number, line in enumerate(lines, 1) if line]
    columns = dict.fromkeys(key for row in rows for key in row)
    return pa.table({column: _json_column(name, column, [row.get(column) for row in rows]) for column in columns})


def _json_row(name: str, number: int, line: str, *, is_last: bool) -> dict[str, Any]:
    try:
        row = json.loads(line)
    except ValueError as error:
        hint = "the file was cut off here: write it again" if is_last else "write one JSON object per line"
        raise DataRejected(f"{name}, line {number}: not JSON: {error}; {hint}") from error
    if not isinstance(row, dict):
        raise DataRejected(f"{name}, line {number}: a row is a JSON object, got {type(row).__name__}")
    return row


def _json_column(name: str, column: str, values: list[Any]) -> pa.Array:
    try:
        return pa.array(values)
    except (pa.ArrowException, OverflowError) as error:
        kinds: dict[str, int] = {}
        for row, value in enumerate(values, 1):
            if value is not None:
                kinds.setdefault(type(value).__name__, row)
        places = ", ".join(f"{kind} in row {row}" for kind, row in kinds.items())
        raise DataRejected(f"{name}: column '{column}' changes its type: {places}; one column has one type") from error


def _decode_csv(source: Source, name: str, data: bytes) -> pa.Table:
    from pyarrow import csv

    text = _decode_text(source, name, data)
    if text.count('"') % 2:  # the reader would take the rest of the file as one value
        raise DataRejected(
            f"{name}: not valid CSV: a quoted field never ends: the file was cut off, or a quote is not doubled"
        )
    try:
        return csv.read_csv(
            io.BytesIO(text.encode()),
            read_options=csv.ReadOptions(block_size=max(1 << 20, 2 * len(data))),  # one block: a row never spans two
            parse_options=csv.ParseOptions(newlines_in_values=True),
            convert_options=csv.ConvertOptions(
                column_types={source.text_column: pa.string(), source.id_column: pa.string()},
                null_values=[""],
                strings_can_be_null=True,
                quoted_strings_can_be_null=False,
            ),
        )
    except pa.ArrowException as error:
        raise DataRejected(f"{name}: not valid CSV: {error}; quote fields that hold commas or line ends") from error


def _decode_plain_text(source: Source, name: str, data: bytes) -> pa.Table:
    return pa.table({source.id_column: [name], source.text_column: [_decode_text(source, name, data)]})


def _decode_text(source: Source, name: str, data: bytes) -> str:
    try:
        codec = codecs.lookup(source.encoding).name
    except LookupError as error:
        raise DataRejected(f"data.source.encoding: unknown encoding {source.encoding!r}; utf-8 is usual") from error
    try:
        return data.decode("utf-8-sig" if codec == "utf-8" else codec)
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise DataRejected(
            f"{name}, line {line}: not {source.encoding} at byte {error.start}: {error.reason}; "
            "set data.source.encoding to what the file is in, or convert it"
        ) from error


_DECODERS: dict[str, Callable[[Source, str, bytes], pa.Table]] = {
    "python-docs": _decode_python_docs,
    "parquet": _decode_parquet,
    "jsonl": _decode_jsonl,
    "csv": _decode_csv,
    "text": _decode_plain_text,
}

"""Bad data: each kind is refused with a plain error that names place, rule and way out."""

from __future__ import annotations

import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipelines.data import dataset, sources
from pipelines.errors import DataRejected, ExitCode, StoreUnavailable
from pipelines.spec import Source

GOOD = b'{"id": "a", "text": "one"}\n{"id": "b", "text": "two"}\n'


def parquet(rows: list[dict[str, object]]) -> bytes:
    buffer = pa.BufferOutputStream()
    pq.write_table(pa.Table.from_pylist(rows), buffer, compression="none")
    return buffer.getvalue().to_pybytes()


def overwritten(data: bytes) -> bytes:
    """Return a Parquet file whose first page is noise but whose footer is sound."""
    return data[:4] + b"\xff" * 24 + data[28:]


PARQUET = parquet([{"id": str(number), "text": "some text " * 9} for number in range(200)])


@pytest.mark.parametrize(
    ("kind", "files", "message"),
    [
        pytest.param("jsonl", {"a.jsonl": b""}, r"a\.jsonl: the file is empty; write it again", id="empty-file"),
        pytest.param("jsonl", {"a.jsonl": b"\n\n"}, "no rows in 1 file", id="no-rows"),
        pytest.param("csv", {"a.csv": b"id,text\n"}, "no rows in 1 file", id="csv-of-a-header-only"),
        pytest.param(
            "jsonl", {"notes.md": GOOD}, "nothing to read at .*; a folder is searched for .jsonl", id="nothing"
        ),
        pytest.param(
            "jsonl",
            {"a.jsonl": GOOD[:-8]},
            r"a\.jsonl, line 2: not JSON: .*; the file was cut off here: write it again",
            id="half-a-json-line",
        ),
        pytest.param(
            "jsonl",
            {"a.jsonl": b"{'id': 1}\n" + GOOD},
            r"a\.jsonl, line 1: not JSON: .*; write one JSON object per line",
            id="not-json",
        ),
        pytest.param("jsonl", {"a.jsonl": GOOD + b"[1]\n"}, "line 3: a row is a JSON object, got list", id="not-a-row"),
        pytest.param(
            "jsonl",
            {"a.jsonl": b'{"id": "a", "text": "one", "n": 1}\n{"id": "b", "text": "two", "n": "1"}\n'},
            "column 'n' changes its type: int in row 1, str in row 2",
            id="type-changes-inside-a-file",
        ),
        pytest.param(
            "parquet",
            {"a.parquet": PARQUET[: len(PARQUET) // 2]},
            r"a\.parquet: the Parquet footer is missing: the file was cut off",
            id="parquet-without-footer",
        ),
        pytest.param("parquet", {"a.parquet": GOOD}, r"a\.parquet: not a Parquet file", id="not-parquet"),
        pytest.param(
            "parquet", {"a.parquet": overwritten(PARQUET)}, r"a\.parquet: damaged Parquet file", id="parquet-noise"
        ),
        pytest.param(
            "jsonl",
            {"a.jsonl": GOOD + '{"id": "c", "text": "café"}\n'.encode("latin-1")},
            r"a\.jsonl, line 3: not utf-8 at byte \d+: .*; set data.source.encoding",
            id="wrong-encoding",
        ),
        pytest.param("text", {"a.txt": b"\xff\xfe\xfa"}, r"a\.txt, line 1: not utf-8 at byte 0", id="not-text"),
        pytest.param(
            "csv", {"a.csv": b"id,text\na,one,more\n"}, r"a\.csv: not valid CSV: .*Expected 2", id="csv-width"
        ),
        pytest.param("csv", {"a.csv": b'id,text\na,"one\nb,two\n'}, r"a\.csv: not valid CSV", id="csv-open-quote"),
        pytest.param(
            "jsonl",
            {"a.jsonl": GOOD, "b.jsonl": b'{"id": "c", "body": "three"}\n'},
            r"b\.jsonl: other columns than a\.jsonl: lacks text; adds body; all files of a source have one schema",
            id="column-renamed-between-files",
        ),
        pytest.param(
            "parquet",
            {
                "a.parquet": parquet([{"id": "a", "text": "x", "n": 1}]),
                "b.parquet": parquet([{"id": "b", "text": "x", "n": "1"}]),
            },
            r"b\.parquet: column 'n' holds string, in a\.parquet it holds int64",
            id="type-changed-between-files",
        ),
        pytest.param(
            "jsonl",
            {"a.jsonl": b'{"id": "a", "body": "one"}\n'},
            "text_column: there is no column 'text'; columns: id, body",
            id="no-text-column",
        ),
        pytest.param(
            "jsonl",
            {"a.jsonl": b'{"id": "a", "text": 7}\n'},
            "text_column: column 'text' holds int64, not text",
            id="text-is-a-number",
        ),
    ],
)
def test_bad_files_are_refused(tmp_path: Path, kind: str, files: dict[str, bytes], message: str) -> None:
    for name, data in files.items():
        (tmp_path / name).write_bytes(data)

    with pytest.raises(DataRejected, match=message) as refused:
        sources.read(Source(kind=kind, uri=str(tmp_path)))  # type: ignore[arg-type]

    assert refused.value.exit_code is ExitCode.REFUSED


def test_the_control_run_with_good_files_passes(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_bytes(GOOD)
    (tmp_path / "b.parquet").write_bytes(PARQUET)

    dataset.check_identities(sources.read(Source(kind="jsonl", uri=str(tmp_path))))
    dataset.check_identities(sources.read(Source(kind="parquet", uri=str(tmp_path))))


@pytest.mark.parametrize(
    ("source", "message"),
    [
        pytest.param({"uri": "nowhere/missing.jsonl"}, "nothing to read at nowhere/missing.jsonl", id="missing-file"),
        pytest.param({"uri": "nowhere/*.jsonl"}, r"nothing to read at nowhere/\*\.jsonl", id="glob-without-match"),
        pytest.param({"uri": "ftq://host/a.jsonl"}, "ftq.*use a path, s3://", id="unknown-protocol"),
        pytest.param({"encoding": "utf-88"}, "encoding: unknown encoding 'utf-88'", id="unknown-encoding"),
        pytest.param({"id_column": "key"}, "id_column: there is no column 'key'; columns: id, text", id="no-id-column"),
        pytest.param({"text_column": "id", "id_column": "text"}, None, id="swapped-columns-are-allowed"),
    ],
)
def test_bad_settings_of_a_source_are_refused(tmp_path: Path, source: dict[str, str], message: str | None) -> None:
    (tmp_path / "a.jsonl").write_bytes(GOOD)
    settings = Source.model_validate({"kind": "jsonl", "uri": str(tmp_path / "a.jsonl")} | source)

    if message is None:
        assert sources.read(settings).table["text"].to_pylist() == ["a", "b"]
    else:
        with pytest.raises(DataRejected, match=message):
            sources.read(settings)


def test_a_column_that_renaming_would_replace_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text(json.dumps({"id": "a", "text": "summary", "body": "all"}))

    with pytest.raises(DataRejected, match=r"column 'text' would be replaced by 'body'.*rename one"):
        sources.read(Source(kind="jsonl", uri=str(tmp_path / "a.jsonl"), text_column="body"))


def test_duplicate_and_missing_ids_are_named_with_their_places(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_bytes(GOOD)
    (tmp_path / "b.jsonl").write_bytes(
        b'{"id": "c", "text": "x"}\n{"id": "a", "text": "y"}\n{"id": null, "text": "z"}\n'
    )
    corpus = sources.read(Source(kind="jsonl", uri=str(tmp_path)))

    with pytest.raises(DataRejected, match=r"b\.jsonl, row 2: id 'a' is also that of a\.jsonl, row 1; b\.jsonl, row 3"):
        dataset.check_identities(corpus)


def test_an_unreachable_place_may_be_tried_again(monkeypatch: pytest.MonkeyPatch) -> None:
    from fsspec.implementations.memory import MemoryFileSystem

    def refuse(*_: object, **__: object) -> bytes:
        raise ConnectionResetError("connection reset by peer")

    monkeypatch.setattr(MemoryFileSystem, "isdir", refuse)
    with pytest.raises(StoreUnavailable, match=r"cannot read memory://bucket/a\.jsonl") as refused:
        sources.read(Source(kind="jsonl", uri="memory://bucket/a.jsonl"))

    assert refused.value.exit_code is ExitCode.RETRY

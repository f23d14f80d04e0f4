"""Sources: what is read, in which order, under which digest."""

from __future__ import annotations

import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipelines.data import sources
from pipelines.errors import DataRejected
from pipelines.spec import Source

ROWS = [{"id": "a", "text": "one", "stars": 1}, {"id": "b", "text": "zwölf\nLines, two", "stars": 2}]


def write_parquet(path: Path, rows: list[dict[str, object]] = ROWS) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.Table.from_pylist(rows), path)


def write_jsonl(path: Path, rows: list[dict[str, object]] = ROWS) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


def write_csv(path: Path) -> None:
    path.write_text('id,text,stars\na,one,1\nb,"zwölf\nLines, two",2\n', encoding="utf-8")


@pytest.mark.parametrize(("kind", "write"), [("parquet", write_parquet), ("jsonl", write_jsonl), ("csv", write_csv)])
def test_one_content_gives_one_table_whatever_the_format(tmp_path: Path, kind: str, write: object) -> None:
    write(tmp_path / f"rows.{kind}")  # type: ignore[operator]

    corpus = sources.read(Source(kind=kind, uri=str(tmp_path / f"rows.{kind}")))  # type: ignore[arg-type]

    assert corpus.table.to_pylist() == ROWS
    assert corpus.table.schema.names == ["id", "text", "stars"]


def test_text_files_are_documents_named_by_their_path(tmp_path: Path) -> None:
    for name in ("b.txt", "deep/a.txt", ".hidden.txt", "_SUCCESS", "image.png"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(f"I am {name}", encoding="utf-8")

    corpus = sources.read(Source(kind="text", uri=str(tmp_path)))

    assert corpus.table.to_pylist() == [
        {"id": "b.txt", "text": "I am b.txt"},
        {"id": "deep/a.txt", "text": "I am deep/a.txt"},
    ]


def test_columns_are_renamed_and_rows_without_ids_are_named_by_place(tmp_path: Path) -> None:
    write_jsonl(tmp_path / "a.jsonl", [{"body": "one"}, {"body": "two"}])
    write_jsonl(tmp_path / "b.jsonl", [{"body": "three"}])

    corpus = sources.read(Source(kind="jsonl", uri=str(tmp_path / "*.jsonl"), text_column="body"))

    assert corpus.table.to_pylist() == [
        {"id": "a.jsonl:1", "text": "one"},
        {"id": "a.jsonl:2", "text": "two"},
        {"id": "b.jsonl:1", "text": "three"},
    ]
    assert corpus.origin(2) == "b.jsonl, row 1"


def test_numbers_as_ids_become_text_and_numbers_as_text_stay_text_in_csv(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("id,text\n007,1\n2,\n", encoding="utf-8")

    table = sources.read(Source(kind="csv", uri=str(tmp_path / "a.csv"))).table

    assert table.to_pylist() == [{"id": "007", "text": "1"}, {"id": "2", "text": None}]


@pytest.mark.parametrize(
    ("encoding", "data"),
    [
        pytest.param("utf-8", b"\xef\xbb\xbf" + "text\ncafé\n".encode(), id="utf-8-with-byte-order-mark"),
        pytest.param("latin-1", "text\ncafé\n".encode("latin-1"), id="latin-1"),
        pytest.param("utf-16", "text\ncafé\n".encode("utf-16"), id="utf-16"),
    ],
)
def test_the_encoding_of_the_spec_is_used(tmp_path: Path, encoding: str, data: bytes) -> None:
    (tmp_path / "a.csv").write_bytes(data)

    table = sources.read(Source(kind="csv", uri=str(tmp_path / "a.csv"), encoding=encoding)).table

    assert table["text"].to_pylist() == ["café"]


def test_a_column_empty_in_one_file_and_numbers_of_two_widths_go_together(tmp_path: Path) -> None:
    write_jsonl(tmp_path / "a.jsonl", [{"id": "a", "text": "one", "note": None, "score": 1}])
    write_jsonl(tmp_path / "b.jsonl", [{"id": "b", "text": "two", "note": "x", "score": 0.5}])

    table = sources.read(Source(kind="jsonl", uri=str(tmp_path))).table

    assert table["note"].to_pylist() == [None, "x"]
    assert table["score"].to_pylist() == [1.0, 0.5]


def test_the_digest_is_of_what_was_read_and_does_not_depend_on_the_folder(tmp_path: Path) -> None:
    digests = set()
    for folder in ("here", "elsewhere"):
        write_jsonl(tmp_path / folder / "a.jsonl")
        source = Source(kind="jsonl", uri=str(tmp_path / folder))
        digests |= {sources.read(source).digest, sources.fingerprint(source)}

    assert len(digests) == 1


@pytest.mark.parametrize("change", ["other bytes", "another name", "one more file", "one file less"])
def test_every_change_of_a_source_is_seen(tmp_path: Path, change: str) -> None:
    write_jsonl(tmp_path / "a.jsonl")
    write_jsonl(tmp_path / "b.jsonl", [{"id": "c", "text": "three", "stars": 3}])
    source = Source(kind="jsonl", uri=str(tmp_path))
    digest = sources.read(source).digest
    sources.check_unchanged(source, digest)

    match change:
        case "other bytes":
            write_jsonl(tmp_path / "b.jsonl", [{"id": "c", "text": "Three", "stars": 3}])
        case "another name":
            (tmp_path / "b.jsonl").rename(tmp_path / "c.jsonl")
        case "one more file":
            write_jsonl(tmp_path / "c.jsonl", [{"id": "d", "text": "four", "stars": 4}])
        case "one file less":
            (tmp_path / "b.jsonl").unlink()

    with pytest.raises(DataRejected, match=f"changed after it was validated: sha256 .* now, {digest[:12]} then"):
        sources.check_unchanged(source, digest)


def test_any_file_system_of_fsspec_is_a_source() -> None:
    import fsspec

    memory = fsspec.filesystem("memory")
    memory.pipe("/bucket/data/part-0.jsonl", b'{"id": "a", "text": "one"}\n')
    try:
        for uri in ("memory://bucket/data/part-0.jsonl", "memory://bucket/data/*.jsonl", "memory://bucket/data"):
            corpus = sources.read(Source(kind="jsonl", uri=uri))
            assert corpus.files == (("part-0.jsonl", 1),)
    finally:
        memory.rm("/bucket", recursive=True)

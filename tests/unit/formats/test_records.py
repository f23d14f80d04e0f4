"""Per-document evaluation records as files."""

from __future__ import annotations

from pathlib import Path

import pytest

from pipelines.errors import ArtifactCorrupt
from pipelines.formats.records import DocumentRecord, read_documents, write_documents

RECORDS = (
    DocumentRecord(id="a", num_tokens=3, num_bytes=12, nll=4.5, baseline_nll=9.25),
    DocumentRecord(id="ü", num_tokens=1, num_bytes=2, nll=0.1, baseline_nll=6.0, champion_nll=0.2),
)


def test_records_survive_a_file(tmp_path: Path) -> None:
    write_documents(tmp_path / "documents.jsonl", RECORDS)
    assert read_documents(tmp_path / "documents.jsonl") == RECORDS


def test_a_damaged_file_is_refused_by_name(tmp_path: Path) -> None:
    path = tmp_path / "documents.jsonl"
    write_documents(path, RECORDS)
    path.write_bytes(path.read_bytes().replace(b'"nll"', b'"nil"'))
    with pytest.raises(ArtifactCorrupt, match=r"documents\.jsonl: not evaluation records"):
        read_documents(path)

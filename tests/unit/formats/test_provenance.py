"""Provenance is one text for one value, and nothing else is read."""

from __future__ import annotations

from pathlib import Path

import pytest

from pipelines.errors import ArtifactCorrupt
from pipelines.formats.provenance import Provenance, read_provenance

DIGESTS = dict.fromkeys(("model_digest", "tokens_digest", "dataset_digest", "code_digest"), "a" * 64)


def test_what_is_written_is_read_again(tmp_path: Path) -> None:
    written = Provenance(name="docs-gpt", python_version="3.11.7", libraries={"torch": "2.13.0"}, **DIGESTS)
    written.write(tmp_path)
    assert read_provenance(tmp_path) == written


@pytest.mark.parametrize("text", [None, "{}", '{"model_digest": "short"}'], ids=["missing", "empty", "incomplete"])
def test_anything_else_is_refused(tmp_path: Path, text: str | None) -> None:
    if text is not None:
        (tmp_path / "provenance.json").write_text(text)
    with pytest.raises(ArtifactCorrupt, match="no valid provenance"):
        read_provenance(tmp_path)

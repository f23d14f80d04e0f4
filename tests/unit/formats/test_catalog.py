"""The catalog for forms: read whole or not at all, and never an error."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from pipelines.formats import catalog
from pipelines.formats.catalog import (
    KnownBackup,
    Offers,
    ReleaseCatalog,
    ServedVersion,
    catalog_path,
    read_catalog,
    write_catalog,
)

KNOWN = ReleaseCatalog(
    services={
        "docs": Offers(
            serving=2,
            versions=(ServedVersion(number=2, since=2000.0), ServedVersion(number=1, since=1000.0)),
            backups=(KnownBackup(name="20261120T140159.123Z-0123456789abcdef", version=1),),
        )
    }
)


def test_it_comes_back_as_it_was_written(tmp_path: Path) -> None:
    assert write_catalog(tmp_path, KNOWN)
    assert read_catalog(tmp_path) == KNOWN
    assert [path.name for path in catalog_path(tmp_path).parent.iterdir()] == ["releases.json"]


def test_what_did_not_change_is_not_written_again(tmp_path: Path) -> None:
    write_catalog(tmp_path, KNOWN)
    before = catalog_path(tmp_path).stat()
    assert not write_catalog(tmp_path, KNOWN)
    assert catalog_path(tmp_path).stat() == before
    assert write_catalog(tmp_path, ReleaseCatalog())


@pytest.mark.parametrize(
    "damage",
    [
        pytest.param(b"", id="empty"),
        pytest.param(b"\xff\xfe{", id="no-text"),
        pytest.param(b'{"services": {"docs": {"versions": [{"number"', id="half"),
        pytest.param(b"[]", id="no-object"),
        pytest.param(b'{"format": 2}', id="another-format"),
        pytest.param(b'{"more": 1}', id="another-field"),
        pytest.param(b'{"services": {"docs": {"versions": [{"number": 1, "since": 1e300}]}}}', id="no-moment"),
        pytest.param(b'{"services": {"docs": {"versions": [{"number": 1, "since": NaN}]}}}', id="no-number"),
        pytest.param(b'{"services": {"docs": {"backups": [{"name": "../x", "version": 1}]}}}', id="no-name"),
        pytest.param(b"[" * 100_000, id="deep"),
        pytest.param(b"{}" + b" " * catalog.MAX_BYTES, id="large"),
    ],
)
def test_a_damaged_one_is_none_and_the_next_writing_mends_it(tmp_path: Path, damage: bytes) -> None:
    catalog_path(tmp_path).parent.mkdir()
    catalog_path(tmp_path).write_bytes(damage)
    assert read_catalog(tmp_path) is None
    assert write_catalog(tmp_path, KNOWN)
    assert read_catalog(tmp_path) == KNOWN


def test_a_missing_one_is_none(tmp_path: Path) -> None:
    assert read_catalog(tmp_path / "nowhere") is None


def test_a_folder_in_its_place_is_none(tmp_path: Path) -> None:
    catalog_path(tmp_path).mkdir(parents=True)
    assert read_catalog(tmp_path) is None


def test_a_writer_that_fails_leaves_the_old_one_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_catalog(tmp_path, KNOWN)

    def refuse(*_: object) -> None:
        raise OSError("no space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", refuse)
        patch.setattr(Path, "replace", refuse)
        with pytest.raises(OSError, match="no space"):
            write_catalog(tmp_path, ReleaseCatalog())
    assert read_catalog(tmp_path) == KNOWN
    assert [path.name for path in catalog_path(tmp_path).parent.iterdir()] == ["releases.json"]

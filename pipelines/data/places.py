"""A folder of files, wherever it lies: a path, an fsspec URL, or a repository on the Hugging Face Hub."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from pathlib import Path
from typing import Protocol

from pipelines.data.files import SourceFile, list_files
from pipelines.data.hub import Repository
from pipelines.storage.parts import in_order

HUB = "hf://"


class Place(Protocol):
    """The files directly in a folder."""

    def names(self) -> list[str]:
        """Return their names, sorted."""

    def read(self, name: str) -> bytes:
        """Return a small file's bytes."""

    def sha256(self, name: str) -> str:
        """Return the digest of a file."""

    def download(self, names: Iterable[str], folder: Path) -> None:
        """Write files into a local folder."""


def open_place(uri: str, suffixes: tuple[str, ...], *, field: str) -> Place:
    """Look a folder up.

    Args:
        uri: path, URL, or hf://owner/name, with @revision where it is not the newest.
        suffixes: endings of the names that count; a repository shows all.
        field: key of the spec that holds the URL, for messages.

    Raises:
        DataRejected: when there is no such folder, or this user may not read it.
        StoreUnavailable: when the place cannot be reached at present.
    """
    if uri.startswith(HUB):
        name, _, revision = uri.removeprefix(HUB).partition("@")
        return Repository(name, revision, field=field)
    return Folder(uri, suffixes, field=field)


class Folder:
    """A folder behind an fsspec URL."""

    def __init__(self, uri: str, suffixes: tuple[str, ...], *, field: str) -> None:
        self._files = {file.name: file for file in list_files(uri, suffixes, field) if "/" not in file.name}

    def names(self) -> list[str]:
        return sorted(self._files)

    def read(self, name: str) -> bytes:
        return self._files[name].read()

    def sha256(self, name: str) -> str:
        digest = hashlib.sha256()
        for chunk in self._files[name].chunks():
            digest.update(chunk)
        return digest.hexdigest()

    def download(self, names: Iterable[str], folder: Path) -> None:
        for _ in in_order(lambda name: _copy(self._files[name], folder / name), names):
            continue


def _copy(source: SourceFile, target: Path) -> None:
    with target.open("wb") as file:
        for chunk in source.chunks():
            file.write(chunk)

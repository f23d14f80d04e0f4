"""Import once what each task, and each parse of a DAG file, imports: Airflow forks a process for every one of them.

On two cores that is half a second of each task. Where a task is a pod or another machine's process it changes nothing.
Code that was edited since is imported anew, so tasks run the code that lies there, as if nothing had been preloaded.
"""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

from pipelines.settings import REPOSITORY, Settings

FOLDERS = (REPOSITORY / "pipelines", REPOSITORY / "plugins" / "slipway")
"""Packages of ours that tasks import."""

MODULES = (
    "slipway.backup",
    "slipway.operators",
    "slipway.rollout",
    "slipway.specs",
    "slipway.steps",
    "pipelines.lifecycle",
    "pipelines.runner",
    "pipelines.steps.backup",
    "pipelines.steps.record",
    "pipelines.steps.rollback",
    "pipelines.steps.rollout",
)
POD_MODULES = ("slipway.pods.operator", "slipway.pods.training")


def preload() -> None:
    """Import, and let processes that are forked from now on forget what was edited in the meantime."""
    edition = edition_of(FOLDERS)
    for name in (*MODULES, *(POD_MODULES if Settings().platform != "local" else ())):
        importlib.import_module(name)
    os.register_at_fork(after_in_child=forget_edited(edition))


def forget_edited(edition: frozenset[tuple[str, int]]) -> Callable[[], None]:
    """Return what drops the imported modules when the files are no longer of an edition."""

    def forget() -> None:
        if edition_of(FOLDERS) == edition:
            return
        ours = {folder.name for folder in FOLDERS}
        for name in [name for name in sys.modules if name.partition(".")[0] in ours]:
            del sys.modules[name]

    return forget


def edition_of(folders: tuple[Path, ...]) -> frozenset[tuple[str, int]]:
    """Return the names of all source files, and when each was last written."""
    return frozenset(entry for folder in folders for entry in _files(folder))


def _files(folder: str | Path) -> Iterator[tuple[str, int]]:
    with os.scandir(folder) as entries:
        for entry in entries:
            if entry.is_dir(follow_symlinks=False):
                yield from _files(entry.path)
            elif entry.name.endswith(".py"):
                yield entry.path, entry.stat().st_mtime_ns

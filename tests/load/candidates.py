"""Versions to release: as good as what serves, or worse in one way. No fault is in the product's own code."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import yaml

from pipelines.errors import BadInput
from pipelines.settings import REPOSITORY

WAIT = "        await asyncio.sleep(0.2)\n"
LOOSE_GATE = {"max_perplexity_ratio": 100, "noninferiority_margin": 100}


@dataclass(frozen=True)
class Candidate:
    """What a run makes a version from."""

    spec: Path
    seed: int
    max_steps: int
    tree: Path = REPOSITORY
    """Source tree whose pipeline runs."""


def repackaged(made: Candidate, folder: Path, *, max_queue: int = 63) -> Candidate:
    """Return a candidate with the same weights in another bento: a setting differs that nobody notices."""
    return replace(made, spec=changed(made.spec, folder, {"service": {"max_queue": max_queue}}))


def slow(made: Candidate, folder: Path) -> Candidate:
    """Return a candidate with the same weights, and a service that waits 0.2 s before each answer."""
    return replace(made, tree=_slow_tree(folder))


def under_trained(made: Candidate, folder: Path, *, seed: int, max_steps: int) -> Candidate:
    """Return a candidate that was trained for a few steps, and is let through by a loosened offline gate."""
    return replace(made, spec=changed(made.spec, folder, {"evaluation": LOOSE_GATE}), seed=seed, max_steps=max_steps)


def changed(spec: Path, folder: Path, sections: Mapping[str, Mapping[str, Any]], *, name: str = "") -> Path:
    """Write a spec with other values in some sections into a folder, and return its file.

    Args:
        spec: the original.
        folder: for the copy.
        sections: values by section and key.
        name: of the model; empty: the original's.
    """
    content = yaml.safe_load(spec.read_text(encoding="utf-8"))
    for section, values in sections.items():
        content[section] = {**content.get(section, {}), **values}
    file = folder / (f"{name}.yaml" if name else spec.name)
    file.write_text(yaml.safe_dump(content, allow_unicode=True), encoding="utf-8")
    return file


def _slow_tree(folder: Path) -> Path:
    """Copy the sources, and let the copy's service wait before each completion.

    Raises:
        BadInput: when the service is not written as it was.
    """
    for name in ("pipelines", "bentos", "plugins", "dags"):
        shutil.copytree(REPOSITORY / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    app = folder / "bentos" / "text_generation" / "app.py"
    head, mark, tail = app.read_text(encoding="utf-8").partition("    async def completions(")
    signature, colon, body = tail.partition(":\n")
    if not body or "\nimport asyncio\n" not in head:
        raise BadInput(
            f"{app.relative_to(folder)} has no `completions` to slow down: this demonstration must be adapted"
        )
    app.write_text(f"{head}{mark}{signature}{colon}{WAIT}{body}", encoding="utf-8")
    return folder

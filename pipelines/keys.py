"""Same inputs, same name: what a step's result depends on, as one key."""

from __future__ import annotations

import ast
import functools
import hashlib
import importlib.metadata
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from pipelines.artifacts import canonical_json

_ROOT = Path(__file__).resolve().parent.parent


def step_key(
    step: str,
    *,
    module: str,
    libraries: Iterable[str],
    config: Mapping[str, Any],
    inputs: Mapping[str, Any],
    fingerprint: str = "",
    salt: str = "",
) -> str:
    """Return the sha256 that names a step's result.

    It covers the step's name, its code (`code_digest` of `module`), the installed versions of `libraries`, its resolved
    `config`, its `inputs` (references hold digests), a `fingerprint` of anything outside the store that it reads, and
    a `salt` that makes a forced run a new one.
    """
    parts = {
        "step": step,
        "code": code_digest(module),
        "libraries": {name: importlib.metadata.version(name) for name in sorted(libraries)},
        "config": dict(config),
        "inputs": dict(inputs),
        "fingerprint": fingerprint,
        "salt": salt,
    }
    return hashlib.sha256(canonical_json(parts)).hexdigest()


@functools.cache
def code_digest(module: str) -> str:
    """Return the sha256 over the sources of a module and of everything in `pipelines` that it imports, to any depth."""
    digest = hashlib.sha256()
    for name in sorted(import_closure(module)):
        digest.update(f"{name}\n".encode())
        digest.update(_source(name).read_bytes())  # type: ignore[union-attr]  # a member of the closure has a source
    return digest.hexdigest()


def import_closure(*modules: str) -> set[str]:
    """Return the names of all modules of `pipelines` that `modules` import statically, they themselves included.

    A string that is exactly the name of such a module counts as an import: that is how a process is told what to run.
    """
    found: set[str] = set()
    waiting = list(modules)
    while waiting:
        name = waiting.pop()
        if name in found or (source := _source(name)) is None:
            continue
        found.add(name)
        waiting.extend(_imports(source))
        if "." in name:
            waiting.append(name.rpartition(".")[0])
    return found


@functools.cache
def _imports(source: Path) -> frozenset[str]:
    """Return what a file imports, and what in it may be the name of a module; most files are in several closures."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(source.read_text(encoding="utf-8"))):
        match node:
            case ast.Import(names=names):
                found.update(alias.name for alias in names)
            case ast.ImportFrom(module=str(origin), names=names, level=0):
                found.update((origin, *(f"{origin}.{alias.name}" for alias in names)))
            case ast.Constant(value=str(text)) if text.startswith("pipelines."):
                found.add(text)
    return frozenset(found)


def _source(name: str) -> Path | None:
    if name != "pipelines" and not name.startswith("pipelines."):
        return None
    if not all(part.isidentifier() for part in name.split(".")):
        return None
    path = _ROOT.joinpath(*name.split("."))
    candidates = (path / "__init__.py", path.with_suffix(".py"))
    return next((candidate for candidate in candidates if candidate.is_file()), None)

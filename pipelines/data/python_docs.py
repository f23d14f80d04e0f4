"""The demo corpus: the documentation strings of Python's standard library, real English prose on every machine."""

from __future__ import annotations

import ast
import hashlib
import os
import sysconfig
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

COLUMNS = ("id", "module", "name", "kind", "text", "sha256")

_LEFT_OUT = frozenset({"site-packages", "dist-packages", "test", "tests", "idle_test", "__pycache__"})

_BLOCKS = ("body", "handlers", "orelse", "finalbody", "cases")
"""Fields of statements that hold statements, in the order of the source; expressions hold no documentation."""

_Definition = ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef


def source_files() -> list[tuple[str, Path]]:
    """Return (name, path) of every module of the standard library, tests left out, sorted by name."""
    root = Path(sysconfig.get_path("stdlib"))
    found = []
    for folder, folders, files in os.walk(root):
        folders[:] = [name for name in folders if name not in _LEFT_OUT]  # never walk what may be installed beside it
        found += [Path(folder, name) for name in files if name.endswith(".py")]
    return sorted((path.relative_to(root).as_posix(), path) for path in found)


def documents(name: str, source: bytes) -> Iterator[dict[str, str]]:
    """Yield one row per documentation string of a module, in the order of the source.

    Args:
        name: path of the module below the library's root, such as `json/decoder.py`.
        source: its bytes, in the encoding that they declare.
    """
    parts = Path(name).with_suffix("").parts
    module = ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
    seen: Counter[str] = Counter()
    for qualified, kind, node in _definitions(ast.parse(source), "", inside_class=False):
        text = ast.get_docstring(node)
        if not text or not text.strip():
            continue
        identity = f"{module}:{qualified}" if qualified else module
        seen[identity] += 1
        if seen[identity] > 1:  # the same name defined again, for another platform say
            identity = f"{identity}#{seen[identity]}"
        yield {
            "id": identity,
            "module": module,
            "name": qualified,
            "kind": kind,
            "text": text,
            "sha256": hashlib.sha256(text.encode()).hexdigest(),
        }


def _definitions(node: ast.AST, prefix: str, *, inside_class: bool) -> Iterator[tuple[str, str, _Definition]]:
    """Yield qualified name, kind and node of everything that can carry a documentation string, in source order."""
    match node:
        case ast.Module():
            yield "", "module", node
        case ast.ClassDef(name=name):
            prefix = f"{prefix}.{name}" if prefix else name
            yield prefix, "class", node
        case ast.FunctionDef(name=name) | ast.AsyncFunctionDef(name=name):
            prefix = f"{prefix}.{name}" if prefix else name
            yield prefix, "method" if inside_class else "function", node
    within = isinstance(node, ast.ClassDef) or (inside_class and not isinstance(node, _Definition))
    for field in _BLOCKS:
        for child in getattr(node, field, ()):
            yield from _definitions(child, prefix, inside_class=within)

"""The code that a bento needs to serve without this repository, and no more."""

from __future__ import annotations

import ast
import hashlib
import importlib.metadata
import shutil
from pathlib import Path

from pipelines import keys
from pipelines.errors import BadInput
from pipelines.settings import REPOSITORY

LIBRARIES = (
    "bentoml",
    "fsspec",
    "jinja2",
    "numpy",
    "prometheus-client",
    "psutil",
    "pydantic",
    "pyyaml",
    "safetensors",
    "tokenizers",
    "torch",
    "transformers",
)
"""Distributions that the serving code imports."""


def service_files(service: str, root: Path = REPOSITORY) -> list[Path]:
    """Return the sources of a service and of everything in `pipelines` that it imports, relative to `root`, sorted.

    Raises:
        BadInput: when there is no such service.
    """
    folder = root / "bentos" / service
    if not (folder / "service.py").is_file():
        raise BadInput(f"packaging.service: there is no bentos/{service}/service.py")
    own = [root / "bentos" / "__init__.py", *folder.rglob("*.py")]
    modules = keys.import_closure(*(name for path in own for name in _imports(path)))
    return sorted({path.relative_to(root) for path in own} | {_file_of(module, root) for module in modules})


def code_digest(service: str, root: Path = REPOSITORY) -> str:
    """Return the sha256 over names and contents of a service's sources."""
    digest = hashlib.sha256()
    for path in service_files(service, root):
        digest.update(f"{path.as_posix()}\n{hashlib.sha256((root / path).read_bytes()).hexdigest()}\n".encode())
    return digest.hexdigest()


def copy_service(service: str, target: Path, root: Path = REPOSITORY) -> None:
    """Copy a service's sources into a folder."""
    for path in service_files(service, root):
        (target / path).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(root / path, target / path)


def library_versions() -> dict[str, str]:
    """Return the installed versions of the libraries that serve, without local parts such as `+cpu`."""
    return {name: importlib.metadata.version(name).partition("+")[0] for name in LIBRARIES}


def _imports(path: Path) -> set[str]:
    """Return the names that a file imports from `pipelines`."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        match node:
            case ast.Import(names=aliases):
                names.update(alias.name for alias in aliases)
            case ast.ImportFrom(module=str(origin), names=aliases, level=0):
                names.update([origin, *(f"{origin}.{alias.name}" for alias in aliases)])
    return {name for name in names if name.partition(".")[0] == "pipelines"}


def _file_of(module: str, root: Path) -> Path:
    path = Path(*module.split("."))
    return path / "__init__.py" if (root / path).is_dir() else path.with_suffix(".py")

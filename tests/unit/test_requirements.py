"""Requirements: lower bounds everywhere, security floors in bounds and lock, no CUDA packages, locks current."""

from __future__ import annotations

import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.version import Version

ROOT = Path(__file__).resolve().parents[2]
FLOORS = {"bentoml": "1.4.39", "torch": "2.10", "apache-airflow": "3.2.2"}
"""Lowest versions without known holes that matter here."""


def declared() -> Iterator[Requirement]:
    """Yield every requirement of pyproject.toml."""
    content = tomllib.loads((ROOT / "pyproject.toml").read_text())
    for text in [*content["project"]["dependencies"], *content["dependency-groups"]["dev"]]:
        yield Requirement(text)


def locked(name: str = "requirements.txt") -> dict[str, Version]:
    """Return the pinned versions of a lock by distribution."""
    lines = (line for line in (ROOT / name).read_text().splitlines() if line and not line.startswith((" ", "#")))
    pins = [Requirement(line) for line in lines]
    return {pin.name: Version(next(iter(pin.specifier)).version) for pin in pins}


def lower_bound(requirement: Requirement) -> Version | None:
    """Return the lower bound of a requirement, if it has one."""
    return next((Version(part.version) for part in requirement.specifier if part.operator in (">=", "==")), None)


@pytest.mark.parametrize("requirement", list(declared()), ids=lambda requirement: requirement.name)
def test_every_requirement_has_a_lower_bound(requirement: Requirement) -> None:
    assert lower_bound(requirement) is not None


@pytest.mark.parametrize(("name", "floor"), list(FLOORS.items()), ids=list(FLOORS))
def test_security_floors_hold_in_bounds_and_in_the_lock(name: str, floor: str) -> None:
    bounds = [lower_bound(requirement) for requirement in declared() if requirement.name == name]

    assert [bound for bound in bounds if bound is None or bound < Version(floor)] == []
    assert bounds != []
    assert locked()[name] >= Version(floor)


@pytest.mark.parametrize("file", ["requirements.txt", "requirements-dev.txt"])
def test_lock_names_no_package_that_brings_cuda(file: str) -> None:
    assert [name for name in locked(file) if name.startswith(("nvidia-", "cuda-", "triton"))] == []


def test_lock_satisfies_every_declared_requirement() -> None:
    pins = locked() | locked("requirements-dev.txt")

    unmet = [
        str(need)
        for need in declared()
        if need.name.lower() not in pins or pins[need.name.lower()] not in need.specifier
    ]
    assert unmet == []


def test_both_locks_agree() -> None:
    runtime, dev = locked(), locked("requirements-dev.txt")

    assert {
        name: (runtime[name], dev[name]) for name in runtime.keys() & dev.keys() if runtime[name] != dev[name]
    } == {}


def test_stale_lock_is_noticed(tmp_path: Path) -> None:
    for path in ("pyproject.toml", "requirements.txt", "requirements-dev.txt", ".ci/lock.py"):
        (tmp_path / path).parent.mkdir(exist_ok=True)
        (tmp_path / path).write_text((ROOT / path).read_text())
    check = [sys.executable, str(tmp_path / ".ci" / "lock.py"), "check"]
    assert subprocess.run(check, capture_output=True, check=False).returncode == 0

    project = tmp_path / "pyproject.toml"
    project.write_text(project.read_text().replace("bentoml>=1.4.39", "bentoml>=1.4.40"))
    done = subprocess.run(check, capture_output=True, text=True, check=False)

    assert done.returncode == 1
    assert "requirements.txt does not belong to pyproject.toml" in done.stderr

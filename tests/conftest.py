"""What every test may use: the `needs` marker, a closed network where none is used, a store of its own."""

from __future__ import annotations

import os
import shutil
import subprocess
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest
from pytest_socket import disable_socket, enable_socket

from pipelines.store import Store
from tests.live_postgres import LivePostgres

WITHOUT_NETWORK = {Path(__file__).parent / "unit", Path(__file__).parent / "simulations"}
REQUIRE_PACKAGES = "SLIPWAY_REQUIRE_PACKAGES"
"""Environment variable with which a missing Debian package fails a test instead of skipping it."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Let workers share the tests: those of the stack go to one, those of real parts to one, the others anywhere."""
    items.sort(key=lambda item: _order(item.path))
    for item in items:
        group = ("stack", "parts", item.path.stem)[_order(item.path)]
        item.add_marker(pytest.mark.xdist_group(group))


def _order(path: Path) -> int:
    """Return 0 for tests on the whole stack, 1 for those of real parts, which share ports, 2 for others."""
    folder = path.relative_to(Path(__file__).parent).parts[0]
    return {"e2e": 0, "dags": 1, "faults": 1, "steps": 1}.get(folder, 2)


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Close the network where none is used; skip a test whose Debian package is missing, and name the package."""
    if not WITHOUT_NETWORK.isdisjoint(item.path.parents):
        disable_socket(allow_unix_socket=True)
    for marker in item.iter_markers("needs"):
        missing = [package for package in marker.args if not is_installed(package)]
        if missing:
            reason = f"needs the Debian package {', '.join(missing)}"
            if os.environ.get(REQUIRE_PACKAGES):
                pytest.fail(f"{reason}, and {REQUIRE_PACKAGES} is set", pytrace=False)
            pytest.skip(reason)


def pytest_runtest_teardown() -> None:
    """Open the network again."""
    enable_socket()


def is_installed(package: str) -> bool:
    """Return whether a Debian package is installed; elsewhere, whether a program of its name is."""
    if shutil.which("dpkg-query") is None:
        return shutil.which(package) is not None
    query = ["dpkg-query", "--show", "--showformat=${db:Status-Status}", package]
    return subprocess.run(query, capture_output=True, text=True, check=False).stdout == "installed"


@pytest.fixture
def store(tmp_path: Path) -> Store:
    """Return an empty store in a local folder."""
    return Store(f"file://{tmp_path / 'store'}")


@pytest.fixture(scope="session")
def postgres(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LivePostgres]:
    """Return the embedded PostgreSQL, without a database of ours."""
    server = LivePostgres(tmp_path_factory.mktemp("postgres"))
    yield server
    server.remove()


@pytest.fixture
def ledger_url(postgres: LivePostgres) -> str:
    """Return the URL of an empty ledger on a real PostgreSQL."""
    from pipelines import ledger

    url = postgres.create_database(f"ledger_{uuid.uuid4().hex}")
    ledger.migrate(url)
    return url

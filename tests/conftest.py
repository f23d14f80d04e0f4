"""What every test may use: the `needs` marker, a closed network where none is used, a store of its own."""

from __future__ import annotations

import os
import shutil
import subprocess
import uuid
from collections.abc import Iterator
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from pytest_socket import disable_socket, enable_socket
from xdist.remote import Producer
from xdist.scheduler import LoadScopeScheduling

from pipelines.store import Store

if TYPE_CHECKING:
    from tests.live_postgres import LivePostgres
    from tests.live_s3 import LiveS3

WITHOUT_NETWORK = {Path(__file__).parent / "unit", Path(__file__).parent / "simulations"}
REQUIRE_PACKAGES = "SLIPWAY_REQUIRE_PACKAGES"
"""Environment variable with which a missing Debian package fails a test instead of skipping it."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put the tests of the whole last: two workers have then shared the others, and one of them is left alone.

    Those with the stack come at the very end, for it stays until the session is over, and is never quite idle.
    """
    items.sort(key=lambda item: (list(Group).index(_group(item.nodeid)), item.nodeid.startswith("tests/e2e/")))


def pytest_xdist_make_scheduler(config: pytest.Config, log: Producer) -> LoadScopeScheduling:
    """Let workers share the tests, a file at a time; those of the whole stay together."""
    return Groups(config, log)


class Group(StrEnum):
    """Tests by what else may run beside them."""

    PARTS = "parts"
    """Processes and ports of their own; the longer ones, so they come first."""

    PURE = "pure"
    """No process, no port."""

    WHOLE = "whole"
    """The stack, and faults of releases: they measure latencies, so nothing else runs beside them."""


class Groups(LoadScopeScheduling):
    """A worker takes a file; of the whole, all files."""

    def _split_scope(self, nodeid: str) -> str:
        group = _group(nodeid)
        return group if group is Group.WHOLE else nodeid.partition("::")[0]


def _group(nodeid: str) -> Group:
    match nodeid.partition("::")[0].split("/"):
        case [_, "e2e", *_]:
            return Group.WHOLE
        case [_, "faults", file] if file.startswith("test_release_"):
            return Group.WHOLE
        case [_, "dags" | "steps" | "faults", *_]:
            return Group.PARTS
        case _:
            return Group.PURE


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
    from tests.live_postgres import LivePostgres

    server = LivePostgres(tmp_path_factory.mktemp("postgres"))
    yield server
    server.remove()


@pytest.fixture(scope="session")
def s3() -> Iterator[LiveS3]:
    """Return an S3 server; tests make buckets of their own."""
    from tests.live_s3 import LiveS3

    server = LiveS3()
    yield server
    server.stop()


@pytest.fixture
def ledger_url(postgres: LivePostgres) -> str:
    """Return the URL of an empty ledger on a real PostgreSQL."""
    from pipelines import ledger

    url = postgres.create_database(f"ledger_{uuid.uuid4().hex}")
    ledger.migrate(url)
    return url

"""The Dockerfiles: clean for hadolint, the account of all our pods, and no name of an index or mirror."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from pipelines.formats import bento
from pipelines.podspec import USER
from pipelines.settings import REPOSITORY

DOCKER = REPOSITORY / "docker"
FILES = sorted(DOCKER.glob("Dockerfile*"))

each = pytest.mark.parametrize("file", FILES, ids=lambda file: file.name)


def hadolint(file: Path) -> str:
    """Return what hadolint has to say about a file."""
    command = [str(Path(sys.prefix) / "bin" / "hadolint"), "--no-color", str(file)]
    return subprocess.run(command, capture_output=True, text=True, check=False).stdout


@each
def test_hadolint_finds_nothing(file: Path) -> None:
    assert hadolint(file) == ""


def test_hadolint_finds_a_tool_that_is_not_pinned(tmp_path: Path) -> None:
    bad = tmp_path / "Dockerfile"
    bad.write_text("FROM debian:12\nRUN pip install torch\n")

    assert "DL3013" in hadolint(bad)


@each
def test_containers_run_as_the_account_of_all_our_pods(file: Path) -> None:
    users = re.findall(r"^USER (\S+)$", file.read_text(encoding="utf-8"), re.MULTILINE)

    assert users == [f"{USER}:{USER}"]


@each
def test_the_build_asks_nobody(file: Path) -> None:
    text = file.read_text(encoding="utf-8")

    assert not re.search(r"https?://|apt-get|curl |wget |index-url", text)
    assert text.count("pip install") == text.count("--no-index")


def test_a_baked_bento_is_started_as_the_local_fleet_starts_one() -> None:
    text = (DOCKER / "Dockerfile.bento").read_text(encoding="utf-8").replace("\\\n", " ")
    (block,) = re.findall(r"^ENV (.*)$", text, re.MULTILINE)
    said = dict(entry.split("=", 1) for entry in block.split())
    below = dict(
        re.findall(r"^\s+([A-Z_]+)=(\S*?)(?: \\)?$", (DOCKER / "Dockerfile").read_text(encoding="utf-8"), re.MULTILINE)
    )

    assert {**below, **said}.items() >= bento.serve_environment(Path("/scratch/bentoml")).items()


def test_docker_is_no_package_that_hides_the_library_of_that_name() -> None:
    assert list(DOCKER.rglob("__init__.py")) == []

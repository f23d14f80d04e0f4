"""The built trainer does the lifecycle's first steps as a restricted pod would: nobody's account, nothing to write."""

from __future__ import annotations

import hashlib
import json
import re
from pathlib import Path
from typing import Any

import pytest

from images.engine import Engine, EngineError
from pipelines import artifacts
from pipelines.artifacts import ArtifactRef
from pipelines.podspec import USER
from pipelines.settings import REPOSITORY
from tests.images.pod_case import Pods

pytestmark = [pytest.mark.slow, pytest.mark.timeout(3600)]


def configuration(docker: Engine, image: str) -> dict[str, Any]:
    """Return what an image says about itself."""
    (found,) = json.loads(docker.call("image", "inspect", image))
    return found["Config"]


def inside(docker: Engine, image: str, *command: str) -> str:
    """Return what a command prints in a container without network."""
    return docker.call("run", "--rm", "--network=none", "--read-only", "--cap-drop=ALL", image, *command)


def test_the_steps_run_as_in_a_pod_and_leave_their_receipts(docker: Engine, trainer: str, tmp_path: Path) -> None:
    pods = Pods(docker, trainer, tmp_path / "store")

    pods.run("freeze")
    validated = pods.run("validate")
    prepared = pods.run("prepare")

    assert validated.result["num_rows"] > 5000
    for name in ("tokens", "tokenizer"):
        artifacts.verify(pods.store, ArtifactRef.model_validate(prepared.result[name]))
    again = pods.run("prepare")
    assert again.result == prepared.result


def test_the_image_says_where_it_comes_from(docker: Engine, trainer: str) -> None:
    labels = configuration(docker, trainer)["Labels"]

    assert re.fullmatch(r"[0-9a-f]{40}(-changed)?", labels["org.opencontainers.image.revision"])
    lock = hashlib.sha256((REPOSITORY / "requirements.txt").read_bytes()).hexdigest()
    assert labels["dev.slipway.lock.digest"] == f"sha256:{lock}"
    assert labels["org.opencontainers.image.base.name"]


def test_nobody_runs_it_as_root_unless_asked_to(docker: Engine, trainer: str) -> None:
    assert configuration(docker, trainer)["User"] == f"{USER}:{USER}"
    assert inside(docker, trainer, "id", "-u") == str(USER)


@pytest.mark.parametrize("tool", ["pip", "uv", "gcc", "apt-get", "dpkg-buildpackage", "curl"])
def test_no_tool_that_builds_is_left(docker: Engine, trainer: str, tool: str) -> None:
    with pytest.raises(EngineError):
        inside(docker, trainer, tool, "--version")


def test_nothing_of_the_root_can_be_written(docker: Engine, trainer: str) -> None:
    with pytest.raises(EngineError, match="Read-only file system"):
        inside(docker, trainer, "python", "-c", "open('/opt/slipway/x', 'w')")


def test_no_index_or_mirror_is_named_in_it(docker: Engine, trainer: str) -> None:
    history = docker.call("image", "history", "--no-trunc", "--format", "{{.CreatedBy}}", trainer)
    places = ("/etc/pip.conf", "/etc/xdg/pip", "/etc/apt/sources.list", "/scratch/.config", "/wheels", "/build")
    there = f"import os; print([place for place in {places} if os.path.exists(place)])"

    assert "index-url" not in history
    assert inside(docker, trainer, "python", "-c", there) == "[]"

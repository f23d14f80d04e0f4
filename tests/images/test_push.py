"""Images go to a registry by a variable: to one that takes them, one that asks who it is, one that is not there."""

from __future__ import annotations

import contextlib
import subprocess
import tarfile
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
import yaml

from images import build
from images.engine import Engine, EngineError
from images.order import Order
from tests.ports import own_port
from tests.steps.live import wait_for

pytestmark = [pytest.mark.slow, pytest.mark.needs("docker-registry")]


@contextlib.contextmanager
def registry(folder: Path, **sections: object) -> Iterator[str]:
    """Run a registry for a block, and yield its host and port."""
    host = f"127.0.0.1:{own_port()}"
    storage = {"filesystem": {"rootdirectory": str(folder / "images")}}
    configuration = {"version": "0.1", "storage": storage, "http": {"addr": host}, **sections}
    (folder / "registry.yml").write_text(yaml.safe_dump(configuration))
    command = ["docker-registry", "serve", str(folder / "registry.yml")]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        wait_for(lambda: answers(host), "the registry answers")
        yield host
    finally:
        process.kill()
        process.wait()


def answers(host: str) -> bool:
    with contextlib.suppress(httpx.TransportError):
        return httpx.get(f"http://{host}/v2/", trust_env=False).status_code < 500
    return False


def image(docker: Engine, folder: Path, host: str) -> str:
    """Make an image of one file, with the name that `make images` gives, and return that."""
    (folder / "file").write_text("content")
    with tarfile.open(folder / "root.tar", "w") as archive:
        archive.add(folder / "file", "file")
    reference = Order(registry=f"{host}/ml", tag="test").reference("trainer")
    docker.call("import", folder / "root.tar", reference)
    return reference


def test_a_pushed_image_is_in_the_registry(docker: Engine, tmp_path: Path) -> None:
    with registry(tmp_path) as host:
        build.push(docker, image(docker, tmp_path, host))

        told = httpx.get(f"http://{host}/v2/ml/slipway-trainer/tags/list", trust_env=False).json()
    assert told == {"name": "ml/slipway-trainer", "tags": ["test"]}


def test_a_registry_that_asks_who_it_is_is_told_in_one_plain_error(docker: Engine, tmp_path: Path) -> None:
    (tmp_path / "users").write_text("")
    auth = {"htpasswd": {"realm": "test", "path": str(tmp_path / "users")}}
    with registry(tmp_path, auth=auth) as host, pytest.raises(EngineError) as refused:
        build.push(docker, image(docker, tmp_path, host))

    assert str(refused.value).startswith("docker push: no basic auth credentials; ")
    assert f"is `docker login {host}` done" in str(refused.value)


def test_a_registry_that_is_not_there_is_named(docker: Engine, tmp_path: Path) -> None:
    host = f"127.0.0.1:{own_port()}"

    with pytest.raises(EngineError, match=f"connection refused; {host}/ml/slipway-trainer:test is built and was not"):
        build.push(docker, image(docker, tmp_path, host))

"""A bento proves that it is whole, and says how it is started."""

from __future__ import annotations

from pathlib import Path

import pytest

from pipelines import artifacts
from pipelines.errors import ArtifactCorrupt, ArtifactMissing
from pipelines.formats import bento
from pipelines.formats.bento import ServiceFile
from pipelines.spec import ServiceConfig


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """The `src/` of a sealed bento."""
    model, made = tmp_path / "a-model", tmp_path / "bento" / "src"
    model.mkdir()
    (model / "model.safetensors").write_bytes(b"weights")
    manifest = artifacts.describe("model", model)
    (made / "model").mkdir(parents=True)
    (made / "service.py").write_text("code")
    ServiceFile(name="docs-gpt", service=ServiceConfig(workers=3)).write(made)
    (made / "model" / "manifest.json").write_bytes(manifest.canonical())
    bento.seal(made)
    (made / "bentofile.yaml").write_text("written by BentoML")
    (made / "model" / "model.safetensors").write_bytes(b"weights")
    return made


def test_a_whole_bento_proves_its_identity(source: Path) -> None:
    identity = bento.verify(source)
    assert identity.name == "docs-gpt"
    assert identity.version == artifacts.file_sha256(source / "contents.json")[:12]
    assert identity.digest == artifacts.file_sha256(source / "model" / "manifest.json")


@pytest.mark.parametrize("path", ["model/model.safetensors", "model/manifest.json", "service.json", "service.py"])
def test_an_altered_file_is_named(source: Path, path: str) -> None:
    (source / path).write_bytes((source / path).read_bytes() + b" ")
    with pytest.raises(ArtifactCorrupt, match=Path(path).name):
        bento.verify(source)


@pytest.mark.parametrize("path", ["model/model.safetensors", "service.py"])
def test_a_missing_file_is_named(source: Path, path: str) -> None:
    (source / path).unlink()
    with pytest.raises(ArtifactMissing, match=Path(path).name):
        bento.verify(source)


@pytest.mark.parametrize("path", ["model/model.pkl", "sitecustomize.py"])
def test_an_added_file_is_named(source: Path, path: str) -> None:
    (source / path).write_bytes(b"added")
    with pytest.raises(ArtifactCorrupt, match=f"{path} was added"):
        bento.verify(source)


def test_a_bento_that_was_never_sealed_is_refused(source: Path) -> None:
    (source / "contents.json").unlink()
    with pytest.raises(ArtifactCorrupt, match="no valid manifest"):
        bento.verify(source)


def test_workers_are_those_of_the_spec(source: Path, tmp_path: Path) -> None:
    assert bento.num_workers(source) == 3
    assert bento.num_workers(tmp_path) == 1


def test_a_copy_serves_on_loopback_only_and_keeps_its_metrics_to_itself(tmp_path: Path) -> None:
    command = bento.serve_command(tmp_path / "bento", 8201)
    assert command[command.index("--host") + 1] == "127.0.0.1"
    assert command[command.index("--port") + 1] == "8201"
    first, second = bento.serve_environment(tmp_path / "a"), bento.serve_environment(tmp_path / "b")
    assert first["BENTOML_HOME"] != second["BENTOML_HOME"]
    assert first["PYTHONPATH"] == ""

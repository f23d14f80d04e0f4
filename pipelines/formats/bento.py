"""What a packaged bento looks like inside, how it proves that it is whole, and how it is started.

bento.yaml, env/, apis/     as `bentoml build` writes them
src/bentos/, src/pipelines/ the code that serves
src/model/                  the model artifact, with its own manifest.json
src/service.json            name and limits of the service
src/provenance.json         where the model comes from
src/golden.jsonl, src/reference.jsonl
src/contents.json           manifest of src/; its digest names the bento's version
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path

from pydantic import ValidationError

from pipelines import artifacts
from pipelines.artifacts import MANIFEST, Manifest, canonical_json
from pipelines.errors import ArtifactCorrupt
from pipelines.spec import Frozen, ServiceConfig

SOURCE = "src"
"""Folder in the bento whose files the service reads."""

MODEL = "model"
SERVICE_FILE = "service.json"
CONTENTS_FILE = "contents.json"
CONTENTS_KIND = "bento-contents"

LOOPBACK = "127.0.0.1"

_WRITTEN_BY_BENTOML = "bentofile.yaml"


class ServiceFile(Frozen):
    """Settings of the service; part of the bento, so that a version always serves with the limits it was made with."""

    name: str
    """Model name."""

    service: ServiceConfig

    def write(self, source: Path) -> None:
        """Write the file into `src/`."""
        (source / SERVICE_FILE).write_bytes(canonical_json(self.model_dump(mode="json")))


@dataclass(frozen=True)
class Identity:
    """Which bento this is, computed from its files."""

    name: str
    """Model name."""

    version: str
    """Version in the bento's tag: first 12 digits of the digest of its contents."""

    digest: str
    """Digest of the model artifact."""


def read_service_file(source: Path) -> ServiceFile:
    """Return the service's settings.

    Raises:
        ArtifactCorrupt: when there are none, or they are not valid.
    """
    try:
        return ServiceFile.model_validate_json((source / SERVICE_FILE).read_bytes())
    except (FileNotFoundError, ValidationError) as error:
        raise ArtifactCorrupt(f"{source / SERVICE_FILE}: no valid service settings: {error}") from error


def num_workers(source: Path) -> int:
    """Return how many processes serve; 1 where no valid settings are: there is nothing, or `verify` will refuse it."""
    try:
        return read_service_file(source).service.workers
    except ArtifactCorrupt:
        return 1


def seal(source: Path) -> str:
    """Write `contents.json` for everything in `src/` and return the bento's version.

    To be called when all but the model's own files are there; those are covered by `model/manifest.json`, a content.
    """
    contents = artifacts.describe(CONTENTS_KIND, source)
    (source / CONTENTS_FILE).write_bytes(contents.canonical())
    return _version(contents)


def verify(source: Path) -> Identity:
    """Read every byte of `src/`, compare it with what was packaged, and return what it proved to be.

    Raises:
        ArtifactMissing: names the file that is gone.
        ArtifactCorrupt: names the file that was altered or added.
    """
    name = f"bento {source.parent.name[:12]}"
    contents = _read_manifest(source / CONTENTS_FILE)
    model = _read_manifest(source / MODEL / MANIFEST)
    in_model = {f"{MODEL}/{file.path}" for file in model.files}
    known = {file.path for file in contents.files} | in_model | {CONTENTS_FILE, _WRITTEN_BY_BENTOML}
    found = sorted(path.relative_to(source).as_posix() for path in source.rglob("*") if not path.is_dir())
    if added := [path for path in found if path not in known]:
        raise ArtifactCorrupt(f"{name}: {added[0]} was added after packaging; package the model again")
    artifacts.verify_folder(source, contents, name)
    artifacts.verify_folder(source / MODEL, model, f"model in {name}")
    return Identity(name=read_service_file(source).name, version=_version(contents), digest=model.digest)


def serve_command(folder: Path, port: int, host: str = LOOPBACK, python: str = sys.executable) -> list[str]:
    """Return the command that serves a packaged bento; stop it by process group."""
    return [python, "-m", "bentoml", "serve", str(folder), "--host", host, "--port", str(port)]


def serve_environment(home: Path) -> dict[str, str]:
    """Return the variables that a serving process needs over its parent's.

    Args:
        home: writable folder of this one process: BentoML empties its metrics folder there when it starts, so two
            copies must never share it. Nothing is written into the bento.
    """
    return {
        "BENTOML_HOME": str(home),
        "BENTOML_DO_NOT_TRACK": "True",
        "HF_HUB_OFFLINE": "1",
        "OTEL_SDK_DISABLED": "true",
        "PYTHONDONTWRITEBYTECODE": "1",
        "PYTHONPATH": "",  # the bento brings its own code
        "PYTHONSAFEPATH": "1",
        "PYTHONUNBUFFERED": "1",
        "TOKENIZERS_PARALLELISM": "false",
    }


def _version(contents: Manifest) -> str:
    return contents.digest[:12]


def _read_manifest(path: Path) -> Manifest:
    try:
        return Manifest.model_validate_json(path.read_bytes())
    except (FileNotFoundError, ValidationError) as error:
        raise ArtifactCorrupt(f"{path}: no valid manifest: {error}") from error

"""Build a bento with BentoML, in a process of its own, and make equal inputs give equal bytes."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import yaml

from pipelines.artifacts import Manifest
from pipelines.errors import SlipwayError
from pipelines.formats import bento

EPOCH = "1970-01-01T00:00:00+00:00"
"""Stands for the time of creation: the same bento made twice is the same bento."""


class BentoBuildFailed(SlipwayError):
    """`bentoml build` did not end well; its last words are in the message."""


def write_build_file(source: Path, *, name: str, service: str, libraries: dict[str, str]) -> None:
    """Write the `bentofile.yaml` of a bento whose files lie in `source`."""
    content = {
        "service": f"bentos.{service}.service:TextGeneration",
        "name": name,
        "labels": {"model": name},
        "description": f"{name}, packaged by Slipway; see src/provenance.json for where it comes from.",
        "include": ["**/*"],
        "python": {"packages": [f"{library}=={version}" for library, version in sorted(libraries.items())],
                   "lock_packages": False},
        "docker": {"python_version": f"{sys.version_info.major}.{sys.version_info.minor}"},
    }  # fmt: skip
    (source / "bentofile.yaml").write_text(yaml.safe_dump(content, sort_keys=True), encoding="utf-8")


def build(source: Path, *, version: str, home: Path) -> Path:
    """Run `bentoml build` on a folder and return the bento's own folder below `home`.

    Args:
        source: files of the bento with their `bentofile.yaml`.
        version: version part of the tag.
        home: BENTOML_HOME of this build; must not lie inside `source`.

    Raises:
        BentoBuildFailed: with BentoML's own message.
    """
    command = [sys.executable, "-m", "bentoml", "build", "--version", version, "--output", "tag", str(source)]
    environment = {**os.environ, **bento.serve_environment(home)}
    done = subprocess.run(command, cwd=source, env=environment, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise BentoBuildFailed(f"bentoml build failed: {' '.join((done.stderr or done.stdout).split())[-2000:]}")
    (metadata,) = home.glob(f"bentos/*/{version}/bento.yaml")
    _normalise(metadata)
    return metadata.parent


def place_model(model: Path, manifest: Manifest, target: Path) -> None:
    """Put the files that a manifest names into a bento, by hard links where the file system allows it."""
    for file in manifest.files:
        place = target / file.path
        place.parent.mkdir(parents=True, exist_ok=True)
        _link(model / file.path, place)


def _link(path: Path, place: Path) -> None:
    try:
        os.link(path, place)
    except OSError:
        shutil.copyfile(path, place)


def _normalise(metadata: Path) -> None:
    content = yaml.safe_load(metadata.read_text(encoding="utf-8"))
    content["creation_time"] = EPOCH
    metadata.write_text(yaml.safe_dump(content, sort_keys=True), encoding="utf-8")

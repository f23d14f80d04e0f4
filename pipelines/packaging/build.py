"""Build a bento with BentoML, in a process of its own, and make equal inputs give equal bytes."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
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


def build(source: Path, *, version: str, target: Path) -> None:
    """Run `bentoml build` on a folder and put the bento into the folder `target`, which it makes.

    BentoML refuses files below a hidden folder, and the default home is one (`.slipway`): it works in the system's
    folder for temporary files.

    Args:
        source: files of the bento with their `bentofile.yaml`.
        version: version part of the tag.
        target: where the bento goes; must not exist.

    Raises:
        BentoBuildFailed: with BentoML's own message.
    """
    with tempfile.TemporaryDirectory(prefix="slipway-bento-") as visible:
        work, home = Path(visible) / "source", Path(visible) / "bentoml"
        shutil.copytree(source, work)
        command = [sys.executable, "-m", "bentoml", "build", "--version", version, "--output", "tag", str(work)]
        environment = {**os.environ, **bento.serve_environment(home)}
        done = subprocess.run(command, cwd=work, env=environment, capture_output=True, text=True, check=False)
        if done.returncode != 0:
            raise BentoBuildFailed(f"bentoml build failed: {_last_line(done.stderr) or _last_line(done.stdout)}")
        (metadata,) = home.glob(f"bentos/*/{version}/bento.yaml")
        _normalise(metadata)
        shutil.move(metadata.parent, target)


def place_model(model: Path, manifest: Manifest, target: Path) -> None:
    """Put the files that a manifest names into a bento, by hard links where the file system allows it."""
    for file in manifest.files:
        place = target / file.path
        place.parent.mkdir(parents=True, exist_ok=True)
        _link(model / file.path, place)


def _last_line(text: str) -> str:
    return next((line for line in reversed(text.splitlines()) if line.strip()), "")


def _link(path: Path, place: Path) -> None:
    try:
        os.link(path, place)
    except OSError:
        shutil.copyfile(path, place)


def _normalise(metadata: Path) -> None:
    content = yaml.safe_load(metadata.read_text(encoding="utf-8"))
    content["creation_time"] = EPOCH
    metadata.write_text(yaml.safe_dump(content, sort_keys=True), encoding="utf-8")

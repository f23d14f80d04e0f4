"""The folder that docker builds from: one image's wheels, code and Dockerfile, and the words on its label."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import tomllib
from collections.abc import Iterable, Mapping
from pathlib import Path

from images.recipes import REPOSITORY, Recipe
from pipelines.formats import bento as form

UNKNOWN = "unknown"
_GIT = "git"
_NOT_CODE = shutil.ignore_patterns("__pycache__", "*.pyc")


def stage(recipe: Recipe, packages: Path, target: Path) -> None:
    """Fill `target` with what the Dockerfile copies.

    Args:
        recipe: of the image.
        packages: folder that `wheels.fetch` returned.
        target: an empty folder.
    """
    shutil.copytree(packages, target, dirs_exist_ok=True, copy_function=_link)
    for path in recipe.code:
        shutil.copytree(REPOSITORY / path, target / "code" / path, ignore=_NOT_CODE)
    shutil.copyfile(REPOSITORY / "docker" / "Dockerfile", target / "Dockerfile")


def stage_bento(bento: Path, target: Path) -> str:
    """Fill `target` with a packaged bento and its Dockerfile; return the digest of the bento's files.

    Raises:
        SlipwayError: when a byte of the bento is not as it was packaged.
    """
    form.verify(bento / form.SOURCE)
    shutil.copytree(bento, target / "bento")
    shutil.copyfile(REPOSITORY / "docker" / "Dockerfile.bento", target / "Dockerfile")
    return f"sha256:{hashlib.sha256((bento / form.SOURCE / form.CONTENTS_FILE).read_bytes()).hexdigest()}"


def label_arguments(recipe: Recipe, base: str) -> Mapping[str, str]:
    """Return the build arguments that become labels."""
    lock = (REPOSITORY / "requirements.txt").read_bytes()
    return {
        "BASE_IMAGE": base,
        "TITLE": recipe.title,
        "VERSION": project_version(),
        "REVISION": revision(recipe.code),
        "LOCK_DIGEST": f"sha256:{hashlib.sha256(lock).hexdigest()}",
    }


def project_version() -> str:
    """Return the version in pyproject.toml."""
    content = tomllib.loads((REPOSITORY / "pyproject.toml").read_text(encoding="utf-8"))
    return str(content["project"]["version"])


def revision(paths: Iterable[str]) -> str:
    """Return git's revision, marked when one of `paths` differs from it; outside a checkout, `unknown`."""
    commit = _git("rev-parse", "HEAD")
    if not commit:
        return UNKNOWN
    changed = _git("status", "--porcelain", "--", *paths, "requirements.txt", "docker")
    return f"{commit}-changed" if changed else commit


def _git(*arguments: str) -> str:
    try:
        done = subprocess.run([_GIT, *arguments], cwd=REPOSITORY, capture_output=True, text=True, check=False)
    except FileNotFoundError:
        return ""
    return done.stdout.strip()


def _link(source: str, target: str) -> None:
    """Link a file instead of copying it, where that works: wheels are large."""
    try:
        os.link(source, target)
    except OSError:
        shutil.copyfile(source, target)

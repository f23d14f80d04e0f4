"""The overlays as a cluster would get them."""

from __future__ import annotations

import functools
import shutil
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml

from pipelines.settings import REPOSITORY

Body = dict[str, Any]

MANIFESTS = REPOSITORY / "docker" / "k8s"
OVERLAYS = ("eks", "kind")


@functools.cache
def text_of(overlay: str) -> str:
    """Return an overlay, rendered by kustomize without asking any cluster."""
    if shutil.which("kubectl") is None:
        pytest.skip("needs kubectl")
    command = ["kubectl", "kustomize", str(MANIFESTS / "overlays" / overlay)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


@functools.cache
def objects_of(overlay: str) -> tuple[Body, ...]:
    """Return the objects of an overlay."""
    return tuple(yaml.safe_load_all(text_of(overlay)))


def of_kind(overlay: str, kind: str) -> list[Body]:
    """Return an overlay's objects of a kind."""
    return [body for body in objects_of(overlay) if body["kind"] == kind]


def named(overlay: str, kind: str, name: str, namespace: str | None = None) -> Body:
    """Return one object."""
    (found,) = [
        body
        for body in of_kind(overlay, kind)
        if body["metadata"]["name"] == name and namespace in (None, body["metadata"].get("namespace"))
    ]
    return found


def settings_of(overlay: str) -> Mapping[str, str]:
    """Return what an overlay's `settings.env` sets."""
    lines = (MANIFESTS / "overlays" / overlay / "settings.env").read_text(encoding="utf-8").splitlines()
    return dict(line.split("=", 1) for line in lines if line and not line.startswith("#"))


def values_of(*files: Path) -> Body:
    """Return the values of Airflow's chart, later files over earlier ones, as Helm merges them."""
    merged: Body = {}
    for file in files:
        merged = _merged(merged, yaml.safe_load(file.read_text(encoding="utf-8")))
    return merged


def _merged(below: Body, above: Body) -> Body:
    both = {
        key: _merged(below[key], value) if isinstance(value, dict) and isinstance(below.get(key), dict) else value
        for key, value in above.items()
    }
    return {**below, **both}

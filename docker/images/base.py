"""The image that all others stand on: there, pulled, or made here from Debian's archive."""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
import subprocess
import tempfile
from pathlib import Path

from images.engine import Engine, EngineError

REGISTRY_BASE = "python:3.11-slim-bookworm"
"""Used where a registry is reachable."""

SUITE = "bookworm"
PACKAGES = ("ca-certificates", "libpython3.11-stdlib", "libstdc++6", "python3.11-minimal", "tzdata")
LEFT_OUT = ("doc", "info", "locale", "man")
"""Folders of /usr/share that nobody reads in a container."""

LOCAL_BASE = f"slipway-base:{SUITE}-{hashlib.sha256(repr((PACKAGES, LEFT_OUT)).encode()).hexdigest()[:8]}"
"""Made here where no registry is reachable; another choice of packages gives another name."""


def ensure(engine: Engine, wanted: str) -> str:
    """Return the name of a base image that the engine has.

    Args:
        engine: to ask.
        wanted: image with `python3.11` on its path; empty: the registry's, and where none is reachable our own.

    Raises:
        EngineError: when `wanted` is not to be had, or there is nothing to make one with.
    """
    for name in (wanted,) if wanted else (REGISTRY_BASE, LOCAL_BASE):
        if engine.has(name):
            return name
    if wanted:
        engine.call("pull", "--quiet", wanted)
        return wanted
    with contextlib.suppress(EngineError):
        engine.call("pull", "--quiet", REGISTRY_BASE)
        return REGISTRY_BASE
    return _make(engine)


def _make(engine: Engine) -> str:
    """Make a base image of Debian's essential packages and Python: no apt, no compiler, no pip."""
    if os.geteuid() != 0 or shutil.which("mmdebstrap") is None:
        raise EngineError(
            f"{REGISTRY_BASE} cannot be pulled; name an image with BASE_IMAGE, or run this as root with Debian's "
            "package mmdebstrap to make one"
        )
    with tempfile.TemporaryDirectory(prefix="slipway-base-") as folder:
        archive = Path(folder) / "root.tar"
        subprocess.run(
            [
                *("mmdebstrap", "--quiet", "--variant=essential", f"--include={','.join(PACKAGES)}"),
                *(f"--dpkgopt=path-exclude=/usr/share/{name}/*" for name in LEFT_OUT),
                '--customize-hook=rm "$1"/etc/apt/sources.list',
                *(SUITE, str(archive)),
            ],
            check=True,
        )
        engine.call("import", "--change", 'CMD ["python3.11"]', str(archive), LOCAL_BASE)
    return LOCAL_BASE

"""Wheels for one image, fetched before the build by this machine's pip: its indexes, mirrors and credentials never get
near an image, and the build itself needs no network."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
from pathlib import Path

from images.lock import Pin

TORCH = "torch"


def requirements(pins: list[Pin], variant: str) -> str:
    """Return the requirements of an image.

    `===` takes torch's own wheel from PyPI, which brings CUDA; `==` also takes one whose local version says `+cpu`, and
    pip prefers that wherever an index or folder of its configuration offers it.
    """
    sign = "===" if variant == "cuda" else "=="
    return "".join(f"{pin.name}{sign if pin.name == TORCH else '=='}{pin.version}\n" for pin in pins)


def fetch(text: str, lock: Path, cache: Path) -> Path:
    """Return a folder with `requirements.txt`, `pip.whl` and, in `wheels/`, everything that the requirements need.

    A folder that is there is complete: it gets its name when all is in it.
    """
    folder = cache / hashlib.sha256(text.encode() + lock.read_bytes()).hexdigest()[:16]
    if folder.is_dir():
        return folder
    partial = folder.with_suffix(f".{os.getpid()}")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    (partial / "requirements.txt").write_text(text, encoding="utf-8")
    pip = [sys.executable, "-m", "pip", "wheel", "-qq", "--wheel-dir"]
    subprocess.run([*pip, partial / "pip", "--no-deps", "pip>=25.3"], check=True)
    (wheel,) = (partial / "pip").iterdir()
    wheel.rename(partial / "pip.whl")
    (partial / "pip").rmdir()
    wanted: list[str | Path] = [
        "--requirement",
        partial / "requirements.txt",
        "--constraint",
        _without_torch(lock, partial),
    ]
    subprocess.run([*pip, partial / "wheels", *wanted], check=True)
    partial.rename(folder)
    return folder


def _without_torch(lock: Path, folder: Path) -> Path:
    """Return the lock as constraints, without torch: it would refuse a wheel that the requirements name exactly."""
    target = folder / "constraints.txt"
    lines = (line for line in lock.read_text(encoding="utf-8").splitlines() if not line.startswith(f"{TORCH}=="))
    target.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return target

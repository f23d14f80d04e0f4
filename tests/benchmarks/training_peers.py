"""The frameworks that training is compared with, installed beside it: they are no part of Slipway's environment."""

from __future__ import annotations

import subprocess
import sys
import sysconfig
from pathlib import Path

REQUIREMENTS = ("accelerate>=1.15", "lightning-utilities>=0.15", "pytorch-lightning>=2.6", "torchmetrics>=1.9")


def install_peers(folder: Path) -> Path:
    """Make a virtual environment that adds the frameworks to this one's packages; return its interpreter.

    One that was made before, with the same requirements, is used again.
    """
    python, mark = folder / "bin" / "python", folder / "installed.txt"
    wanted = "\n".join((sys.executable, *REQUIREMENTS))
    if mark.is_file() and mark.read_text(encoding="utf-8") == wanted:
        return python
    uv = str(Path(sys.executable).with_name("uv"))
    subprocess.run([uv, "venv", "--quiet", "--clear", "--python", sys.executable, str(folder)], check=True)
    (site,) = folder.glob("lib/python*/site-packages")
    (site / "slipway.pth").write_text(sysconfig.get_path("purelib") + "\n", encoding="utf-8")
    subprocess.run(
        [uv, "pip", "install", "--quiet", "--python", str(python), "--no-deps", *REQUIREMENTS], check=True
    )  # what they stand on, torch above all, is Slipway's
    mark.write_text(wanted, encoding="utf-8")
    return python

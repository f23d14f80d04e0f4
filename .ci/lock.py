"""Compile the lock files from pyproject.toml (`make lock`), or say that they are stale (`make check`).

A lock's first line holds the sha256 of the requirements that it was compiled from, so staleness shows without an index.
The packages that bring CUDA are left out: torch's own metadata asks for them where the machine's build needs them, and
a lock with them would pull gigabytes onto machines without a GPU.
"""

from __future__ import annotations

import hashlib
import json
import re
import subprocess
import sys
import tomllib
from dataclasses import dataclass
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parent.parent
CUDA = re.compile(r"^(nvidia-|cuda-|triton\b)")


@dataclass(frozen=True)
class Lock:
    """One lock file and where its requirements come from."""

    file: str
    arguments: tuple[str, ...]
    section: tuple[str, ...]

    @property
    def path(self) -> Path:
        """Where the lock is."""
        return REPOSITORY / self.file

    def first_line(self) -> str:
        """Return the line that a current lock begins with."""
        requirements = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())
        for name in self.section:
            requirements = requirements[name]
        digest = hashlib.sha256(json.dumps(sorted(requirements)).encode()).hexdigest()
        return f"# {'.'.join(self.section)} of pyproject.toml, sha256 {digest}; written by `make lock`\n"

    def is_current(self) -> bool:
        """Say whether the lock was compiled from the requirements as they are."""
        return self.path.is_file() and self.path.read_text().startswith(self.first_line())

    def write(self, uv: str) -> None:
        """Compile the lock; pins that still fit are kept."""
        command = [
            uv,
            "pip",
            "compile",
            *self.arguments,
            "--python-version",
            "3.11",
            "--no-header",
            "--quiet",
            "-o",
            self.file,
        ]
        subprocess.run(command, cwd=REPOSITORY, check=True)
        self.path.write_text(self.first_line() + without_cuda(self.path.read_text()))


LOCKS = (
    Lock("requirements.txt", ("pyproject.toml",), ("project", "dependencies")),
    Lock("requirements-dev.txt", ("--group", "dev", "-c", "requirements.txt"), ("dependency-groups", "dev")),
)


def without_cuda(text: str) -> str:
    """Return a compiled lock without the packages that bring CUDA, and without the comments below them."""
    kept, skipping = [], False
    for line in text.splitlines(keepends=True):
        if not line.startswith(" "):
            skipping = CUDA.match(line) is not None
        if not skipping:
            kept.append(line)
    return "".join(kept)


def main(arguments: list[str]) -> int:
    """Run `write UV` or `check`; return the exit status."""
    match arguments:
        case ["write", uv]:
            for lock in LOCKS:
                lock.write(uv)
            return 0
        case ["check"]:
            stale = [lock.file for lock in LOCKS if not lock.is_current()]
            for file in stale:
                print(f"error: {file} does not belong to pyproject.toml as it is; run `make lock`", file=sys.stderr)
            return 1 if stale else 0
    print(__doc__, file=sys.stderr)
    return 2


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

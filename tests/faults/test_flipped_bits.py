"""Backups whose bytes changed on the disk: every flipped bit is found before a byte is restored."""

from __future__ import annotations

import os
import random
from pathlib import Path

import pytest

from pipelines.backup.errors import BackupDamaged
from tests.unit.backup.saved import Saved

FLIPS = 2000
BACKUP_BYTES = 8 << 20


@pytest.mark.parametrize("num_flips", [100, pytest.param(FLIPS, marks=pytest.mark.slow)])
def test_flipped_bits_are_all_found_before_a_byte_is_restored(tmp_path: Path, num_flips: int) -> None:
    saved = Saved(tmp_path / "installation")
    saved.back_up(saved.version(1, size_bytes=BACKUP_BYTES))
    chance = random.Random(0)  # noqa: S311 - a seeded choice, no secret
    paths = [path for path in (saved.folder / "backup").rglob("*") if path.is_file()]
    sizes = {path: path.stat().st_size for path in paths}
    assert sum(sizes.values()) >= BACKUP_BYTES
    small = [path for path in paths if sizes[path] < 100_000]
    found = 0
    for flip in range(num_flips):
        path = chance.choices(paths, weights=list(sizes.values()))[0] if flip % 2 else chance.choice(small)
        with flipped(path, chance.randrange(sizes[path]), 1 << chance.randrange(8)):
            try:
                saved.restore()
            except BackupDamaged:
                found += saved.nothing_was_restored()
    assert found == num_flips


class flipped:  # noqa: N801 - reads as a verb
    """Flip a bit of a file for a block."""

    def __init__(self, path: Path, place: int, bit: int) -> None:
        self._path, self._place, self._bit = path, place, bit

    def __enter__(self) -> None:
        self._flip()

    def __exit__(self, *_: object) -> None:
        self._flip()

    def _flip(self) -> None:
        with self._path.open("r+b") as file:
            byte = os.pread(file.fileno(), 1, self._place)[0]
            os.pwrite(file.fileno(), bytes([byte ^ self._bit]), self._place)

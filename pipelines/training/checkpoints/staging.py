"""How much memory of the host a rank takes to stage its file of a checkpoint."""

from __future__ import annotations

SLOT_BYTES = 256 << 20
"""Size of a piece of staging memory: of what is pinned torch takes a power of two, and one piece might be twice a file.

A multiple of the largest element, so that no element lies in two.
"""


def pinned_bytes(size_bytes: int) -> int:
    """Return what torch pins to give so much: the next power of two."""
    return 1 << (size_bytes - 1).bit_length() if size_bytes else 0


def staged_bytes(file_bytes: int) -> int:
    """Return what torch pins for the slots of a file."""
    num_full, rest = divmod(file_bytes, SLOT_BYTES)
    return num_full * SLOT_BYTES + pinned_bytes(rest)

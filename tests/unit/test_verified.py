"""Objects whose digest is known: what is read again is what was verified, whatever happens in between."""

from __future__ import annotations

import hashlib
import itertools
import random
from collections.abc import Callable, Iterator

import pytest

from pipelines import verified
from pipelines.errors import StoreUnavailable
from pipelines.store import Store

PIECE_BYTES = 10
DATA = random.Random(1).randbytes(45)  # noqa: S311 - no secret
PATH = "a/b"


@pytest.fixture(autouse=True)
def _small_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(verified, "_PIECE_BYTES", PIECE_BYTES)


def verify(store: Store) -> verified.Landmarks:
    """Write the object, and verify it."""
    store.put(PATH, DATA)
    known = verified.landmarks(store, PATH, hashlib.sha256(DATA).hexdigest())
    assert known is not None
    return known


def with_a_flip(position: int) -> bytes:
    return bytes(byte ^ (place == position) for place, byte in enumerate(DATA))


def readings(monkeypatch: pytest.MonkeyPatch, store: Store, *contents: bytes) -> list[bytes]:
    """Let the next readings find other bytes, which come in chunks of any size; return those that nobody read."""
    left = list(contents)

    def chunks(path: str) -> Iterator[bytes]:
        data = left.pop(0)
        yield from (data[start : start + 7] for start in range(0, len(data), 7))

    monkeypatch.setattr(store, "chunks", chunks)
    return left


@pytest.mark.parametrize("content", [with_a_flip(44), DATA[:-1], DATA + b"x", b""])
def test_what_is_not_right_has_no_landmarks(store: Store, content: bytes) -> None:
    store.put(PATH, content)
    assert verified.landmarks(store, PATH, hashlib.sha256(DATA).hexdigest()) is None


def test_pieces_are_the_object(store: Store) -> None:
    assert [len(piece) for piece in verified.pieces(store, PATH, verify(store))] == [10, 10, 10, 10, 5]
    assert b"".join(verified.pieces(store, PATH, verify(store))) == DATA


@pytest.mark.parametrize(
    "line_damages",
    [
        pytest.param([with_a_flip(0)], id="first-piece"),
        pytest.param([with_a_flip(25), with_a_flip(44)], id="twice"),
        pytest.param([DATA[:30], DATA[:33]], id="cut"),
    ],
)
def test_pieces_that_the_line_damages_are_read_again(
    line_damages: list[bytes], store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    known = verify(store)
    left = readings(monkeypatch, store, *line_damages, DATA)
    assert b"".join(verified.pieces(store, PATH, known)) == DATA
    assert left == []


@pytest.mark.parametrize(
    ("change", "sound_bytes"),
    [
        pytest.param(lambda store: store.put(PATH, with_a_flip(25)), 20, id="flipped"),
        pytest.param(lambda store: store.put(PATH, DATA[:33]), 30, id="cut"),
        pytest.param(lambda store: store.delete(PATH), 0, id="gone"),
    ],
)
def test_no_piece_is_yielded_that_has_changed(store: Store, change: Callable[[Store], None], sound_bytes: int) -> None:
    known = verify(store)
    change(store)
    again = verified.pieces(store, PATH, known)
    found = b"".join(itertools.islice(again, sound_bytes // PIECE_BYTES))
    with pytest.raises(StoreUnavailable, match="a/b changed while it was read"):
        next(again)
    assert found == DATA[:sound_bytes]

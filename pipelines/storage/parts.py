"""Large objects in parts: how they are cut, what tag a server gives to them, and how many are on their way at once."""

from __future__ import annotations

import hashlib
import logging
import random
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import islice
from typing import TypeVar

from pipelines.trouble import Unsound

logger = logging.getLogger(__name__)

PART_BYTES = 8 << 20
"""Size of a part; an object that is no larger has one part."""

NUM_THREADS = 10
"""Parts, or small objects, that are on their way at once: as many as boto3's own transfers."""

_MAX_PARTS = 10_000
"""Most parts of an object, by the rules of S3."""

_TRIES = 6
_TRIES_SECONDS = 900.0
"""No new try begins later than this after the first."""

_LONGEST_PAUSE_SECONDS = 20.0

S = TypeVar("S")
T = TypeVar("T")


def part_bytes(size: int) -> int:
    """Return the size of the parts of an object that is written: whole multiples of `PART_BYTES`."""
    return PART_BYTES * max(1, -(-size // (PART_BYTES * _MAX_PARTS)))


def spans(size: int, part: int) -> list[tuple[int, int]]:
    """Return offset and length of every part."""
    return [(offset, min(part, size - offset)) for offset in range(0, size, part)]


def md5(data: bytes) -> bytes:
    """Return the digest that S3 knows by the names Content-MD5 and ETag; it is no secret's guard."""
    return hashlib.md5(data, usedforsecurity=False).digest()


def tag_of(digests: Iterable[bytes]) -> str:
    """Return the ETag that S3 gives to an object whose parts have these digests, when it keeps it unencrypted."""
    match list(digests):
        case []:
            return md5(b"").hex()
        case [only]:
            return only.hex()
        case several:
            return f"{md5(b''.join(several)).hex()}-{len(several)}"


def in_order(act: Callable[[S], T], items: Iterable[S], num_threads: int = NUM_THREADS) -> Iterator[T]:
    """Yield the results in the order of the items; a few items ahead are under way, and a failure ends the others."""
    waiting = iter(items)
    with ThreadPoolExecutor(num_threads) as pool:
        running: deque[Future[T]] = deque(pool.submit(act, item) for item in islice(waiting, num_threads))
        try:
            while running:
                result = running.popleft().result()
                running.extend(pool.submit(act, item) for item in islice(waiting, 1))
                yield result
        finally:
            pool.shutdown(wait=False, cancel_futures=True)


def again(act: Callable[[], T]) -> T:
    """Do something until what came or went is whole and right; pauses grow and vary, tries and time are bounded.

    Raises:
        Unsound: when it never is.
    """
    last_start = time.monotonic() + _TRIES_SECONDS
    for number in range(1, _TRIES):
        try:
            return act()
        except Unsound as problem:
            if time.monotonic() > last_start:
                raise
            logger.warning("%s; trying again (%d of %d)", problem, number, _TRIES - 1)
            time.sleep(random.uniform(0, min(_LONGEST_PAUSE_SECONDS, 0.2 * 2**number)))  # noqa: S311 - no secret
    return act()

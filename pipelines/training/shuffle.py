"""A shuffled order of so many things that need never be written down: each place is computed when it is asked for."""

from __future__ import annotations

import functools
import math

import numpy as np
import numpy.typing as npt

ROUNDS = 8
"""With up to 5, chi-squared tests of short orders find neighbours that tend to stay together."""

Numbers = npt.NDArray[np.uint64]

_HALF: Numbers = np.array(32, np.uint64)  # numpy takes up to twice as long with its own scalars
_MIX: tuple[Numbers, ...] = tuple(np.array(each, np.uint64) for each in (0xBF58476D1CE4E5B9, 0x94D049BB133111EB))
"""SplitMix64's factors: Steele, Lea and Flood, "Fast Splittable Pseudorandom Number Generators", 2014."""


def shuffled(places: npt.NDArray[np.int64], size: int, seed: int, epoch: int) -> npt.NDArray[np.int64]:
    """Return what stands at some places of a shuffled order of the numbers 0 to `size` (exclusive), same shape.

    A generalised Feistel network, with cycle walking: whoever lands beyond the end goes on until it does not. Black and
    Rogaway, "Ciphers with Arbitrary Finite Domains", 2002.

    Args:
        places: 0 to `size` (exclusive).
        size: of the order.
        seed: from 0; each seed has an order of its own.
        epoch: from 0; so has each epoch.
    """
    keys = _keys(seed, epoch)
    numbers = _encrypted(places.astype(np.uint64), size, keys)
    while (beyond := numbers >= size).any():
        numbers[beyond] = _encrypted(numbers[beyond], size, keys)
    return numbers.astype(np.int64)


def _encrypted(numbers: Numbers, size: int, keys: Numbers) -> Numbers:
    """Permute the numbers below the smallest product of two nearly equal factors that is at least `size`."""
    rows = math.isqrt(size - 1) + 1
    modulus, other = np.array(rows, np.uint64), np.array(-(-size // rows), np.uint64)
    right = numbers // modulus
    left = numbers - right * modulus
    for key in keys:
        left, right = right, _added(left, right + key, modulus)
        modulus, other = other, modulus
    return right * modulus + left


def _added(left: Numbers, mixed: Numbers, modulus: Numbers) -> Numbers:
    """Return `left` plus a random function of what is mixed, below the modulus; changes `mixed`."""
    mixed *= _MIX[0]
    mixed ^= mixed >> _HALF
    mixed *= _MIX[1]
    mixed >>= _HALF
    mixed *= modulus  # a random number of 32 bits becomes one below the modulus: Lemire, 2019
    mixed >>= _HALF
    mixed += left
    within: Numbers = np.minimum(mixed, mixed - modulus)  # which wraps round when it is below
    return within


@functools.lru_cache(maxsize=4)
def _keys(seed: int, epoch: int) -> Numbers:
    return np.random.SeedSequence((seed, epoch)).generate_state(ROUNDS, np.uint64).astype(np.uint64)

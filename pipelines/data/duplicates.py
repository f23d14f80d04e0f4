"""Removal of exact and near duplicates: what is said twice is learnt twice, and would leak from train to validation."""

from __future__ import annotations

import hashlib
import re
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

_WORD = re.compile(r"\w+")

_ALLOWED_MISS = 1e-5
"""Most probable share of pairs at the threshold that the MinHash search may overlook."""


@dataclass(frozen=True, slots=True)
class Duplicate:
    """A document left out, and the earlier one that stays in its place."""

    index: int
    kept: int


def normalised(text: str) -> str:
    """Return a text in Unicode NFC with every run of white space as one space: what exact duplicates share."""
    return " ".join(unicodedata.normalize("NFC", text).split())


def words(text: str) -> list[str]:
    """Return the words of a text in lower case, without punctuation."""
    return _WORD.findall(unicodedata.normalize("NFC", text).lower())


def find_exact(texts: Sequence[str]) -> list[Duplicate]:
    """Return every text whose normalised form has the sha256 of an earlier one's."""
    first: dict[bytes, int] = {}
    found = []
    for index, text in enumerate(texts):
        kept = first.setdefault(hashlib.sha256(normalised(text).encode()).digest(), index)
        if kept != index:
            found.append(Duplicate(index, kept))
    return found


def find_near(
    texts: Sequence[str], *, threshold: float, permutations: int = 64, shingle_words: int = 5
) -> list[Duplicate]:
    """Return every text that is a near duplicate of an earlier one that stays.

    Candidates come from MinHash with locality-sensitive hashing (Broder 1997; Indyk and Motwani 1998, by datasketch),
    with bands chosen so that a pair at the threshold is overlooked with a probability below 1e-5 where `permutations`
    allow; each candidate is then confirmed by the exact Jaccard similarity of the two sets of shingles.

    Args:
        texts: documents; of two near duplicates the earlier stays.
        threshold: Jaccard similarity from which two texts count as one; 1 finds none.
        permutations: of the MinHash; more overlook fewer pairs.
        shingle_words: words per shingle; a shorter text is one shingle.
    """
    if threshold >= 1.0:
        return []
    from datasketch import MinHash, MinHashLSH

    shingles = _shingles(texts, shingle_words)
    blank = MinHash(num_perm=permutations, scheme="affine64", hashfunc=int)
    index = MinHashLSH(num_perm=permutations, params=_bands(threshold, permutations))
    found = []
    for position, own in enumerate(shingles):
        if not own.size:
            continue
        sketch = blank.copy()
        sketch.update_batch(own.tolist())
        candidates = sorted(index.query(sketch))
        kept = next((other for other in candidates if jaccard(own, shingles[other]) >= threshold), None)
        if kept is None:
            index.insert(position, sketch, check_duplication=False)
        else:
            found.append(Duplicate(position, kept))
    return found


def jaccard(first: npt.NDArray[np.uint64], second: npt.NDArray[np.uint64]) -> float:
    """Return the size of the intersection over that of the union of two sets, given as arrays without repetition."""
    shared = np.intersect1d(first, second, assume_unique=True).size
    return float(shared / (first.size + second.size - shared))


def _bands(threshold: float, permutations: int) -> tuple[int, int]:
    """Return (bands, rows per band): the most selective choice that hardly overlooks a pair at the threshold."""
    for rows in range(permutations, 1, -1):
        bands = permutations // rows
        if (1.0 - threshold**rows) ** bands <= _ALLOWED_MISS:
            return bands, rows
    return permutations, 1


def _shingles(texts: Sequence[str], size: int) -> list[npt.NDArray[np.uint64]]:
    """Return for each text the distinct 64-bit hashes of its runs of `size` words.

    A word's hash is blake2b, a run's is a polynomial of its words' hashes: equal in every process.
    """
    known: dict[str, int] = {}
    factor = np.uint64(0x9E3779B97F4A7C15)
    return [_shingles_of([_word_hash(word, known) for word in words(text)], size, factor) for text in texts]


def _shingles_of(hashes: list[int], size: int, factor: np.uint64) -> npt.NDArray[np.uint64]:
    values = np.array(hashes, np.uint64)
    size = min(size, len(values)) or 1
    total = np.zeros(max(0, len(values) - size + 1), np.uint64)
    for offset in range(size):
        total = total * factor + values[offset : offset + len(total)]
    return np.unique(total)


def _word_hash(word: str, known: dict[str, int]) -> int:
    value = known.get(word)
    if value is None:
        value = known[word] = int.from_bytes(hashlib.blake2b(word.encode(), digest_size=8).digest(), "little")
    return value

"""The split into train and validation, and the proof that nothing of one is in the other."""

from __future__ import annotations

import hashlib
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from pipelines.data.duplicates import normalised, words
from pipelines.errors import DataRejected

_SHOWN = 3


@dataclass(frozen=True, slots=True)
class Text:
    """A document by id."""

    id: str
    text: str


def is_validation(identity: str, *, fraction: float, seed: int) -> bool:
    """Return whether a document belongs to validation: by a hash of its id, so that it stays there as data grows."""
    digest = hashlib.sha256(f"{seed}:{identity}".encode()).digest()
    return int.from_bytes(digest[:8], "big") < fraction * 2.0**64


def split(documents: Sequence[Text], *, fraction: float, seed: int) -> tuple[list[Text], list[Text]]:
    """Return (train, validation), each in the order of `documents`.

    Raises:
        DataRejected: when one of them would be empty.
    """
    parts: tuple[list[Text], list[Text]] = ([], [])
    for document in documents:
        parts[is_validation(document.id, fraction=fraction, seed=seed)].append(document)
    for name, part in zip(("train", "validation"), parts, strict=True):
        if not part:
            raise DataRejected(
                f"preparation.validation_fraction {fraction}: no document of {len(documents)} falls into {name}; "
                "bring more documents, or change validation_fraction or seed"
            )
    return parts


def check_leakage(
    train: Sequence[Text], validation: Sequence[Text], *, threshold: float, shingle_words: int = 5
) -> None:
    """Check that no document of validation has an exact or near duplicate in train.

    Exact and exhaustive: an inverted index over the shingles themselves finds every pair, and shares nothing with the
    MinHash search that removed duplicates before.

    Raises:
        DataRejected: names examples and their similarity.
    """
    leaks = sorted(
        {*_exact_pairs(train, validation), *_near_pairs(train, validation, threshold, shingle_words)},
        key=lambda leak: (-leak[0], leak[1], leak[2]),
    )
    if leaks:
        shown = "; ".join(f"{known!r} is {ratio:.0%} of {held_out!r}" for ratio, known, held_out in leaks[:_SHOWN])
        raise DataRejected(
            f"leakage: {len({held_out for _, _, held_out in leaks})} of {len(validation)} validation documents have a "
            f"duplicate in train (similarity from {threshold}): {shown}; "
            "raise preparation.minhash_permutations, so that near duplicates are found before the split"
        )


def _exact_pairs(train: Sequence[Text], validation: Sequence[Text]) -> Iterator[tuple[float, str, str]]:
    held_out = {normalised(document.text): document.id for document in validation}
    for document in train:
        other = held_out.get(normalised(document.text))
        if other is not None:
            yield 1.0, document.id, other


def _near_pairs(
    train: Sequence[Text], validation: Sequence[Text], threshold: float, size: int
) -> Iterator[tuple[float, str, str]]:
    if threshold >= 1.0:
        return
    sizes = []
    holders: dict[tuple[str, ...], list[int]] = defaultdict(list)
    for position, document in enumerate(validation):
        own = _runs(document.text, size)
        sizes.append(len(own))
        for run in own:
            holders[run].append(position)
    for document in train:
        own = _runs(document.text, size)
        shared = Counter(position for run in own for position in holders.get(run, ()))
        for position, count in shared.items():
            ratio = count / (len(own) + sizes[position] - count)
            if ratio >= threshold:
                yield ratio, document.id, validation[position].id


def _runs(text: str, size: int) -> set[tuple[str, ...]]:
    found = words(text)
    size = min(size, len(found)) or 1
    return {tuple(found[start : start + size]) for start in range(len(found) - size + 1)}

"""The split: by id, stable, and proven free of leaks."""

from __future__ import annotations

import pytest

from pipelines.data.splits import Text, check_leakage, is_validation, split
from pipelines.errors import DataRejected

TRAIN = [
    Text(f"t{number}", f"number {number} of the training texts, about subject {number * 7}") for number in range(50)
]
HELD_OUT = [Text(f"v{number}", f"an entirely different sentence concerning item {number}") for number in range(5)]
LONG = " ".join(f"word{number}" for number in range(60))


def test_the_share_is_about_the_fraction_and_order_is_kept() -> None:
    documents = [Text(f"d{number}", "x") for number in range(5000)]

    train, validation = split(documents, fraction=0.08, seed=0)

    assert len(validation) == pytest.approx(400, abs=60)
    held_out = set(validation)
    assert validation == [document for document in documents if document in held_out]
    assert train == [document for document in documents if document not in held_out]


def test_a_document_stays_in_its_split_as_the_corpus_grows() -> None:
    small = [Text(f"d{number}", "x") for number in range(100)]
    large = [Text(f"new{number}", "y") for number in range(100)] + small[::-1]

    assert set(split(small, fraction=0.2, seed=3)[1]) <= set(split(large, fraction=0.2, seed=3)[1])


def test_another_seed_is_another_split() -> None:
    chosen = [[is_validation(f"d{number}", fraction=0.5, seed=seed) for number in range(64)] for seed in (0, 1)]

    assert chosen[0] != chosen[1]


@pytest.mark.parametrize(("fraction", "empty"), [(0.001, "validation"), (0.499, "train")])
def test_an_empty_split_is_refused(fraction: float, empty: str) -> None:
    wanted = empty == "train"
    documents = [
        Text(identity, "x")
        for identity in map(str, range(20))
        if is_validation(identity, fraction=fraction, seed=0) is wanted
    ]
    with pytest.raises(DataRejected, match=f"no document of {len(documents)} falls into {empty}; bring more documents"):
        split(documents, fraction=fraction, seed=0)


def test_splits_that_share_nothing_pass() -> None:
    check_leakage(TRAIN, HELD_OUT, threshold=0.85)


@pytest.mark.parametrize(
    ("leak", "message"),
    [
        pytest.param(f"{LONG}\n ", "'leak' is 100% of 'held out'", id="exact"),
        pytest.param(LONG.upper() + "!", "'leak' is 100% of 'held out'", id="case-and-punctuation"),
        pytest.param(LONG.replace("word59", "other"), "'leak' is 96% of 'held out'", id="near"),
    ],
)
def test_a_validation_document_that_is_also_in_train_is_found(leak: str, message: str) -> None:
    with pytest.raises(DataRejected, match=f"leakage: 1 of 6 validation documents.*{message}.*minhash_permutations"):
        check_leakage([*TRAIN, Text("leak", leak)], [*HELD_OUT, Text("held out", LONG)], threshold=0.85)


def test_the_threshold_decides_what_a_near_duplicate_is() -> None:
    held_out, similar = [Text("v", LONG)], [Text("t", LONG.replace("word30", "other"))]  # 51 of 61 shingles: 0.836

    check_leakage(similar, held_out, threshold=0.84)
    with pytest.raises(DataRejected, match="84%"):
        check_leakage(similar, held_out, threshold=0.83)


def test_without_near_duplicate_removal_only_exact_ones_are_leaks() -> None:
    check_leakage([Text("t", LONG.upper())], [Text("v", LONG)], threshold=1.0)
    with pytest.raises(DataRejected, match="'t' is 100% of 'v'"):
        check_leakage([Text("t", LONG)], [Text("v", LONG)], threshold=1.0)

"""Exact and near duplicates: what counts as one, and which one stays."""

from __future__ import annotations

import random

import pytest

from pipelines.data.duplicates import Duplicate, find_exact, find_near

SENTENCE = "Return the value of the named attribute of an object or raise an error if there is no such attribute at all"


def sentences(count: int, words: int = 60) -> list[str]:
    """Return unrelated texts."""
    chosen = random.Random(1)  # noqa: S311 - texts, no secrets
    return [" ".join(f"word{chosen.randrange(4000)}" for _ in range(words)) for _ in range(count)]


def with_changed_words(text: str, count: int) -> str:
    """Replace the last words of a text."""
    words = text.split()
    return " ".join([*words[: len(words) - count], *(f"changed{number}" for number in range(count))])


@pytest.mark.parametrize(
    ("other", "expected"),
    [
        pytest.param("caf\N{LATIN SMALL LETTER E WITH ACUTE}  au\n\tlait ", True, id="white-space"),
        pytest.param("cafe\N{COMBINING ACUTE ACCENT} au lait", True, id="unicode-composition"),
        pytest.param("Café au lait", False, id="case-is-kept"),
        pytest.param("café au lait.", False, id="punctuation-is-kept"),
    ],
)
def test_exact_duplicates_differ_in_form_only(other: str, expected: bool) -> None:
    assert find_exact(["tea", "café au lait", other]) == ([Duplicate(2, 1)] if expected else [])


def test_of_many_copies_the_first_stays() -> None:
    assert find_exact(["b", "a", "b", "b"]) == [Duplicate(2, 0), Duplicate(3, 0)]


def test_near_duplicates_are_found_by_similarity_and_the_first_stays() -> None:
    texts = sentences(300)
    near, far = with_changed_words(texts[7], 3), with_changed_words(texts[8], 25)

    assert find_near([*texts, near, far], threshold=0.85) == [Duplicate(300, 7)]
    assert find_near([*texts, near, far], threshold=0.35) == [Duplicate(300, 7), Duplicate(301, 8)]


def test_a_document_left_out_stands_for_nothing() -> None:
    """A chain of similar texts loses only those that are similar to one that stays."""
    first = sentences(1, words=104)[0]
    middle = with_changed_words(first, 8)
    last = with_changed_words(middle, 14)

    assert find_near([first, middle, last], threshold=0.85) == [Duplicate(1, 0)]


def test_the_search_overlooks_no_pair_at_the_threshold() -> None:
    """Pairs just above the threshold: a search tuned for speed overlooks some of 400."""
    texts = sentences(400, words=104)
    near = [with_changed_words(text, 7) for text in texts]  # 93 of 107 shingles shared: 0.869

    assert len(find_near([*texts, *near], threshold=0.865)) == 400


@pytest.mark.parametrize("text", ["", "--- *** ---", "π = 3"])
def test_texts_of_few_words_are_no_special_case(text: str) -> None:
    assert find_near([text, SENTENCE, text], threshold=0.85) == ([Duplicate(2, 0)] if "π" in text else [])


def test_threshold_one_leaves_near_duplicates_alone() -> None:
    assert find_near([SENTENCE, SENTENCE.upper()], threshold=1.0) == []
    assert find_near([SENTENCE, SENTENCE.upper()], threshold=0.99) == [Duplicate(1, 0)]

"""The evaluation report: safe, self-contained, equal for equal numbers."""

from __future__ import annotations

import re

import pytest

from pipelines.evaluation.gates import decide
from pipelines.evaluation.measure import summarise
from pipelines.evaluation.report import render
from pipelines.formats.records import DocumentRecord, Sample
from pipelines.spec import EvaluationConfig

CONFIG = EvaluationConfig(bootstrap_resamples=200)


def records(*, champion: float | None = None) -> tuple[DocumentRecord, ...]:
    """Return 40 documents with hostile names whose tokens cost about 2 nats, `champion` nats for the champion."""
    return tuple(
        DocumentRecord(
            id=f"doc <{index}>",
            num_tokens=10 + index,
            num_bytes=40 + 4 * index,
            nll=(2.0 - index / 100) * (10 + index),
            baseline_nll=3.0 * (10 + index),
            champion_nll=None if champion is None else champion * (10 + index),
        )
        for index in range(40)
    )


def page(documents: tuple[DocumentRecord, ...]) -> str:
    """Return the report of documents with their gates and one hostile sample."""
    sample = Sample(prompt="<script>alert(1)</script>", answer="a & b", temperature=0.8)
    found = summarise(documents, CONFIG)
    judged = found.model_copy(update={"gates": decide(found, CONFIG), "samples": (sample,)})
    return render("docs-gpt", judged, documents, {"model": "ab" * 32})


@pytest.fixture(scope="module")
def absolute() -> str:
    """A report without a champion."""
    return page(records())


@pytest.fixture(scope="module")
def compared() -> str:
    """A report with a champion."""
    return page(records(champion=2.1))


def test_the_report_escapes_what_the_model_says(absolute: str) -> None:
    assert "<script>" not in absolute
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in absolute
    assert "doc &lt;0&gt;" in absolute


def test_the_report_is_self_contained(compared: str) -> None:
    assert not re.search(r"(src|href)=\"(?!#)", compared)
    assert compared.count("<svg") == 3


def test_the_report_s_bytes_depend_on_the_numbers_only(compared: str) -> None:
    assert page(records(champion=2.1)) == compared


def test_the_report_says_when_there_is_no_champion(absolute: str, compared: str) -> None:
    assert "no model in production to compare with" in absolute
    assert "no model in production" not in compared

"""Choose the golden and reference requests of a bento from documents that the model has not seen."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from pipelines.formats.requests import GoldenRequest, ReferenceRequest
from pipelines.formats.shards import Document
from pipelines.spec import PackagingConfig, ServiceConfig

PROMPT_WORDS = 8
"""Words of a golden prompt."""


@dataclass(frozen=True)
class Requests:
    """What a bento carries to be proved and measured by."""

    golden: list[GoldenRequest]
    reference: list[ReferenceRequest]


def make_requests(
    model: Path, documents: Sequence[Document], packaging: PackagingConfig, service: ServiceConfig
) -> Requests:
    """Return the requests, in the documents' order.

    Raises:
        BadInput: when too few documents have clear enough answers.
    """
    from pipelines.inference.engine import Engine
    from pipelines.inference.golden import build_golden
    from pipelines.inference.references import build_references

    with Engine.load(model, threads=service.threads) as engine:
        golden = build_golden(
            engine,
            filter(None, (_opening(document.text) for document in documents)),
            count=packaging.num_golden_requests,
            max_tokens=min(packaging.golden_tokens, service.max_tokens),
        )
        reference = build_references(
            engine.tokenizer,
            ((document.id, document.text) for document in documents),
            count=packaging.num_reference_requests,
            context_limit=engine.context_limit,
        )
    return Requests(golden=golden, reference=reference)


def _opening(text: str) -> str:
    """Return a document's first words."""
    return " ".join(text.split()[:PROMPT_WORDS])

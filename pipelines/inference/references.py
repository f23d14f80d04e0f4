"""Reference requests: held-out documents cut into a prompt and the text that really followed."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from pipelines.formats.requests import ReferenceRequest

if TYPE_CHECKING:
    from tokenizers import Tokenizer

PROMPT_TOKENS = 32
"""Tokens of a prompt, about; the cut keeps words whole."""

CONTINUATION_TOKENS = 32
"""Tokens of a continuation, at most about."""


def build_references(
    tokenizer: Tokenizer, documents: Iterable[tuple[str, str]], *, count: int, context_limit: int
) -> list[ReferenceRequest]:
    """Return up to `count` reference requests from (id, text) pairs, in their order; short documents are passed over.

    Texts are cut at spaces, so that another tokenizer meets whole words too. A context that does not hold both parts
    twice gets shorter ones.
    """
    scale = min(1.0, context_limit / (2 * (PROMPT_TOKENS + CONTINUATION_TOKENS)))
    references: list[ReferenceRequest] = []
    for name, text in documents:
        if len(references) == count:
            break
        offsets = tokenizer.encode(text, add_special_tokens=False).offsets
        prompt_tokens, total = int(PROMPT_TOKENS * scale), int((PROMPT_TOKENS + CONTINUATION_TOKENS) * scale)
        if len(offsets) <= prompt_tokens:
            continue
        cut = text.rfind(" ", 1, offsets[prompt_tokens][0] + 1)
        end = len(text) if len(offsets) <= total else text.rfind(" ", 1, offsets[total][0] + 1)
        if 0 < cut < end and text[cut:end].strip():
            references.append(ReferenceRequest(id=name, prompt=text[:cut], continuation=text[cut:end]))
    return references

"""Turn a stream of tokens into a stream of text that is never taken back."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tokenizers import Tokenizer

REPLACEMENT = "\N{REPLACEMENT CHARACTER}"

LONGEST_UNFINISHED = 3
"""Most tokens that an unfinished UTF-8 character can span: of its four bytes the last is missing."""


class Detokenizer:
    """Decode tokens one by one; bytes of an unfinished UTF-8 character are held back until it is whole.

    Each step decodes a short window: a few tokens already shown, as context for the decoder, and those not yet shown.
    """

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self._tokens: list[int] = []
        self._context_start = 0
        self._shown = 0

    def feed(self, token: int) -> str:
        """Return the text that `token` completes; empty while a character is unfinished."""
        self._tokens.append(token)
        return self._advance(final=False)

    def flush(self) -> str:
        """Return what was held back, with the replacement character for bytes that never became a character."""
        return self._advance(final=True)

    def _advance(self, *, final: bool) -> str:
        end = len(self._tokens)
        before = self._decode(self._tokens[self._context_start : self._shown])
        now = self._decode(self._tokens[self._context_start : end])
        if now.endswith(REPLACEMENT) and not final:
            if end - self._shown <= 2 * LONGEST_UNFINISHED:
                return ""
            end -= LONGEST_UNFINISHED  # bytes that are no text at all: show them, or the window would grow for ever
            now = self._decode(self._tokens[self._context_start : end])
        if len(now) <= len(before):
            return ""
        self._context_start, self._shown = self._shown, end
        return now[len(before) :]

    def _decode(self, tokens: list[int]) -> str:
        return self._tokenizer.decode(tokens, skip_special_tokens=True) if tokens else ""


class StopFilter:
    """Pass text on until a stop sequence appears; hold back what may still become the start of one."""

    def __init__(self, stops: tuple[str, ...]) -> None:
        self._stops = stops
        self._held = ""

    def feed(self, text: str) -> tuple[str, bool]:
        """Return the text that may be shown, and whether a stop sequence ended it."""
        if not self._stops:
            return text, False
        self._held += text
        found = [at for at in (self._held.find(stop) for stop in self._stops) if at >= 0]
        if found:
            shown, self._held = self._held[: min(found)], ""
            return shown, True
        keep = max(_overlap(self._held, stop) for stop in self._stops)
        shown, self._held = self._held[: len(self._held) - keep], self._held[len(self._held) - keep :]
        return shown, False

    def flush(self) -> str:
        """Return the text held back: no stop sequence can follow any more."""
        shown, self._held = self._held, ""
        return shown


def _overlap(text: str, stop: str) -> int:
    """Return the length of the longest end of `text` that is a proper beginning of `stop`."""
    longest = min(len(text), len(stop) - 1)
    return next((size for size in range(longest, 0, -1) if text.endswith(stop[:size])), 0)

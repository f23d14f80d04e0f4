"""What runs until it is told to stop."""

from __future__ import annotations

from types import TracebackType
from typing import Protocol, Self


class Running(Protocol):
    """Runs from the start of a `with` block, or from when it was made, until `stop`."""

    def stop(self) -> None:
        """Stop it; no process is left."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

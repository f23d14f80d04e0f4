"""An engine that a test holds in the middle of an answer: a tiny model would be done before the test has looked."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator

from pipelines.inference.engine import Engine

SOME = 20
"""Passes that are enough for the first piece of a stream, and too few for a long answer."""


@contextlib.contextmanager
def held(engine: Engine, num_passes: int = SOME) -> Iterator[threading.Event]:
    """Let an engine do some passes, and the next one when the event is set, or the block or the engine ends."""
    let_go = threading.Event()
    last = engine.num_passes + num_passes

    def hold(*_: object) -> None:
        while engine.num_passes > last and engine.is_healthy and not let_go.wait(0.005):
            continue

    hook = engine._loaded.model.register_forward_pre_hook(hold)
    try:
        yield let_go
    finally:
        let_go.set()
        hook.remove()

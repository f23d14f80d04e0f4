"""The bento's entry: what `bentoml serve` loads."""

from __future__ import annotations

import logging
from pathlib import Path

import bentoml

from bentos.text_generation.app import Api, IdentityHeaders
from pipelines.errors import SlipwayError
from pipelines.formats import bento

logger = logging.getLogger("bentoml.slipway")  # BentoML shows only its own tree

SOURCE = Path(__file__).resolve().parents[2]
"""The bento's `src/`: settings and model lie beside the code."""

FIRST_BYTE_SECONDS = 300.0
"""BentoML answers 504 for us when a response has not begun by then; the queue is bounded, so that is a fault."""

api = Api()


@bentoml.asgi_app(api.app)
@bentoml.service(
    name="text_generation",
    workers=bento.num_workers(SOURCE),
    traffic={"timeout": FIRST_BYTE_SECONDS},
    logging={"access": {"enabled": False}},
    metrics={"enabled": False},  # ours know version and traffic; BentoML's grow with every path that anyone tries
    tracing={"excluded_urls": ".*"},  # no exporter is configured; spans would cost 100 us a request
)
class TextGeneration:
    """Generates text with the model in this bento."""

    @bentoml.on_deployment  # type: ignore[untyped-decorator]  # bentoml is not typed
    @staticmethod
    def check() -> None:
        """Refuse to start at all, before any worker, when a file differs from what was packaged."""
        try:
            bento.verify(SOURCE)
        except SlipwayError as error:
            raise SystemExit(f"error: {error}") from None

    def __init__(self) -> None:
        """Verify the files once more, in the process that loads them, and load the model."""
        from bentos.text_generation.runtime import Runtime  # noqa: PLC0415 - torch is for workers, not their supervisor

        self._runtime = Runtime.load(SOURCE, bentoml.server_context.worker_index or 1)
        api.runtime = self._runtime
        identity = self._runtime.identity
        logger.info("serving %s:%s, model digest %s", identity.name, identity.version, identity.digest)

    @bentoml.on_shutdown  # type: ignore[untyped-decorator]  # bentoml is not typed
    def close(self) -> None:
        """Stop computing; whoever still waits is told so."""
        self._runtime.close()

    def __is_ready__(self) -> bool:
        """Return whether the engine takes requests."""
        return self._runtime.engine.is_healthy

    def __is_alive__(self) -> bool:
        """Return whether the process is worth keeping."""
        return self._runtime.engine.is_healthy


TextGeneration.add_asgi_middleware(IdentityHeaders, api=api)  # type: ignore[attr-defined]  # bentoml is not typed

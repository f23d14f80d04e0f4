"""What a serving process holds: the verified bento, its engine and its metrics."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self

from bentos.text_generation.chat import ChatTemplate
from bentos.text_generation.metrics import Metrics, forget_dead_processes
from bentos.text_generation.recording import Recorder
from pipelines.formats import bento
from pipelines.formats.bento import Identity
from pipelines.formats.headers import Traffic
from pipelines.formats.provenance import Provenance, read_provenance
from pipelines.inference.engine import Engine
from pipelines.inference.generation import Generation
from pipelines.inference.request import SamplingParams
from pipelines.spec import ServiceConfig


@dataclass(frozen=True)
class Runtime:
    """One loaded model with everything that belongs to it."""

    identity: Identity
    limits: ServiceConfig
    provenance: Provenance
    engine: Engine
    chat: ChatTemplate
    metrics: Metrics
    recorder: Recorder
    _running: dict[Generation, Traffic] = field(default_factory=dict)

    @classmethod
    def load(cls, source: Path, worker: int) -> Self:
        """Verify the bento whose `src/` is given, then load its model.

        Args:
            source: folder with the model, its code and its settings.
            worker: number of this process among the copy's.

        Raises:
            ArtifactCorrupt: names a file that differs from what was packaged.
        """
        identity = bento.verify(source)
        limits = bento.read_service_file(source).service
        folder = source / bento.MODEL
        forget_dead_processes()
        return cls(
            identity=identity,
            limits=limits,
            provenance=read_provenance(source),
            engine=Engine.load(folder, max_batch=limits.max_batch, max_queue=limits.max_queue, threads=limits.threads),
            chat=ChatTemplate(folder),
            metrics=Metrics(identity.version),
            recorder=Recorder.of_worker(limits, worker),
        )

    def submit(
        self, prompts: Sequence[Sequence[int]], params: SamplingParams, traffic: Traffic
    ) -> Sequence[Generation]:
        """Hand a request's prompts to the engine; errors are the engine's own."""
        generations = self.engine.submit_all(prompts, params)
        self._running.update(dict.fromkeys(generations, traffic))
        self._note_waiting()
        return generations

    def release(self, generations: Iterable[Generation]) -> None:
        """Forget a request that is over, and compute nothing more for it."""
        for generation in generations:
            generation.cancel()
            self._running.pop(generation, None)
        self._note_waiting()

    def close(self) -> None:
        """Stop computing; whoever still waits is told so."""
        self.engine.close()
        self.recorder.close()

    def _note_waiting(self) -> None:
        num_waiting = self.engine.num_waiting
        self.metrics.waiting(
            list(self._running.values())[-num_waiting:] if num_waiting else []
        )  # first come, first out

"""A release with real processes: supervisord, Envoy, copies that are quick to start. Tests add the controller."""

from __future__ import annotations

import contextlib
import json
import shutil
import sys
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import httpx
import psutil

from pipelines import artifacts, ledger
from pipelines.artifacts import ArtifactRef
from pipelines.formats.requests import GoldenRequest, ReferenceRequest, write_requests
from pipelines.release import adapters
from pipelines.release.controller import Controller, keep_looking
from pipelines.release.course import transitions
from pipelines.release.replayer import Replayer
from pipelines.settings import Settings
from pipelines.spec import RolloutConfig, parse_spec
from pipelines.step import RunInfo
from pipelines.steps import record, rollout
from pipelines.store import Store
from tests.steps import copy_server
from tests.steps.live import LiveEnvoy, LiveSupervisord

MODEL = "docs"
QUICK: dict[str, object] = {
    "weights": [50],
    "look_seconds": 0.05,
    "shadow_seconds": 0.1,
    "bake_seconds": 0.1,
    "bake_full_seconds": 0.1,
    "warmup_requests": 2,
    "min_user_exposures": 0,
    "max_bad_rate": 0.2,
    "quality": {"enabled": False},
    "replay": {"requests_per_second": 100},
}
"""A release without waits: a few pinned requests are evidence enough."""

PHASES = transitions(RolloutConfig.model_validate(QUICK))
"""Tasks of a rollout, in order."""


def serve_command(folder: Path, port: int) -> list[str]:
    """Return the command of a copy; stands in for BentoML's, which takes ten seconds to start."""
    return [sys.executable, copy_server.__file__, str(folder), str(port)]


@dataclass
class Stage:
    """An installation with everything in it that a release needs."""

    settings: Settings
    envoy: LiveEnvoy | None
    supervisord: LiveSupervisord | None
    scratch: Path
    champion: ArtifactRef | None = None

    @property
    def url(self) -> str:
        return self.settings.ledger_url()

    @property
    def store(self) -> Store:
        return Store(self.settings.store_url())

    def inputs(
        self, word: str, run_id: str, *, answer: str | None = None, habits: object = None, **rules: object
    ) -> rollout.Inputs:
        """Publish a small bento that answers golden requests and return what its run would release.

        Args:
            word: the version, and its answer.
            run_id: of the run.
            answer: to the golden request; None: the right one.
            habits: what is wrong with it; see `tests.steps.copy_server.Habits`.
            rules: of the rollout, besides `QUICK`.
        """
        folder = self.scratch / f"{word}-{run_id}"
        source = folder / "bento" / "src"
        source.mkdir(parents=True)
        digest = artifacts.describe("model", self._file(folder / "model", word)).digest
        known = {"version": word, "digest": digest, "answers": {"Once": answer or f"upon {word}"}, "habits": habits}
        (source / "copy.json").write_text(json.dumps(known))
        golden = GoldenRequest(
            prompt="Once", max_tokens=4, expected_text=f"upon {word}", expected_tokens=(1, 2, 3, 4), margin=1.0
        )
        write_requests(source / "golden.jsonl", [golden])
        references = [ReferenceRequest(id=str(number), prompt="Once", continuation=" upon") for number in range(4)]
        write_requests(source / "reference.jsonl", references)
        spec = parse_spec({"name": MODEL, "rollout": {**QUICK, **rules}, "serving": {"drain_seconds": 1}})
        self._file(folder / "spec", "").joinpath("spec.json").write_bytes(spec.canonical())
        return rollout.Inputs(
            run=RunInfo(model=MODEL, run_id=run_id, task_id="rollout.stage"),
            bento=artifacts.publish(self.store, "bento", folder / "bento"),
            tag=f"{MODEL}:{word}",
            weights=artifacts.publish(self.store, "model", folder / "model"),
            evaluation=artifacts.publish(self.store, "evaluation", self._file(folder / "evaluation", word)),
            evaluated_against=self.champion,
            perplexity=70.0,
            perplexity_low=69.0,
            perplexity_high=71.0,
            spec=artifacts.publish(self.store, "spec", folder / "spec"),
        )

    def release(self, inputs: rollout.Inputs) -> record.Result:
        """Do what the tasks of a run do, one after the other."""
        for phase in PHASES:
            rollout.wait(rollout.begin(phase, inputs, self.settings), self.settings)
        self.champion = inputs.weights
        return record.run(record.Inputs(run=inputs.run), self.settings)

    @staticmethod
    def _file(folder: Path, content: str) -> Path:
        folder.mkdir(parents=True)
        (folder / "content.txt").write_text(content)
        return folder

    def copies(self) -> frozenset[str]:
        """Return the copies that are started."""
        return adapters.connect(self.settings).fleet.list()

    def supervisor_of_copy(self) -> psutil.Process | None:
        """Return the process that supervisord started for the only copy."""
        return next(iter(psutil.Process(self.supervisord.process.pid).children()), None)


@contextlib.contextmanager
def installed(settings: Settings, scratch: Path) -> Iterator[Stage]:
    """Run supervisord and Envoy for a block."""
    supervisord = LiveSupervisord(settings)
    envoy = LiveEnvoy(settings)
    try:
        yield Stage(settings, envoy, supervisord, scratch)
    finally:
        envoy.kill()
        supervisord.stop()
        shutil.rmtree(settings.run_dir, ignore_errors=True)


@contextlib.contextmanager
def controlled(stage: Stage, service: str = MODEL) -> Iterator[None]:
    """Keep a controller looking at a service, in threads of this process, for a block."""
    stopping = threading.Event()
    controller = Controller(stage.url, *adapters.connect(stage.settings))

    def keep_beating() -> None:
        while not stopping.wait(1.0):
            ledger.beat(stage.url)

    ledger.beat(stage.url)
    replayer = Replayer(stage.url, stage.store, controller.fleet, controller.probe)
    threads = [
        threading.Thread(target=keep_looking, args=(controller, service, stopping)),
        threading.Thread(target=replayer.keep_replaying, args=(service, stopping)),
        threading.Thread(target=keep_beating),
    ]
    for thread in threads:
        thread.start()
    try:
        yield
    finally:
        stopping.set()
        for thread in threads:
            thread.join()


def answers(endpoint: str) -> bool:
    """Say whether a version answers on an endpoint."""
    try:
        return httpx.get(f"{endpoint}/provenance", trust_env=False, timeout=2).is_success
    except httpx.HTTPError:
        return False

"""Releases with real parts under faults: supervisord, Envoy, quick copies, and the controller as a process."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from pipelines import ledger
from pipelines.ledger import Rollout
from pipelines.release.course import transitions
from pipelines.settings import REPOSITORY, Settings
from pipelines.steps import rollout as rollout_step
from tests.faults.controller_process import SKEW_SECONDS
from tests.ports import own_ranges
from tests.steps.live import wait_for
from tests.steps.release_stage import MODEL, Stage, installed


class ControllerProcess:
    """The controller as a process, started again whenever it ends: what supervisord does."""

    def __init__(self, settings: Settings, skew_seconds: float = 0.0) -> None:
        environment = {
            **os.environ,
            SKEW_SECONDS: str(skew_seconds),
            "SLIPWAY_HOME": str(settings.resolved_home()),
            "SLIPWAY_LEDGER": settings.ledger_url(),
            "SLIPWAY_SERVICE_PORTS": settings.service_ports,
            "SLIPWAY_COPY_PORTS": settings.copy_ports,
        }
        self._command = [sys.executable, "-m", "tests.faults.controller_process"]
        self._environment = environment
        self._log = (settings.resolved_home() / "logs" / "controller.log").open("a")
        self.starts = 0
        self._is_stopping = False
        self._lock = threading.Lock()
        self._start()
        self._thread = threading.Thread(target=self._supervise)
        self._thread.start()

    def _start(self) -> None:
        self.process = subprocess.Popen(
            self._command, env=self._environment, cwd=REPOSITORY, stdout=self._log, stderr=self._log
        )
        self.starts += 1

    def _supervise(self) -> None:
        while True:
            self.process.wait()
            with self._lock:  # whoever stops it ends the process that was started last
                if self._is_stopping:
                    return
                self._start()

    def kill(self) -> None:
        self.process.kill()

    def stop(self) -> None:
        with self._lock:
            self._is_stopping = True
            self.process.terminate()
        self._thread.join()
        self._log.close()


def settings_for(folder: Path, url: str) -> Settings:
    return Settings(home=folder / "home", ledger=url, **own_ranges())


@contextlib.contextmanager
def supervised_controller(stage: Stage, skew_seconds: float = 0.0) -> Iterator[ControllerProcess]:
    """Run the controller for a block, with a clock that is so far ahead."""
    running = ControllerProcess(stage.settings, skew_seconds)
    try:
        yield running
    finally:
        running.stop()


def let_go(stage: Stage, inputs: rollout_step.Inputs) -> int:
    """Open a rollout with all its permits, so that nobody waits for it; return its id."""
    waiting = rollout_step.begin("stage", inputs, stage.settings)
    for transition in transitions(ledger.read_rollout(stage.url, waiting.rollout).config)[1:]:
        ledger.insert_permit(stage.url, MODEL, waiting.rollout, transition)
    return waiting.rollout


def ended(stage: Stage, rollout: int, seconds: float = 240) -> Rollout:
    """Wait for a rollout's end and return it."""
    wait_for(lambda: ledger.read_rollout(stage.url, rollout).state.is_final, "the end of the rollout", seconds)
    return ledger.read_rollout(stage.url, rollout)


@pytest.fixture
def stage(tmp_path: Path, ledger_url: str) -> Iterator[Stage]:
    """Return an installation without a controller."""
    with installed(settings_for(tmp_path, ledger_url), tmp_path / "scratch") as stage:
        yield stage


@pytest.fixture
def controller(stage: Stage) -> Iterator[ControllerProcess]:
    """Return the controller's process."""
    with supervised_controller(stage) as running:
        yield running

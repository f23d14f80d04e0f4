"""Airflow inside the tests' process, and work steps whose processes do nothing but what a test tells them."""

from __future__ import annotations

import functools
import importlib
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from pipelines import artifacts, ledger, runner, step
from pipelines.settings import Settings
from pipelines.spec import ModelSpec
from pipelines.store import Store

ROOT = Path(__file__).resolve().parents[1]
DAG_FILE = ROOT / "dags" / "lifecycle.py"
ROLLOUT = {
    "weights": [5, 50],
    "bake_seconds": 0,
    "bake_full_seconds": 0,
    "shadow_seconds": 0.001,
    "min_user_exposures": 0,
    "quality": {"enabled": False},
    "look_seconds": 0.02,
}
"""A release without waits; a database of SQLite cannot be backed up."""

TINY = f"description: A tiny model.\nbackup: {{enabled: false}}\nrollout: {json.dumps(ROLLOUT)}\n"
PERPLEXITY = ("perplexity", "perplexity_low", "perplexity_high")
FAKE_STEP = Path(__file__).with_name("fake_step.py")


@functools.cache
def migrated_home() -> Path:
    """Return an Airflow home with an empty, migrated database; made once for the whole test session."""
    assert "airflow" not in sys.modules, "Airflow reads its home when it is imported; a test imported it too early"
    home = Path(tempfile.mkdtemp(prefix="slipway-airflow-"))
    migrate = [sys.executable, "-m", "airflow", "db", "migrate"]
    subprocess.run(migrate, env={**os.environ, **environment(home)}, check=True, capture_output=True, cwd=ROOT)
    return home


def environment(home: Path) -> dict[str, str]:
    """Return the variables of an Airflow that knows nothing of this machine's own."""
    return {
        "AIRFLOW_HOME": str(home),
        "AIRFLOW__CORE__DAGS_FOLDER": str(ROOT / "dags"),
        "AIRFLOW__CORE__PLUGINS_FOLDER": str(ROOT / "plugins"),
        "AIRFLOW__CORE__DAGBAG_IMPORT_TIMEOUT": "300",  # the provider of pods takes its seconds, many on a busy machine
        "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
        "AIRFLOW__DATABASE__SQL_ALCHEMY_CONN": f"sqlite:///{home}/airflow.db",
        "AIRFLOW__USAGE_DATA_COLLECTION__ENABLED": "False",
        "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "plugins")]),
    }


@pytest.fixture(scope="session")
def airflow_home() -> Iterator[Path]:
    """Give the tests of this session an Airflow."""
    home = migrated_home()
    with pytest.MonkeyPatch.context() as patch:
        for name, value in environment(home).items():
            patch.setenv(name, value)
        importlib.import_module("airflow")  # it takes all handlers from the log: now, not within a test that reads it
        yield home


@dataclass(frozen=True)
class Run:
    """How a run ended."""

    id: str
    state: str
    tasks: dict[str, str]
    """State of each task."""

    tries: dict[str, int]
    """Tries of each task."""


@dataclass
class Lifecycle:
    """One installation with one model, `tiny`, whose work steps are told what to do."""

    settings: Settings
    told: Path
    steps: dict[str, dict[str, Any]] = field(default_factory=dict)
    champion: dict[str, str] | None = None
    """What evaluation says it compared with."""

    def write_spec(self, name: str = "tiny", text: str = TINY) -> Path:
        """Write a spec file where the DAG file looks for them."""
        path = self.settings.models_dir / f"{name}.yaml"
        path.write_text(text, encoding="utf-8")
        return path

    def tell(self, name: str, **behaviour: Any) -> None:
        """Say what a step's process does.

        Args:
            name: of the step.
            behaviour: `status`, `prints`, `leaves` (no receipt when False), `result`, `environment` (written there).
        """
        self.steps[name] = {**self.steps.get(name, {}), **behaviour}
        self.told.write_text(json.dumps(self.steps), encoding="utf-8")

    def tell_results(self, word: str) -> None:
        """Let every step finish with results that are named after one word."""
        refs = {kind: {"kind": kind, "digest": digest(kind, word)} for kind in ("dataset", "tokens", "tokenizer")}
        refs |= {kind: {"kind": kind, "digest": digest(kind, word)} for kind in ("model", "training", "evaluation")}
        store = Store(self.settings.store_url())
        spec = ModelSpec(name="tiny", rollout=ROLLOUT, backup={"enabled": False})
        files = {"spec.json": spec.canonical()}
        frozen = artifacts.publish_files(store, "spec", files, self.settings.resolved_home() / "scratch")
        self.tell("freeze", result={"spec": frozen.model_dump(), "force": [], "note": ""})
        self.tell("validate", result={"dataset": refs["dataset"], "source_digest": word})
        self.tell("prepare", result={"tokens": refs["tokens"], "tokenizer": refs["tokenizer"]})
        self.tell("train", result={"model": refs["model"], "training": refs["training"]})
        self.tell(
            "evaluate",
            result={"report": refs["evaluation"], "champion": self.champion, **dict.fromkeys(PERPLEXITY, 70.0)},
        )
        bento = {"kind": "bento", "digest": digest("bento", word)}
        self.tell("package", result={"bento": bento, "tag": f"tiny:{word}"})

    def parse(self) -> Any:
        """Return the DagBag of the product's DAG file."""
        from airflow.dag_processing.dagbag import DagBag

        return DagBag(dag_folder=str(DAG_FILE))

    def run(self, **params: Any) -> Run:
        """Run the DAG by `dag.test()`, without its pauses between tries and looks."""
        dag = self.parse().dags["lifecycle_tiny"]
        for task in dag.tasks:
            task.retry_delay = timedelta(0)
        sleep = time.sleep
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(time, "sleep", lambda seconds: sleep(min(seconds, 0.02)))
            for pause in ("SOON", "WHEN_OTHERS_HAVE_ENDED"):
                patch.setattr(f"slipway.retries.{pause}", timedelta(0))
            dag_run = dag.test(logical_date=None, run_conf=params or None)
        instances = dag_run.get_task_instances()
        return Run(
            id=dag_run.run_id,
            state=str(dag_run.state),
            tasks={ti.task_id: str(ti.state) for ti in instances},
            tries={ti.task_id: ti.try_number for ti in instances},
        )


def digest(kind: str, word: str) -> str:
    """Return a digest that is easy to tell apart."""
    return f"{kind}{word}".encode().hex().ljust(64, "0")[:64]


@pytest.fixture
def lifecycle(airflow_home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Lifecycle:
    """Give one test an installation of its own, whose steps' processes are fakes; everything around them is real."""
    (tmp_path / "models").mkdir()
    for name in ("STORE", "LEDGER", "WEBHOOK", "STATSD", "PUSHGATEWAY"):
        monkeypatch.delenv(f"SLIPWAY_{name}", raising=False)
    monkeypatch.setenv("SLIPWAY_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("SLIPWAY_MODELS_DIR", str(tmp_path / "models"))
    monkeypatch.setenv("SLIPWAY_LEDGER", f"sqlite:///{tmp_path}/ledger.db")
    made = Lifecycle(Settings(), tmp_path / "told.json")
    made.write_spec()
    made.tell_results("one")

    ledger.migrate(made.settings.ledger_url())
    monkeypatch.setattr(runner.WorkStep, "command", fake_command(made.told))
    return made


def fake_command(told: Path) -> property:
    """Return a `WorkStep.command` that starts the fake instead of the product, with the product's arguments."""

    def command(self: runner.WorkStep) -> list[str]:
        arguments = step.command(self._name, self._spec_uri, self._info)[2:]
        return [sys.executable, "-S", str(FAKE_STEP), str(told), *arguments]

    return property(command)

"""An installation to back up: a ledger and an Airflow database on real PostgreSQL, a store with two versions."""

from __future__ import annotations

import secrets
import uuid
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from types import SimpleNamespace

import pytest
from sqlalchemy import create_engine, text

from pipelines import artifacts, ledger
from pipelines.artifacts import ArtifactRef
from pipelines.ledger import Candidate, Outcome, Phase, Rollout
from pipelines.settings import Settings
from pipelines.spec import parse_spec
from pipelines.stack import postgres as stack_postgres
from pipelines.store import Store
from tests.live_postgres import LivePostgres

SERVICE = "docs"


@dataclass(frozen=True)
class Installation:
    """Settings with everything behind them that a backup reads."""

    settings: Settings
    folder: Path

    @classmethod
    def make(cls, postgres: LivePostgres, folder: Path, *, store: str = "", backup: str = "") -> Installation:
        """Make an installation without a version: two databases, a spec file."""
        word = uuid.uuid4().hex
        airflow = postgres.create_database(f"airflow_{word}")
        ledger_url = postgres.create_database(f"ledger_{word}")
        ledger.migrate(ledger_url)
        execute(
            airflow,
            "CREATE TABLE alembic_version (version_num varchar(32)); INSERT INTO alembic_version VALUES ('abc');"
            "CREATE TABLE dag_run (id serial PRIMARY KEY, run_id text); INSERT INTO dag_run (run_id) VALUES ('first')",
        )
        models = folder / "models"
        models.mkdir(parents=True)
        (models / f"{SERVICE}.yaml").write_text("description: A model.\nbackup: {keep_last: 2, keep_days: 0}\n")
        settings = Settings(
            home=folder / "home",
            ledger=ledger_url,
            airflow_db=airflow,
            models_dir=models,
            store=store,
            backup=backup,
        )
        settings.resolved_home().mkdir()
        return cls(settings, folder)

    @property
    def store(self) -> Store:
        """The artifact store."""
        return Store(self.settings.store_url())

    def candidate(self, word: str) -> Candidate:
        """Publish the artifacts of a version."""

        def publish(kind: str, content: str = "") -> ArtifactRef:
            files = {f"{kind}.txt": (content or f"{kind} {word}").encode() * 1000}
            return artifacts.publish_files(self.store, kind, files, self.folder / "scratch")

        spec = parse_spec({"name": SERVICE})
        frozen = artifacts.publish_files(self.store, "spec", {"spec.json": spec.canonical()}, self.folder / "scratch")
        model = publish("model")
        return Candidate(
            service=SERVICE,
            bento=publish("bento"),
            tag=f"{SERVICE}:{word}",
            model=model,
            evaluation=publish("evaluation"),
            spec=frozen,
        )

    def open(self, word: str) -> Rollout:
        """Open the rollout of a new version."""
        return ledger.open_rollout(self.settings.ledger_url(), self.candidate(word), run_id=f"run-{word}")

    def move(self, rollout: Rollout, phase: Phase, canary_bp: int = 0, outcome: Outcome = Outcome.NONE) -> Rollout:
        """Move a rollout on, as the controller does."""
        url = self.settings.ledger_url()
        if phase is not Phase.STAGE and rollout.state.phase is Phase.QUEUED:
            rollout = ledger.save(url, rollout, replace(rollout.state, phase=Phase.STAGE, generation=1), "stage")
        state = replace(rollout.state, phase=phase, canary_bp=canary_bp, outcome=outcome)
        champion = rollout.candidate if phase is Phase.PROMOTED else None
        return ledger.save(url, rollout, state, str(phase), champion=champion)

    def promote(self, word: str) -> Rollout:
        """Put a version into production."""
        return self.move(self.open(word), Phase.PROMOTED, outcome=Outcome.PROMOTED)

    def elsewhere(self, name: str = "new-home", **changes: object) -> Settings:
        """Return the settings of an empty home that reads the same backups, with databases of its own."""
        update = {"home": self.folder / name, "ledger": "", "airflow_db": "", "backup": self.settings.backup_url()}
        return self.settings.model_copy(update=update | changes)


def data_folders(monkeypatch: pytest.MonkeyPatch) -> Callable[[], list[Path]]:
    """Return what lists the data folders beside homes that are made from now on, here or in a process forked later."""
    word, make = uuid.uuid4().hex[:8], secrets.token_hex
    monkeypatch.setattr(stack_postgres, "secrets", SimpleNamespace(token_hex=lambda size: word + make(size)))
    return lambda: list(Path("/var/lib").glob(f"slipway-{word}*"))


def execute(url: str, statement: str) -> list[tuple[object, ...]]:
    """Run SQL in a database and return the rows, if any."""
    engine = create_engine(url)
    try:
        with engine.begin() as connection:
            result = connection.execute(text(statement))
            return [tuple(row) for row in result] if result.returns_rows else []
    finally:
        engine.dispose()

"""The end of a restore: the controller brings the champion back by itself, and it answers its golden requests."""

from __future__ import annotations

import shutil
from pathlib import Path

import httpx
import pytest

from pipelines import ledger
from pipelines.backup.catalog import Catalog
from pipelines.backup.create import create_backup, open_store
from pipelines.backup.objects import Objects
from pipelines.backup.restore import choose, restore, verify
from pipelines.formats import bento
from pipelines.ledger import Candidate, Outcome, Phase
from pipelines.settings import Settings
from pipelines.stack.restoring import StackDatabases
from tests.backup_case import Installation
from tests.live_postgres import LivePostgres
from tests.ports import own_port, own_ranges
from tests.steps.live import wait_for
from tests.steps.release_stage import MODEL, Stage, answers, controlled, installed, serve_command


def small_bento(installation: Installation, word: str) -> Candidate:
    """Publish a bento that answers one golden request."""
    stage = Stage(installation.settings, None, None, installation.folder / "scratch")  # type: ignore[arg-type]
    inputs = stage.inputs(word, f"run-{word}")
    return Candidate(
        service=MODEL,
        bento=inputs.bento,
        tag=inputs.tag,
        model=inputs.weights,
        evaluation=inputs.evaluation,
        spec=inputs.spec,
    )


def move_out(installation: Installation, port: int) -> Settings:
    """Back up, lose the home, and restore it somewhere else."""
    create_backup(installation.settings, "test")
    shutil.rmtree(installation.settings.resolved_home())
    ports = {**own_ranges(), "service_ports": f"{port}-{port}"}
    settings = installation.elsewhere(**ports)
    store, scratch = open_store(settings), installation.folder
    objects = Objects(store, scratch)
    manifest = choose(Catalog(store))
    verify(manifest, objects, scratch)
    restore(manifest, objects, settings.resolved_home(), StackDatabases(settings))
    return settings


def test_a_restored_champion_answers_its_golden_requests(
    postgres: LivePostgres, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A canary was at 25 % when the backup was made; users get the champion only."""
    monkeypatch.setattr(bento, "serve_command", serve_command)
    installation = Installation.make(postgres, tmp_path)
    url, port = installation.settings.ledger_url(), own_port()
    ledger.claim_port(url, MODEL, [port])
    champion = small_bento(installation, "one")
    first = ledger.open_rollout(url, champion, run_id="run-one")
    installation.move(first, Phase.PROMOTED, outcome=Outcome.PROMOTED)
    second = ledger.open_rollout(url, small_bento(installation, "two"), run_id="run-two")
    installation.move(second, Phase.STEP, canary_bp=2500)

    settings = move_out(installation, port)
    server = LivePostgres(settings.resolved_home())
    try:
        with installed(settings, tmp_path / "scratch") as stage, controlled(stage):
            endpoint = f"http://127.0.0.1:{port}"
            wait_for(lambda: answers(endpoint), "the champion is back")
            for _ in range(20):
                body = {"prompt": "Once", "max_tokens": 4, "temperature": 0}
                answer = httpx.post(f"{endpoint}/v1/completions", json=body, trust_env=False, timeout=60)
                assert answer.json()["choices"][0]["text"] == "upon one"
                assert answer.headers["X-Slipway-Digest"] == champion.model.digest
            assert len(stage.copies()) == 1
    finally:
        server.remove()

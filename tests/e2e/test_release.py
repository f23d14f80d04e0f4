"""Releases on the real stack, with users who keep a ledger of their own: it is the judge."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
import yaml

from pipelines import ledger
from pipelines.ledger import Outcome, Phase, Rollout
from tests.e2e.conftest import RUN_SECONDS, LocalStack, wait_for
from tests.load.client import Exchange, read_ledger
from tests.load.demo import users

OUTAGE_SECONDS = 5.0
"""Longest that users may be without an endpoint when Envoy is killed; 3 s on a quiet machine."""


@pytest.fixture(scope="module")
def endpoint(stack: LocalStack) -> str:
    """Return the address of a service that has a version in production."""
    url = stack.settings.ledger_url()
    if ledger.champion(url, "tiny") is None:
        first = stack.run("run", "--spec", str(stack.settings.models_dir / "tiny.yaml"), timeout=RUN_SECONDS)
        assert first.returncode == 0, first.stdout
    service = ledger.read_service(url, "tiny")
    assert service is not None
    return f"http://127.0.0.1:{service.port}"


def latest(stack: LocalStack) -> Rollout:
    """Return the rollout that was opened last."""
    (found,) = ledger.list_rollouts(stack.settings.ledger_url(), "tiny", limit=1)
    return found


def serving(endpoint: str) -> str:
    """Return the digest that answers, read through the router."""
    return httpx.get(f"{endpoint}/provenance", trust_env=False).headers["X-Slipway-Digest"]


def bad(exchanges: list[Exchange]) -> list[Exchange]:
    """Return the requests that got no answer."""
    return [exchange for exchange in exchanges if not exchange.is_good]


def test_a_better_version_goes_out_by_canary_and_every_verdict_can_be_computed_again(
    stack: LocalStack, endpoint: str, tmp_path: Path
) -> None:
    spec = str(stack.settings.models_dir / "tiny.yaml")
    before = serving(endpoint)
    with users(endpoint, tmp_path / "users.jsonl", rate=8):
        done = stack.run("run", "--spec", spec, "--seed", "7", "--max-steps", "40", timeout=RUN_SECONDS)
    assert done.returncode == 0, done.stdout

    exchanges = read_ledger(tmp_path / "users.jsonl")
    assert bad(exchanges) == []
    assert {exchange.digest for exchange in exchanges} == {before, serving(endpoint)}
    rollout = latest(stack)
    assert (rollout.state.phase, rollout.state.evidence.pairs) == (Phase.PROMOTED, 10)
    weights = [event.facts["canary_bp"] for event in ledger.events(stack.settings.ledger_url(), "tiny")
               if event.rollout == rollout.id and event.kind == "confirmed"]  # fmt: skip
    assert weights == [0, 1000, 5000, 10_000, 10_000]
    explained = stack.run("release", "explain", str(rollout.id))
    assert explained.returncode == 0, explained.stdout
    assert "every verdict follows" in explained.stdout


def test_a_person_returns_to_the_old_version_and_no_request_fails(
    stack: LocalStack, endpoint: str, tmp_path: Path
) -> None:
    url = stack.settings.ledger_url()
    versions = ledger.promoted_versions(url, "tiny")
    champion = ledger.champion(url, "tiny")
    assert champion is not None
    old = next(version for version in versions if version.id != champion.id)
    with users(endpoint, tmp_path / "users.jsonl", rate=8):
        returned = stack.run("release", "rollback", "tiny", "--to", str(old.number), timeout=120)
    assert returned.returncode == 0, returned.stdout
    assert serving(endpoint) == old.model.digest
    assert bad(read_ledger(tmp_path / "users.jsonl")) == []
    assert f"version {old.number} ({old.model.short}) serves" in stack.run("release", "status", "tiny").stdout


@pytest.fixture
def canary(stack: LocalStack, endpoint: str, tmp_path: Path) -> Iterator[tuple[subprocess.Popen[str], Rollout]]:
    """Bring a candidate to half of the users, where it stays for a while."""
    folder = tmp_path / "models"
    folder.mkdir()
    content = yaml.safe_load((stack.settings.models_dir / "tiny.yaml").read_text())
    content["rollout"] |= {"weights": [50], "bake_seconds": 120, "max_hold_seconds": 600, "unready_seconds": 300}
    (folder / "tiny.yaml").write_text(yaml.safe_dump(content))
    process = stack.start("run", "--spec", str(folder / "tiny.yaml"), "--seed", "8", "--max-steps", "23")

    def is_at_weight() -> bool:
        state = latest(stack).state
        return state.phase is Phase.STEP and state.confirmed_bp == 5000

    wait_for(is_at_weight, 240, "a canary at half of the users")
    yield process, latest(stack)
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=120)


def test_what_dies_at_half_weight_is_survived_and_an_abort_ends_it(
    stack: LocalStack, endpoint: str, canary: tuple[subprocess.Popen[str], Rollout], tmp_path: Path
) -> None:
    _, rollout = canary
    before = rollout.stable
    assert before is not None
    with users(endpoint, tmp_path / "users.jsonl", rate=8):
        for program in ("controller", rollout.candidate.copy_name):
            kill(stack, program)
        answered_as_canary = lambda: rollout.candidate.model.digest in {serving(endpoint) for _ in range(20)}  # noqa: E731
        wait_for(answered_as_canary, 90, "the canary is back in the split")
        assert latest(stack).state.phase is Phase.STEP, latest(stack).state
        killed_at = time.time()
        kill(stack, "envoy")
        wait_for(lambda: is_answering(endpoint), 30, "Envoy is back")
        aborted = stack.run("release", "abort", "tiny", timeout=120)
        assert aborted.returncode == 0 or latest(stack).state.is_final, aborted.stdout

    ended = latest(stack)
    assert (ended.id, ended.state.phase) == (rollout.id, Phase.ROLLED_BACK)
    assert ended.state.outcome in (Outcome.ABORTED, Outcome.WORSE)  # its death counts against the candidate
    assert serving(endpoint) == before.model.digest
    failed = bad(read_ledger(tmp_path / "users.jsonl"))
    assert all(killed_at - 1 <= exchange.at <= killed_at + OUTAGE_SECONDS for exchange in failed), failed
    assert ledger.verify_chain(stack.settings.ledger_url(), "tiny") > 0


def kill(stack: LocalStack, program: str) -> None:
    """Kill a supervised program's process group, and see that it is started again."""
    before = stack.states()[program].pid
    os.killpg(before, signal.SIGKILL)
    wait_for(lambda: stack.states()[program].pid not in (0, before), 30, f"{program} is started again")


def is_answering(endpoint: str) -> bool:
    """Say whether somebody answers."""
    try:
        return httpx.get(f"{endpoint}/provenance", trust_env=False, timeout=2).is_success
    except httpx.HTTPError:
        return False

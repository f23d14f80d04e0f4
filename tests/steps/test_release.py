"""A release with real parts: supervisord, Envoy, copies as processes, the controller's own loop, the three steps."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import psutil
import pytest

from pipelines import ledger
from pipelines.errors import ReleaseRefused, RolledBack
from pipelines.formats import bento
from pipelines.ledger import Outcome, Phase
from pipelines.release import adapters, orders
from pipelines.release.local.router import is_free
from pipelines.settings import Settings, parse_port_range
from pipelines.steps import record, rollback, rollout
from tests.ports import own_ranges
from tests.steps.live import Load, wait_for
from tests.steps.release_stage import MODEL, PHASES, Stage, answers, controlled, installed, serve_command


@pytest.fixture
def installation(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ledger_url: str) -> Iterator[Stage]:
    """Return an installation without a controller."""
    monkeypatch.setattr(bento, "serve_command", serve_command)
    settings = Settings(home=tmp_path / "home", ledger=ledger_url, **own_ranges())
    with installed(settings, tmp_path / "scratch") as stage:
        yield stage


@pytest.fixture
def stage(installation: Stage) -> Iterator[Stage]:
    """Return an installation whose controller is at work."""
    with controlled(installation):
        yield installation


def test_a_first_release_serves_what_was_packaged(stage: Stage) -> None:
    inputs = stage.inputs("one", "run-1")
    released = stage.release(inputs)

    assert (released.version, released.digest, released.outcome) == (1, inputs.weights.digest, Outcome.PROMOTED)
    served = httpx.get(f"{released.endpoint}/provenance", trust_env=False)
    assert served.headers["X-Slipway-Digest"] == inputs.weights.digest
    assert rollback.begin(rollback.Inputs(run=inputs.run), stage.settings) == rollback.Result(
        is_skipped=True, detail="rollout 1 of docs (run run-1, attempt 1) is promoted: first release of the service"
    )
    assert ledger.verify_chain(stage.url, MODEL) > 0


def test_a_second_version_replaces_the_first_under_load_without_a_failed_request(stage: Stage) -> None:
    first = stage.release(stage.inputs("one", "run-1"))
    old = stage.copies()
    with Load(f"{first.endpoint}/v1/completions", body={"prompt": "x" * 100_000}) as load:
        second = stage.release(stage.inputs("two", "run-2"))
        wait_for(lambda: load.by("two") > 20, "answers of the second version")

    assert load.failures == []
    assert load.by("one") > 0
    assert (second.version, second.endpoint) == (2, first.endpoint)
    assert len(stage.copies()) == 1
    assert not stage.copies() & old
    ports = parse_port_range(stage.settings.copy_ports)
    wait_for(
        lambda: [port for port in ports if not is_free(port)] == [ports[1]], "only the second copy's port is taken"
    )


def test_running_the_same_release_again_says_that_it_serves_already(stage: Stage) -> None:
    stage.release(stage.inputs("one", "run-1"))
    stage.champion = None  # weights that are registered keep what they were evaluated against
    again = stage.release(stage.inputs("one", "run-2"))

    assert (again.version, again.outcome) == (1, Outcome.ALREADY_SERVING)


def test_a_passed_phase_can_be_cleared_and_a_record_repeated(stage: Stage) -> None:
    inputs = stage.inputs("one", "run-1")
    released = stage.release(inputs)
    events = len(ledger.events(stage.url, MODEL))

    for phase in PHASES[1:]:
        result = rollout.poll(rollout.begin(phase, inputs, stage.settings), stage.settings)
        assert result is not None
    assert record.run(record.Inputs(run=inputs.run), stage.settings) == released
    assert len(ledger.events(stage.url, MODEL)) == events


def test_wrong_answers_are_rolled_back_and_the_tasks_say_why(stage: Stage) -> None:
    first = stage.release(stage.inputs("one", "run-1"))
    wrong = stage.inputs("two", "run-2", answer="something else")
    rollout.wait(rollout.begin("stage", wrong, stage.settings), stage.settings)

    smoke = rollout.begin("smoke", wrong, stage.settings)
    with pytest.raises(RolledBack, match="refused: golden request 0: expected 'upon two', got 'something else'"):
        rollout.wait(smoke, stage.settings)
    with pytest.raises(ReleaseRefused, match=r"rolled_back as refused; clear from rollout\.stage"):
        rollout.begin("promote", wrong, stage.settings)
    with pytest.raises(ReleaseRefused, match=r"clear from rollout\.stage"):
        record.run(record.Inputs(run=wrong.run), stage.settings)

    waiting = rollback.begin(rollback.Inputs(run=wrong.run), stage.settings)
    assert isinstance(waiting, rollback.Waiting)
    assert rollback.wait(waiting, stage.settings).version == first.version
    assert len(stage.copies()) == 1


def test_a_cleared_stage_opens_the_next_attempt_and_a_refused_bento_needs_a_reason_to_try_again(stage: Stage) -> None:
    wrong = stage.inputs("one", "run-1", answer="something else")
    rollout.wait(rollout.begin("stage", wrong, stage.settings), stage.settings)
    with pytest.raises(RolledBack):
        rollout.wait(rollout.begin("smoke", wrong, stage.settings), stage.settings)

    with pytest.raises(RolledBack, match=r"rolled this bento back as refused .* say why it may try again"):
        rollout.wait(rollout.begin("stage", wrong, stage.settings), stage.settings)
    again = wrong.model_copy(update={"override": "the golden requests were wrong"})
    result = rollout.wait(rollout.begin("stage", again, stage.settings), stage.settings)
    assert (result.attempt, result.version) == (3, 1)


def test_a_rollback_asked_for_while_staged_takes_the_new_copy_away(stage: Stage) -> None:
    first = stage.inputs("one", "run-1")
    rollout.wait(rollout.begin("stage", first, stage.settings), stage.settings)

    waiting = rollback.begin(rollback.Inputs(run=first.run, reason="marked as failed"), stage.settings)
    assert isinstance(waiting, rollback.Waiting)
    result = rollback.wait(waiting, stage.settings)
    assert (result.version, result.is_skipped) == (None, False)
    assert stage.copies() == frozenset()


def test_a_rollback_after_promotion_is_there_within_five_seconds(stage: Stage) -> None:
    """The old version is still warm, and nothing is analysed."""
    first = stage.release(stage.inputs("one", "run-1"))
    inputs = stage.inputs("two", "run-2", bake_full_seconds=300)
    for phase in PHASES[: PHASES.index("promote") + 1]:
        rollout.wait(rollout.begin(phase, inputs, stage.settings), stage.settings)
    served = lambda: httpx.get(f"{first.endpoint}/provenance", trust_env=False).headers["X-Slipway-Version"]  # noqa: E731
    wait_for(lambda: served() == "two", "the second version serves everybody")

    fleet, router, _ = adapters.connect(stage.settings)
    with Load(f"{first.endpoint}/v1/completions") as load:
        asked_at = time.monotonic()
        orders.abort(stage.url, MODEL, "a person", fleet=fleet, router=router)
        wait_for(lambda: served() == "one", "the first version serves again", seconds=5)
        seconds = time.monotonic() - asked_at
        wait_for(lambda: len(stage.copies()) == 1, "the second copy is stopped")
    print(f"the old version answered {seconds:.2f} s after the order")
    assert load.failures == []


def test_no_permit_in_time_rolls_back_as_aborted(stage: Stage) -> None:
    inputs = stage.inputs("one", "run-1", permit_timeout_seconds=1)
    waiting = rollout.begin("stage", inputs, stage.settings)

    def ended() -> bool:
        return ledger.read_rollout(stage.url, waiting.rollout).state.is_final

    wait_for(ended, "the permit timeout")
    state = ledger.read_rollout(stage.url, waiting.rollout).state
    assert (state.phase, state.outcome) == (Phase.ROLLED_BACK, Outcome.ABORTED)
    assert state.detail == "the permit to smoke did not come within 1 s"


def test_a_bento_that_was_altered_is_refused_by_name(stage: Stage) -> None:
    inputs = stage.inputs("one", "run-1")
    folder = stage.store.local_path(inputs.bento.uri)
    assert folder is not None
    (folder / "src" / "copy.json").write_text("{}")

    with pytest.raises(RolledBack, match=r"refused: .*src/copy\.json differs from its manifest"):
        rollout.wait(rollout.begin("stage", inputs, stage.settings), stage.settings)


@pytest.mark.parametrize("victims", ["supervisor", "worker", "group"])
def test_a_killed_copy_is_supervised_back(stage: Stage, victims: str) -> None:
    """A worker that outlives its supervisor keeps the port and answers; the new copy could never bind beside it."""
    released = stage.release(stage.inputs("one", "run-1"))
    supervisor = stage.supervisor_of_copy()
    assert supervisor is not None
    worker = supervisor.children()[0]
    for process in {"supervisor": [supervisor], "worker": [worker], "group": [supervisor, worker]}[victims]:
        process.kill()

    def is_back() -> object:
        with contextlib.suppress(psutil.NoSuchProcess):
            found = stage.supervisor_of_copy()
            return found not in (None, supervisor) and found.children() != [] and answers(released.endpoint)
        return False

    wait_for(is_back, "the copy is back")
    assert not worker.is_running() or worker.status() == psutil.STATUS_ZOMBIE


def test_everything_comes_back_after_the_supervisor_was_restarted(stage: Stage) -> None:
    released = stage.release(stage.inputs("one", "run-1"))
    stage.supervisord.stop()
    port = parse_port_range(stage.settings.copy_ports)[0]
    wait_for(lambda: is_free(port), "the copy has ended")
    stage.supervisord.start()

    wait_for(lambda: answers(released.endpoint), "the copy is back")


def test_envoy_killed_has_its_weights_when_it_is_back(stage: Stage) -> None:
    released = stage.release(stage.inputs("one", "run-1"))
    stage.envoy.kill()
    stage.envoy.start()

    wait_for(lambda: answers(released.endpoint), "the endpoint is back")

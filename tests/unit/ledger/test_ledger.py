"""The ledger: one transaction and one event per change, fenced writers, a chain that shows every tampering."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from sqlalchemy.exc import IntegrityError

from pipelines import ledger
from pipelines.errors import LedgerUnavailable, ReleaseRefused
from pipelines.ledger import Evidence, Outcome, Pair, Phase, Rollout, RolloutState
from pipelines.ledger.database import engine
from pipelines.ledger.events import change
from pipelines.ledger.tables import metadata
from pipelines.spec import RolloutConfig
from tests.unit.release.fakes import artifact, candidate
from tests.unit.release.sqlite_ledger import new_ledger

PROMOTED = RolloutState(phase=Phase.PROMOTED, outcome=Outcome.PROMOTED)


@pytest.fixture
def url() -> str:
    return new_ledger()


def promote(url: str, word: str, *, against: str | None = None, run_id: str = "") -> Rollout:
    """Take a candidate straight to the end."""
    rollout = ledger.open_rollout(url, candidate(word, against=against), run_id=run_id or f"run-{word}")
    staged = ledger.save(url, rollout, replace(rollout.state, phase=Phase.STAGE), "stage")
    return ledger.save(url, staged, PROMOTED, "promoted", champion=staged.candidate)


def test_migrations_make_exactly_the_tables_of_the_code(url: str) -> None:
    ledger.migrate(url)  # a second time changes nothing
    with engine(url).connect() as connection:
        assert compare_metadata(MigrationContext.configure(connection), metadata) == []


def test_a_run_has_one_open_rollout_and_counts_its_attempts(url: str) -> None:
    first = ledger.open_rollout(url, candidate("one"), run_id="run-1")
    assert ledger.open_rollout(url, candidate("one"), run_id="run-1") == first

    ledger.save(url, first, replace(first.state, phase=Phase.ROLLED_BACK), "rolled_back")
    second = ledger.open_rollout(url, candidate("one"), run_id="run-1")
    assert (second.attempt, second.candidate.number) == (2, 1)
    assert ledger.find_rollout(url, "docs", "run-1") == second


def test_a_permit_is_given_once(url: str) -> None:
    rollout = ledger.open_rollout(url, candidate("one"), run_id="run-1")

    assert ledger.insert_permit(url, "docs", rollout.id, "smoke")
    assert not ledger.insert_permit(url, "docs", rollout.id, "smoke")
    snapshot = ledger.snapshot(url, "docs")
    assert snapshot is not None
    assert snapshot.permits == {"stage", "smoke"}
    assert [event.kind for event in ledger.events(url, "docs")] == ["opened", "permitted"]


def test_a_writer_that_read_an_older_state_is_refused_and_writes_nothing(url: str) -> None:
    read = ledger.open_rollout(url, candidate("one"), run_id="run-1")
    ledger.save(url, read, replace(read.state, phase=Phase.STAGE), "stage")

    with pytest.raises(ledger.StaleRollout, match="changed by somebody else"):
        ledger.save(url, read, PROMOTED, "promoted", champion=read.candidate)
    assert ledger.champion(url, "docs") is None
    assert ledger.verify_chain(url, "docs") == 2


def test_two_active_rollouts_of_one_service_cannot_be_written(url: str) -> None:
    rollouts = [ledger.open_rollout(url, candidate(word), run_id=word) for word in ("one", "two")]
    ledger.save(url, rollouts[0], replace(rollouts[0].state, phase=Phase.STAGE), "stage")

    with pytest.raises(IntegrityError, match=r"UNIQUE constraint failed: rollouts\.service"):
        ledger.save(url, rollouts[1], replace(rollouts[1].state, phase=Phase.STAGE), "stage")


def test_the_rollout_with_the_lock_comes_before_those_in_the_queue(url: str) -> None:
    rollouts = [ledger.open_rollout(url, candidate(word), run_id=word) for word in ("one", "two")]
    ledger.save(url, rollouts[1], replace(rollouts[1].state, phase=Phase.STAGE), "stage")

    snapshot = ledger.snapshot(url, "docs")
    assert snapshot is not None
    assert snapshot.rollout is not None
    assert snapshot.rollout.id == rollouts[1].id


def test_a_rollout_records_the_champion_of_the_moment_it_got_the_lock(url: str) -> None:
    waiting = ledger.open_rollout(url, candidate("two"), run_id="run-2")
    champion = promote(url, "one").candidate

    staged = ledger.save(url, waiting, replace(waiting.state, phase=Phase.STAGE), "stage")
    assert staged.stable == champion


def test_versions_are_numbered_and_equal_ones_are_not_numbered_twice(url: str) -> None:
    assert promote(url, "one").candidate.number == 1
    assert promote(url, "two").candidate.number == 2
    assert promote(url, "one", run_id="again").candidate.number == 1


@pytest.mark.parametrize(
    ("weights", "expected"),
    [
        pytest.param("new", "two", id="new-weights-meet-todays-champion"),
        pytest.param("two", "one", id="the-champion-keeps-what-it-was-evaluated-against"),
        pytest.param("one", None, id="the-first-release-keeps-having-had-no-champion"),
    ],
)
def test_weights_that_were_promoted_keep_their_first_comparison(url: str, weights: str, expected: str | None) -> None:
    promote(url, "one")
    promote(url, "two", against="one")

    found = ledger.champion_for_evaluation(url, "docs", artifact("model", weights))
    assert found == (artifact("model", expected) if expected else None)


def test_weights_that_were_rolled_back_meet_the_champion_of_the_next_try(url: str) -> None:
    promote(url, "one")
    failed = ledger.open_rollout(url, candidate("two", against="one"), run_id="run-2")
    ledger.save(url, failed, replace(failed.state, phase=Phase.ROLLED_BACK), "rolled_back")
    promote(url, "three", against="one")

    assert ledger.champion_for_evaluation(url, "docs", artifact("model", "two")) == artifact("model", "three")


def test_everything_that_a_version_names_is_kept_from_the_garbage_collector(url: str) -> None:
    promote(url, "one")
    assert ledger.referenced_artifacts(url) == {
        artifact(kind, "one") for kind in ("bento", "model", "evaluation", "spec")
    }


def test_a_service_keeps_its_port_and_the_last_one_is_said(url: str) -> None:
    assert ledger.claim_port(url, "docs", [8100, 8101]) == 8100
    assert ledger.claim_port(url, "docs", [8101]) == 8100
    assert ledger.claim_port(url, "other", [8100, 8101]) == 8101
    with pytest.raises(ReleaseRefused, match="third: no endpoint port is free; widen SLIPWAY_SERVICE_PORTS"):
        ledger.claim_port(url, "third", [8100, 8101])


def test_a_reference_is_scored_once_per_pair_of_models(url: str) -> None:
    promote(url, "one")
    old, new, newer = (artifact("model", word) for word in ("one", "two", "three"))
    assert ledger.insert_pair(url, "docs", old, new, Pair("r1", -1.0, -2.0))
    assert ledger.insert_pair(url, "docs", old, new, Pair("r2", -1.0, None))
    assert not ledger.insert_pair(url, "docs", old, new, Pair("r1", -9.0, -9.0)), "a fixed set holds nothing new"
    assert ledger.insert_pair(url, "docs", old, newer, Pair("r1", None, -3.0))

    assert ledger.list_pairs(url, "docs", old, new) == [Pair("r1", -1.0, -2.0), Pair("r2", -1.0, None)]
    assert ledger.list_pairs(url, "docs", old, new, skip=1) == [Pair("r2", -1.0, None)]
    assert ledger.list_pairs(url, "docs", old, newer) == [Pair("r1", None, -3.0)]


def test_evidence_comes_back_as_it_was_written(url: str) -> None:
    evidence = Evidence(
        looks=3,
        looked_at=1.8e9 + 0.1,
        cursor="1:2:3",
        meters={"canary/user": {"answers": (10, 1)}},
        log_e={"errors": (0.1, 1.0 / 3.0)},
        split=(1e-300,),
        spreads={"headers/user_p50": ((1, 2), (3, 4))},
        totals={"canary/user": (10, 1)},
    )
    opened = ledger.open_rollout(url, candidate("one"), run_id="run-1")
    saved = ledger.save(url, opened, replace(opened.state, phase=Phase.STAGE, evidence=evidence), "stage")
    assert saved.state.evidence == ledger.read_rollout(url, opened.id).state.evidence == evidence


def test_the_rules_of_a_release_are_those_of_its_beginning(url: str) -> None:
    rules = RolloutConfig(weights=(1, 2, 3))
    opened = ledger.open_rollout(url, candidate("one", config=rules), run_id="run-1", override="a person")
    assert (opened.config, opened.override) == (rules, "a person")
    attached = ledger.open_rollout(url, candidate("one"), run_id="run-1")
    assert (attached.config, attached.override) == (rules, "a person"), "a retry changes nothing"


def test_the_name_of_whoever_approved_is_in_the_event(url: str) -> None:
    rollout = ledger.open_rollout(url, candidate("one"), run_id="run-1")
    ledger.insert_permit(url, "docs", rollout.id, "approve_users", approved_by="ada")
    assert ledger.events(url, "docs")[-1].facts == {"transition": "approve_users", "approved_by": "ada"}


def test_earlier_trials_are_those_that_held_the_lock_the_latest_first(url: str) -> None:
    def tried(run_id: str, generation: int) -> Rollout:
        opened = ledger.open_rollout(url, candidate("two"), run_id=run_id)
        begun = ledger.save(url, opened, replace(opened.state, phase=Phase.STAGE, generation=generation), "stage")
        return ledger.save(url, begun, replace(begun.state, phase=Phase.ROLLED_BACK), "rolled_back")

    first, refused, third = tried("run-1", 1), tried("run-2", 0), tried("run-3", 2)
    other = ledger.open_rollout(url, candidate("three"), run_id="run-4")
    now = ledger.open_rollout(url, candidate("two"), run_id="run-5")
    assert [trial.id for trial in ledger.earlier_trials(url, now)] == [third.id, first.id]
    assert refused.id not in {trial.id for trial in ledger.earlier_trials(url, now)}
    assert ledger.earlier_trials(url, other) == []


def test_a_release_is_recorded_once(url: str) -> None:
    rollout = promote(url, "one")
    for _ in range(2):
        ledger.record_release(url, rollout, endpoint="http://127.0.0.1:8100")

    assert [event.kind for event in ledger.events(url, "docs")].count("recorded") == 1


def test_a_change_that_records_nothing_changes_nothing(url: str) -> None:
    with change(url, "docs"):
        pass
    assert ledger.list_services(url) == []


def test_a_change_leaves_one_event_not_two(url: str) -> None:
    def record_two() -> None:
        with change(url, "docs") as opened:
            opened.record("first")
            opened.record("second")

    with pytest.raises(RuntimeError, match="a second event"):
        record_two()
    assert ledger.events(url, "docs") == []


@pytest.mark.parametrize(
    ("tampering", "named"),
    [
        pytest.param("UPDATE events SET facts = '{}' WHERE seq = 2", "event 2", id="altered"),
        pytest.param("UPDATE events SET at = at + 1 WHERE seq = 1", "event 1", id="backdated"),
        pytest.param("DELETE FROM events WHERE seq = 2", "event 2", id="removed"),
        pytest.param("DELETE FROM events WHERE seq = 3", "the last events", id="last-removed"),
    ],
)
def test_tampering_with_events_shows(url: str, tampering: str, named: str) -> None:
    promote(url, "one")
    assert ledger.verify_chain(url, "docs") == 3
    with engine(url).begin() as connection:
        connection.exec_driver_sql(tampering)

    with pytest.raises(ledger.ChainBroken, match=named):
        ledger.verify_chain(url, "docs")


def test_the_controllers_silence_counts_from_its_last_beat_or_from_a_later_moment(url: str) -> None:
    now = ledger.current_time(url)
    assert ledger.silence_seconds(url, since=now - 100) == pytest.approx(100, abs=5)
    ledger.beat(url)
    assert ledger.silence_seconds(url, since=now - 100) == pytest.approx(0, abs=5)
    ledger.beat(url)


def test_a_database_that_is_away_is_one_plain_error(tmp_path: Path) -> None:
    away = f"postgresql+psycopg2://postgres:secret@/ledger?host={tmp_path}"
    with pytest.raises(LedgerUnavailable, match=r"no answer from .*\*\*\*.*make up") as caught:
        ledger.current_time(away)
    assert "secret" not in str(caught.value)
    assert caught.value.retryable

"""What a supervisor says of its ranks."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import pytest

from pipelines.errors import RanksFailed, SlipwayError, StoreUnavailable, TrainingDiverged
from pipelines.spec import ArchitectureConfig, TrainingConfig
from pipelines.training.files import append_line
from pipelines.training.job import Resumption, TrainingJob
from pipelines.training.metrics import MetricsLog, Reading, read_metrics
from pipelines.training.supervision.events import Event, EventKind, read_events
from pipelines.training.supervision.failure import death_in, explain_failure, final_reason, leave_reason
from pipelines.training.supervision.progress import Progress, Report, describe
from pipelines.training.supervision.telemetry import Telemetry
from pipelines.training.supervision.usage import Usage


@pytest.fixture
def job(tmp_path: Path) -> TrainingJob:
    job = TrainingJob(
        architecture=ArchitectureConfig(),
        training=TrainingConfig(max_steps=40, ranks=2),
        tokens=tmp_path / "tokens",
        tokenizer=tmp_path / "tokenizer",
        workspace=tmp_path / "work",
        store_url=f"file://{tmp_path}/store",
        checkpoints="checkpoints/key",
    )
    job.save()
    return job


def reading(step: int) -> Reading:
    return Reading(
        step=step,
        loss=5.0,
        learning_rate=1e-3,
        gradient_norm=1.0,
        tokens=step * 100,
        tokens_per_second=200.0,
        seconds=step / 2,
        eta_seconds=1.0,
        at=1000.0 + step,
    )


def following(job: TrainingJob, report: Report = lambda **numbers: None) -> Progress:
    return Progress(job, report, Telemetry([]))


def fail(job: TrainingJob, attempt: int, error: SlipwayError) -> None:
    """Let rank 1 say why it fails."""
    folder = job.failures_folder / str(attempt)
    folder.mkdir(parents=True)
    leave_reason(folder / "rank-1.json", error)


def test_a_job_survives_its_file(job: TrainingJob) -> None:
    assert TrainingJob.load(job.file) == job


def test_progress_passes_on_the_newest_reading_once(job: TrainingJob) -> None:
    reports: list[dict[str, Any]] = []
    progress = following(job, lambda **numbers: reports.append(numbers))
    progress.forward({})
    log = MetricsLog(job.metrics_file)
    log.append(reading(10))
    log.append(reading(20))
    progress.forward({})
    progress.forward({})
    assert reports == [
        {
            "step": 20, "max_steps": 40, "loss": 5.0, "tokens_per_second": 200.0, "eta_seconds": 1.0, "seconds": 10.0,
            "cpu_cores": 0.0, "memory_bytes": 0,
        }
    ]  # fmt: skip


def test_progress_waits_for_a_whole_line_and_follows_a_restart(job: TrainingJob) -> None:
    reports: list[float] = []
    progress = following(job, lambda **numbers: reports.append(numbers["step"]))
    line = reading(10).model_dump_json()
    job.metrics_file.write_text(line[:30])
    progress.forward({})
    assert reports == []
    job.metrics_file.write_text(line + "\n" + reading(20).model_dump_json() + "\n")
    progress.forward({})
    job.metrics_file.write_text(line + "\n")
    progress.forward({})
    assert reports == [20, 10]


def test_a_store_that_is_away_does_not_stop_a_training(job: TrainingJob, caplog: pytest.LogCaptureFixture) -> None:
    def report(**numbers: float) -> None:
        raise StoreUnavailable("no space left")

    MetricsLog(job.metrics_file).append(reading(10))
    following(job, report).forward({})
    assert "progress not reported: no space left" in caplog.text


def test_a_resumption_and_passed_over_checkpoints_are_told_once(
    job: TrainingJob, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    resumption = Resumption(step=20, damages=("checkpoint step-00000030: model.safetensors differs",))
    job.resumption_file.write_text(resumption.model_dump_json())
    progress = following(job)
    progress.forward({})
    progress.forward({})
    assert progress.resumption == resumption
    assert caplog.text.count("model.safetensors differs; going back to the checkpoint before") == 1
    assert caplog.text.count("going on after step 20 of 40") == 1


def test_what_befell_a_training_is_in_the_log_and_in_its_record(
    job: TrainingJob, caplog: pytest.LogCaptureFixture
) -> None:
    progress = following(job)
    MetricsLog(job.metrics_file).append(reading(10))
    append_line(job.incidents_file, Event(kind=EventKind.INCIDENT, step=7, text="loss is nan at step 7; skipped"))
    progress.forward({})
    progress.forward({})
    progress.restarted(1, "rank 1 was ended by SIGKILL")
    assert [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING] == [
        "training: loss is nan at step 7; skipped",
        "training: the ranks were started again: rank 1 was ended by SIGKILL (training.max_restarts: 1 of 0)",
    ]
    told = [(event.kind, event.step) for event in read_events(job.events_file)]
    assert told == [(EventKind.INCIDENT, 7), (EventKind.RESTART, 10)]


def test_a_progress_line_tells_what_the_ranks_use() -> None:
    usage = Usage(1.94, 3 * 2**29, gpu_memory_bytes=40 * 2**30, gpu_memory_total_bytes=80 * 2**30, gpu_utilization=0.97)
    assert describe(reading(10), usage, 40) == (
        "step 10 of 40, loss 5.000, 200 tokens/s, 1.9 cores, 1.50 GiB memory, GPU 97 %, "
        "GPU memory 40.00 GiB of 80.00 GiB"
    )


def test_a_ranks_own_reason_is_the_error(job: TrainingJob) -> None:
    fail(job, 0, TrainingDiverged("training: loss is nan at step 7"))
    error = explain_failure(job, [], no_kill)
    assert isinstance(error, TrainingDiverged)
    assert str(error) == "training: loss is nan at step 7"


def test_only_a_reason_that_every_attempt_would_meet_ends_a_training_with_restarts_left(job: TrainingJob) -> None:
    fail(job, 0, StoreUnavailable("no space left"))
    assert final_reason(job) is None
    fail(job, 1, TrainingDiverged("loss is nan"))
    assert isinstance(final_reason(job), TrainingDiverged)


def test_the_reason_of_an_earlier_attempt_is_not_the_reason_of_the_last(job: TrainingJob) -> None:
    fail(job, 0, StoreUnavailable("no space left"))
    (job.failures_folder / "1").mkdir()
    (job.workspace / "failure.json").write_text(json.dumps({"rank": 0, "exit_code": 1}))
    assert str(explain_failure(job, [], no_kill)).startswith("training: rank 0 ended with exit status 1")


def test_torchruns_line_about_a_death_is_understood() -> None:
    line = "E1121 14:00 api.py:1002] failed (exitcode: -9) local_rank: 1 (pid: 77) of binary: /usr/bin/python"
    assert death_in(line) == (1, -9)
    assert death_in("W1121 sending SIGTERM") is None


def test_a_kill_that_is_explained_is_told_so(job: TrainingJob) -> None:
    (job.workspace / "failure.json").write_text(json.dumps({"rank": 1, "exit_code": -9}))
    assert str(explain_failure(job, [], lambda rank: RanksFailed(f"rank {rank} hung"))) == "rank 1 hung"


def no_kill(rank: int) -> None:
    return None


@pytest.mark.parametrize(
    ("exit_code", "message"),
    [
        pytest.param(-9, r"rank 1 was ended by SIGKILL \(killed, or out of memory\)", id="signal"),
        pytest.param(1, "rank 1 ended with exit status 1", id="exit-status"),
    ],
)
def test_a_dead_rank_is_named_with_the_end_of_its_newest_log(job: TrainingJob, exit_code: int, message: str) -> None:
    (job.workspace / "failure.json").write_text(json.dumps({"rank": 1, "exit_code": exit_code}))
    for rank, text in ((0, "peer closed"), (1, "first\nRuntimeError: boom")):
        folder = job.logs_folder / "training_x" / "attempt_0" / str(rank)
        folder.mkdir(parents=True)
        (folder / "stderr.log").write_text(text)
    error = explain_failure(job, [], no_kill)
    assert isinstance(error, RanksFailed)
    assert error.retryable
    with pytest.raises(RanksFailed, match=message):
        raise error
    assert str(error).endswith("    first\n    RuntimeError: boom")


def test_torchrun_that_dies_itself_is_told_by_its_last_lines(job: TrainingJob) -> None:
    with pytest.raises(RanksFailed, match="torchrun ended; its last lines:\n    cannot bind"):
        raise explain_failure(job, ["cannot bind"], no_kill)


def test_metrics_go_on_from_an_earlier_try(tmp_path: Path) -> None:
    file = tmp_path / "metrics.jsonl"
    history = (reading(10).model_dump_json() + "\n").encode()
    log = MetricsLog(file, history)
    log.append(reading(20))
    assert log.seconds_before == 5.0
    assert [found.step for found in read_metrics(file)] == [10, 20]

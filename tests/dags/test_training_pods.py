"""A training on several nodes as a task: what becomes of it for everything that may become of its Job."""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pipelines import labels
from tests.cluster import Faults, refusals
from tests.cluster.calls import Answer, Call
from tests.cluster.kinds import JOB, SERVICE
from tests.cluster.selectors import Object
from tests.dags.job_case import NUM_NODES, TrainingCase, training
from tests.dags.pod_case import TaskInstance, case, cluster
from tests.steps.live import wait_for

__all__ = ["case", "cluster", "training"]


def failure(training: TrainingCase, match: str, *, is_final: bool) -> str:
    """Return the message of a training that fails, for good or not, and leaves nothing."""
    from airflow.sdk.exceptions import AirflowException, AirflowFailException

    with pytest.raises(AirflowException, match=match) as caught:
        training.run()
    assert isinstance(caught.value, AirflowFailException) == is_final, str(caught.value)
    wait_for(training.is_clear, "nothing is left")
    return str(caught.value)


@pytest.mark.parametrize("deferrable", [pytest.param(True, id="deferred"), pytest.param(False, id="waiting")])
def test_both_pods_run_the_step_and_the_receipt_is_the_result(
    training: TrainingCase, deferrable: bool, caplog: pytest.LogCaptureFixture
) -> None:
    training.tell(result={"n": 1}, prints=["ten steps done"])
    with caplog.at_level(logging.INFO):
        receipt = training.run(deferrable=deferrable)
    assert (receipt["step"], receipt["result"]) == ("train", {"n": 1})
    assert "[node 0] ten steps done" in caplog.text
    assert "[node 1] ten steps done" in caplog.text
    wait_for(training.is_clear, "nothing is left")


def test_what_is_printed_is_in_the_log_once_and_while_it_runs(
    training: TrainingCase, tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("slipway.pods.watching.LOG_SECONDS", 0.0)
    training.tell(prints=["ten steps done"], then_waits=str(tmp_path / "go"))
    worker = threading.Thread(target=training.run)
    with caplog.at_level(logging.INFO):
        worker.start()
        wait_for(lambda: "[node 1] ten steps done" in caplog.text and "[node 0]" in caplog.text, "the log is live")
        (tmp_path / "go").touch()
        worker.join()
    assert caplog.text.count("[node 0] ten steps done") == 1


def test_a_pod_that_dies_is_replaced_and_the_task_goes_on(training: TrainingCase, tmp_path: Path) -> None:
    training.tell(result={"n": 2}, then_waits=str(tmp_path / "go"))

    def kill() -> None:
        died = training.node(1)
        training.cluster.kill(died)
        uid = died["metadata"]["uid"]
        wait_for(lambda: uid not in training.running(1) and training.running(1), "the pod is replaced")
        (tmp_path / "go").touch()

    killer = threading.Thread(target=kill)
    killer.start()
    assert training.run()["result"] == {"n": 2}
    killer.join()
    assert len(training.cluster.seen("create", "jobs")) >= 1


def test_more_deaths_than_restarts_end_the_try(training: TrainingCase) -> None:
    training.freeze(max_restarts=0)
    training.tell(status=10, leaves=False, prints=["error: rank 1 was ended by SIGKILL"])
    failure(training, "a retry may help .exit status 10.: rank 1 was ended by SIGKILL", is_final=False)


def test_a_refusal_ends_all_pods_at_once(training: TrainingCase) -> None:
    training.tell(status=20, leaves=False, prints=["error: the loss is nan"])
    failure(training, "refused .exit status 20.: the loss is nan", is_final=True)


def test_memory_that_is_used_up_is_no_reason_to_try_again(training: TrainingCase, tmp_path: Path) -> None:
    training.tell(then_waits=str(tmp_path / "never"))
    actor = threading.Thread(target=lambda: training.cluster.oom_kill(training.node(1)))
    actor.start()
    failure(training, "OOMKilled.*raise resources.train.memory", is_final=True)
    actor.join()


def test_pods_that_fit_no_node_are_given_up(training: TrainingCase) -> None:
    training.freeze(cpu="1000", schedule_seconds=3)
    failure(training, "found no node within 3 s.*Insufficient cpu", is_final=False)


def test_gpus_that_no_node_has_end_the_job_at_once(training: TrainingCase, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("slipway.pods.cluster.NODE_SECONDS", 1.0)
    training.freeze(gpus=8)
    failure(training, "asks for 8 nvidia.com/gpu, and no node has more than 0", is_final=True)


def test_pods_that_a_quota_refuses_are_given_up_and_nothing_is_left(training: TrainingCase) -> None:
    training.cluster.create(
        {
            "apiVersion": "v1",
            "kind": "ResourceQuota",
            "metadata": {"name": "few"},
            "spec": {"hard": {"requests.cpu": "3"}},
        }
    )
    training.freeze(cpu="2", schedule_seconds=1)
    training.tell(then_waits="/nowhere")
    with pytest.raises(Exception, match=r"make the pods of job slipway/.*exceeded quota: few.*when others have ended"):
        training.run()
    wait_for(lambda: not (training.cluster.list(JOB) or training.cluster.pods()), "nothing is left")


def test_an_unknown_image_fails_at_once(training: TrainingCase, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SLIPWAY_STEP_IMAGE", "nowhere/nothing:1")
    failure(training, "cannot pull its image.*correct SLIPWAY_STEP_IMAGE", is_final=True)


def test_a_job_that_somebody_deletes_is_tried_again(training: TrainingCase, tmp_path: Path) -> None:
    from slipway.pods.jobs import Jobs

    training.tell(then_waits=str(tmp_path / "never"))

    def delete() -> None:
        training.node(0)
        (job,) = training.cluster.list(JOB)
        Jobs(training.settings).remove(job["metadata"]["name"])

    actor = threading.Thread(target=delete)
    actor.start()
    failure(training, "its Job is gone: somebody deleted it; it is tried again", is_final=False)
    actor.join()


def test_a_killed_deferred_training_leaves_nothing(training: TrainingCase, tmp_path: Path) -> None:
    training.tell(then_waits=str(tmp_path / "never"))
    waiting = deferred(training, TaskInstance())
    training.node(0)
    asyncio.run(waiting.trigger.on_kill())
    wait_for(training.is_clear, "nothing is left")


def test_a_training_that_still_runs_is_taken_up_by_the_next_try(training: TrainingCase) -> None:
    before = len(training.cluster.seen("create", "jobs"))
    deferred(training, TaskInstance())  # and its worker dies
    receipt = training.run(TaskInstance(try_number=2))
    assert receipt["run"]["try_number"] == 1, "the receipt is that of the try whose Job it was"
    assert len(training.cluster.seen("create", "jobs")) == before + 1


class WithoutFirstService(Faults):
    """The first Service is refused."""

    def __init__(self, refusal: refusals.Refused) -> None:
        super().__init__(0, rate=0.0)
        self._refusals = [refusal]

    def around(self, call: Call, serve: Callable[[], Answer]) -> Answer:
        if (call.verb, call.kind) == ("create", SERVICE) and self._refusals:
            raise self._refusals.pop()
        return serve()


TROUBLE = refusals.Refused(500, "InternalError", "Internal error occurred: etcdserver: request timed out")
COUNTED_ANEW = refusals.conflict(SERVICE, "quota")


@pytest.mark.parametrize("refusal", [pytest.param(TROUBLE, id="trouble"), pytest.param(COUNTED_ANEW, id="quota")])
def test_a_job_whose_service_is_refused_goes_on_and_gets_it_from_the_next_try(
    training: TrainingCase, tmp_path: Path, refusal: refusals.Refused
) -> None:
    from airflow.sdk.exceptions import AirflowException

    training.tell(result={"n": 1}, then_waits=str(tmp_path / "go"))
    training.cluster.use(WithoutFirstService(refusal))
    with pytest.raises(AirflowException, match="create service of job"):
        training.operator().execute(training.context(TaskInstance()))
    (job,) = training.cluster.list(JOB)
    waiting = deferred(training, TaskInstance(try_number=2))
    (service,) = training.cluster.list(SERVICE)
    assert {waiting.trigger.job, service["metadata"]["name"]} == {job["metadata"]["name"]}
    (tmp_path / "go").touch()
    training.resume(waiting, training.context(ti := TaskInstance(try_number=2)))
    assert ti.kept["return_value"]["run"]["try_number"] == 1, "it is the receipt of the first try's Job"


def test_a_job_whose_service_is_refused_at_the_last_try_is_removed(training: TrainingCase) -> None:
    from airflow.sdk.exceptions import AirflowException

    training.cluster.use(WithoutFirstService(TROUBLE))
    with pytest.raises(AirflowException, match="create service of job"):
        training.run(TaskInstance(try_number=4))
    wait_for(training.is_clear, "nothing is left")


@pytest.mark.parametrize("nodes", [1, NUM_NODES])
def test_kueue_lets_a_queued_training_begin(training: TrainingCase, nodes: int) -> None:
    training.freeze(nodes=nodes, queue="gpus")
    waiting = deferred(training, TaskInstance())
    job = training.cluster.get(JOB, waiting.trigger.job)
    assert job["metadata"]["labels"][labels.QUEUE] == "gpus"
    assert (job["spec"]["suspend"], training.cluster.pods()) == (True, [])
    training.cluster.store.change(JOB, "slipway", job["metadata"]["name"], admitted)
    training.resume(waiting, training.context(ti := TaskInstance()))
    assert ti.kept["return_value"]["step"] == "train"


def admitted(job: Object) -> Object:
    """Return a Job as Kueue leaves it when there is room."""
    return {**job, "spec": {**job["spec"], "suspend": False}}


def deferred(training: TrainingCase, ti: TaskInstance) -> Any:
    """Start the task as far as it goes before it waits for its Job."""
    from airflow.sdk.exceptions import TaskDeferred

    with pytest.raises(TaskDeferred) as caught:
        training.operator().execute(training.context(ti))
    return caught.value


def test_one_node_is_one_pod(training: TrainingCase) -> None:
    training.freeze(nodes=1)
    before = len(training.cluster.seen("create", "jobs"))
    assert training.run()["result"] == {"n": 1}
    assert len(training.cluster.seen("create", "jobs")) == before

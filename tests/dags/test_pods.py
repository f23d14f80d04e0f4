"""The operator of step pods against a cluster: what becomes of a task for everything that may become of a pod."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pipelines.step import RunInfo
from pipelines.store import Store
from tests.cluster import events
from tests.cluster.kinds import EVENT, POD
from tests.dags.pod_case import PodCase, TaskInstance, case, cluster
from tests.steps.live import wait_for

__all__ = ["case", "cluster"]

MODES = pytest.mark.parametrize("deferrable", [pytest.param(True, id="deferred"), pytest.param(False, id="waiting")])


def failure(
    case: PodCase,
    *,
    is_final: bool,
    match: str,
    meanwhile: Callable[[], None] | None = None,
    deferrable: bool = True,
) -> str:
    """Return the message of a task that fails, for good or not, and has left no pod."""
    from airflow.sdk.exceptions import AirflowException, AirflowFailException

    actor = threading.Thread(target=meanwhile or (lambda: None))
    actor.start()
    with pytest.raises(AirflowException, match=match) as caught:
        case.run(deferrable=deferrable)
    actor.join()
    assert isinstance(caught.value, AirflowFailException) == is_final, str(caught.value)
    wait_for(lambda: case.the_pod() is None, "the pod is removed")
    return str(caught.value)


@MODES
def test_the_receipt_in_the_store_is_the_result(case: PodCase, deferrable: bool) -> None:
    case.tell(result={"n": 1})
    ti = TaskInstance()
    receipt = case.run(ti, deferrable=deferrable)
    assert receipt["result"] == {"n": 1}
    assert receipt["run"]["run_id"] == "manual__1"
    assert ti.kept.keys() == {"pod_name", "pod_namespace", "return_value"}
    wait_for(lambda: case.the_pod() is None, "the pod is removed")


@MODES
def test_the_log_of_the_pod_is_the_log_of_the_task(
    case: PodCase, deferrable: bool, caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str]
) -> None:
    case.tell(prints=["reading the corpus"])
    with caplog.at_level("INFO"):
        case.run(deferrable=deferrable)
    printed = capsys.readouterr()
    assert "reading the corpus" in caplog.text + printed.out + printed.err


@pytest.mark.parametrize(
    ("status", "is_final", "match"),
    [
        pytest.param(20, True, "refused .exit status 20.: no such column", id="refused"),
        pytest.param(10, False, "a retry may help .exit status 10.: no such column", id="retry"),
        pytest.param(1, False, "failed unexpectedly .exit status 1.: no such column", id="unexpected"),
    ],
)
def test_a_failed_step_speaks_for_itself(case: PodCase, status: int, is_final: bool, match: str) -> None:
    case.tell(status=status, leaves=False, prints=["a line", "error: no such column"])
    failure(case, is_final=is_final, match=match)


def test_a_missing_receipt_is_a_failure_although_the_status_is_0(case: PodCase) -> None:
    case.tell(leaves=False)
    failure(case, is_final=False, match=r"freeze/1\.json is missing")


def test_memory_that_is_used_up_is_no_reason_to_try_again(case: PodCase, tmp_path: Path) -> None:
    case.tell(waits=str(tmp_path / "waits"), guarded=False)

    def kill() -> None:
        wait_for((tmp_path / "waits").exists, "the step runs")
        case.cluster.oom_kill(case.cluster.pods()[0])

    failure(case, is_final=True, match="OOMKilled.*raise resources.freeze.memory", meanwhile=kill)


def test_a_preempted_step_is_tried_again(case: PodCase, tmp_path: Path) -> None:
    case.tell(waits=str(tmp_path / "waits"), guarded=False)

    def preempt() -> None:
        wait_for((tmp_path / "waits").exists, "the step runs")
        case.cluster.preempt(case.cluster.pods()[0])

    failure(case, is_final=False, match="[Pp]reempted", meanwhile=preempt)


def test_an_evicted_step_is_tried_again(case: PodCase, tmp_path: Path) -> None:
    case.tell(waits=str(tmp_path / "waits"), guarded=False)

    def evict() -> None:
        wait_for((tmp_path / "waits").exists, "the step runs")
        case.cluster.evict(case.cluster.pods()[0])

    message = failure(case, is_final=False, match="evicted, for its node ran short", meanwhile=evict)
    assert "event Evicted: The node was low on resource: memory." in message


def test_a_deadline_ends_the_pod(case: PodCase, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    case.tell(waits=str(tmp_path / "waits"), guarded=False)
    monkeypatch.setattr("slipway.pods.operator.step_pod", with_deadline(2))
    failure(case, is_final=True, match="longer than its deadline.*raise resources.freeze.deadline_seconds")


def with_deadline(seconds: int) -> Callable[..., dict[str, Any]]:
    """Return a `step_pod` with a deadline that no spec may ask for."""
    from pipelines.pods.manifest import step_pod

    def made(*arguments: Any, **more: Any) -> dict[str, Any]:
        pod = step_pod(*arguments, **more)
        pod["spec"]["activeDeadlineSeconds"] = seconds
        return pod

    return made


def test_an_unknown_image_fails_at_once(case: PodCase, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SLIPWAY_STEP_IMAGE", "nowhere/nothing:1")
    failure(case, is_final=True, match="cannot pull its image.*correct SLIPWAY_STEP_IMAGE")


def test_a_pod_that_fits_no_node_is_tried_again(case: PodCase) -> None:
    case.write_spec(cpu="1000", schedule_seconds=3)
    failure(case, is_final=False, match="found no node within 3 s.*Insufficient cpu")


@MODES
def test_gpus_that_no_node_has_fail_at_once(case: PodCase, monkeypatch: pytest.MonkeyPatch, deferrable: bool) -> None:
    monkeypatch.setattr("slipway.pods.cluster.NODE_SECONDS", 1.0)
    case.write_spec(gpus=8)
    match = "asks for 8 nvidia.com/gpu, and no node has more than 0"
    failure(case, is_final=True, match=match, deferrable=deferrable)


@pytest.mark.parametrize(
    ("reason", "owner"),
    [
        pytest.param("TriggeredScaleUp", None, id="the-clusters-autoscaler"),
        pytest.param("Nominated", None, id="karpenter"),
        pytest.param("TriggeredScaleUp", "other", id="for-another-pod"),
    ],
)
def test_gpus_that_an_autoscaler_may_bring_are_waited_for(case: PodCase, reason: str, owner: str | None) -> None:
    case.write_spec(gpus=8)

    def grow() -> None:
        wait_for(lambda: case.the_pod() is not None, "the pod is there")
        (pod,) = case.cluster.pods()
        about = {**pod, "metadata": {**pod["metadata"], "name": owner or pod["metadata"]["name"]}}
        said = (events.NORMAL, reason, "a node comes")
        events.record(case.cluster.store, POD, about, said, component="autoscaler")

    autoscaler = threading.Thread(target=grow)
    autoscaler.start()
    deferred(case, TaskInstance())
    autoscaler.join()
    assert case.phase() == "Pending"
    for event in case.cluster.list(EVENT):
        case.cluster.delete(event)


@MODES
def test_a_missing_secret_fails_at_once(case: PodCase, deferrable: bool) -> None:
    case.write_spec(secrets={"HF_TOKEN": {"name": "hugging-face", "key": "token"}})
    failure(case, is_final=True, match='cannot start: secret "hugging-face" not found; make it', deferrable=deferrable)


def test_a_missing_key_of_a_secret_fails_at_once(case: PodCase, monkeypatch: pytest.MonkeyPatch) -> None:
    case.cluster.create(
        {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "bucket"}, "stringData": {"AWS_ACCESS_KEY_ID": "k"}}
    )
    monkeypatch.setenv("SLIPWAY_STORE_SECRET", "bucket")
    failure(case, is_final=True, match="couldn't find key AWS_SECRET_ACCESS_KEY .*change SLIPWAY_STORE_SECRET")


def test_a_missing_namespace_fails_at_once(case: PodCase, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SLIPWAY_KUBERNETES_NAMESPACE", "nowhere")
    failure(case, is_final=True, match='create pod nowhere/.*namespaces "nowhere" not found; make the namespace')


def test_a_context_that_is_not_there_fails_at_once(case: PodCase, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SLIPWAY_KUBERNETES_CONTEXT", "elsewhere")
    failure(case, is_final=True, match="load context 'elsewhere'.*SLIPWAY_KUBERNETES_CONTEXT")


def test_a_verb_that_is_not_allowed_is_named(case: PodCase, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KUBECONFIG", str(case.cluster.kubeconfig_of("nobody", "slipway")))
    failure(case, is_final=True, match="give nobody the verb list on pods in namespace slipway")


def test_a_quota_that_is_used_up_is_waited_for(case: PodCase) -> None:
    quota = case.cluster.create(
        {
            "apiVersion": "v1",
            "kind": "ResourceQuota",
            "metadata": {"name": "few"},
            "spec": {"hard": {"requests.cpu": "1500m"}},
        }
    )
    taken = {"name": "other", "image": "slipway", "command": ["sleep", "600"], "resources": {"requests": {"cpu": "1"}}}
    other = case.cluster.create(
        {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "other"}, "spec": {"containers": [taken]}}
    )
    try:
        from airflow.sdk.exceptions import AirflowException, AirflowFailException

        with pytest.raises(AirflowException, match=r"exceeded quota: few.*tried again") as caught:
            case.run()
        assert not isinstance(caught.value, AirflowFailException)
    finally:
        case.cluster.delete(quota)
        case.cluster.delete(other, seconds=0)


def test_a_broken_spec_fails_before_there_is_a_pod(case: PodCase) -> None:
    before = len(case.cluster.seen("create", "pods"))
    case.write_spec(gpu=1)
    failure(case, is_final=True, match="unknown key 'gpu'.*did you mean 'gpus'")
    assert len(case.cluster.seen("create", "pods")) == before


def deferred(case: PodCase, ti: TaskInstance, **params: Any) -> Any:
    """Start the task as far as it goes before it waits for its pod."""
    from airflow.sdk.exceptions import TaskDeferred

    with pytest.raises(TaskDeferred) as caught:
        case.operator().execute(case.context(ti, **params))
    return caught.value


def test_a_killed_deferred_task_leaves_no_pod(case: PodCase, tmp_path: Path) -> None:
    case.tell(waits=str(tmp_path / "waits"), guarded=False)
    waiting = deferred(case, TaskInstance())
    wait_for((tmp_path / "waits").exists, "the step runs")
    asyncio.run(waiting.trigger.on_kill())
    wait_for(lambda: case.the_pod() is None, "the pod is removed")


def test_a_killed_waiting_task_leaves_no_pod(case: PodCase, tmp_path: Path) -> None:
    case.tell(waits=str(tmp_path / "waits"), guarded=False)
    operator = case.operator(deferrable=False)
    errors: list[BaseException] = []

    def execute() -> None:
        try:
            operator.execute(case.context(TaskInstance()))
        except Exception as error:  # noqa: BLE001 - whatever a killed task says
            errors.append(error)

    worker = threading.Thread(target=execute)
    worker.start()
    wait_for((tmp_path / "waits").exists, "the step runs")
    operator.on_kill()
    worker.join(timeout=60)
    assert errors
    assert "is gone" in str(errors[0])
    wait_for(lambda: case.the_pod() is None, "the pod is removed")


@pytest.mark.parametrize("try_number", [pytest.param(1, id="same-try"), pytest.param(2, id="next-try")])
def test_a_pod_that_still_runs_is_taken_up_again(case: PodCase, tmp_path: Path, try_number: int) -> None:
    before = len(case.cluster.seen("create", "pods"))
    case.tell(result={"n": 1})
    deferred(case, TaskInstance())  # and its worker dies
    receipt = case.run(TaskInstance(try_number=try_number))
    assert receipt["run"]["try_number"] == 1, "the receipt is that of the try whose pod it was"
    assert len(case.cluster.seen("create", "pods")) == before + 1


@pytest.mark.parametrize(("try_number", "kind"), [(3, "spot"), (4, "on-demand")], ids=["retry", "last-retry"])
def test_the_last_retry_goes_to_nodes_that_stay(case: PodCase, try_number: int, kind: str) -> None:
    case.write_spec(node_selector={"kind": "spot"}, on_demand_node_selector={"kind": "on-demand"})
    waiting = deferred(case, TaskInstance(try_number=try_number, max_tries=3))
    assert case.cluster.get(POD, waiting.trigger.pod_name)["spec"]["nodeSelector"] == {"kind": kind}


def test_a_store_on_this_machine_fails_at_once(case: PodCase, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SLIPWAY_STORE", "")
    failure(case, is_final=True, match="SLIPWAY_STORE is empty")


def test_a_lost_answer_does_not_make_a_second_pod(case: PodCase, monkeypatch: pytest.MonkeyPatch) -> None:
    from airflow.providers.cncf.kubernetes.utils.pod_manager import PodManager
    from kubernetes.client import ApiException

    create = PodManager.create_pod

    def lost(self: PodManager, pod: Any) -> Any:
        create(self, pod)
        raise ApiException(status=409)  # what the repeated request is told

    monkeypatch.setattr(PodManager, "create_pod", lost)
    case.tell(result={"n": 1})
    assert case.run()["result"] == {"n": 1}


def test_no_param_reaches_the_pod(case: PodCase) -> None:
    hostile = "{{ var.value.secret }} $(AWS_SECRET_ACCESS_KEY) `id`"
    ti = TaskInstance(run_id="manual__{{ ds }}$(HOME)/../x")
    waiting = deferred(case, ti, note=hostile)
    pod = case.cluster.get(POD, waiting.trigger.pod_name)
    assert "var.value" not in json.dumps(pod)
    container = json.dumps(pod["spec"]["containers"])
    assert "{{" not in container
    assert "$(" not in container
    info = RunInfo(model="tiny", run_id=ti.run_id, task_id="freeze")
    document = Store(case.settings.store_url()).read(info.inputs_uri)
    assert document is not None
    assert json.loads(document)["inputs"] == {"note": hostile}, "params are data, in the store"


def test_nothing_of_the_operator_is_rendered_or_shown(case: PodCase) -> None:
    operator = case.operator()
    assert tuple(operator.template_fields) == ()
    operator.spec_file = "{{ 7 * 7 }}.yaml"
    operator.render_template_fields({"ti": TaskInstance()})
    assert operator.spec_file == "{{ 7 * 7 }}.yaml"


def test_no_credential_goes_with_the_trigger(case: PodCase) -> None:
    token = json.loads(case.cluster.kubeconfig.read_text())["users"][0]["user"]["token"]
    waiting = deferred(case, TaskInstance())
    assert token not in json.dumps(waiting.trigger.serialize(), default=str)


def test_secrets_are_named_and_read_by_the_pod_only(
    case: PodCase,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    capsys: pytest.CaptureFixture[str],
) -> None:
    values = {"AWS_ACCESS_KEY_ID": "AKIA-one", "AWS_SECRET_ACCESS_KEY": "wJalr-two", "token": "hf_three"}
    case.cluster.create({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "keys"}, "stringData": values})
    monkeypatch.setenv("SLIPWAY_STORE_SECRET", "keys")
    monkeypatch.setenv("SLIPWAY_STEP_SECRETS", "HF_TOKEN=keys/token")
    case.tell(environment=str(tmp_path / "environment"))
    ti = TaskInstance()
    with caplog.at_level("DEBUG"):
        waiting = deferred(case, ti)
        pod = case.cluster.get(POD, waiting.trigger.pod_name)
        case.resume(waiting, case.context(ti))
    printed = capsys.readouterr()
    shown = json.dumps([pod, ti.kept, waiting.trigger.serialize()], default=str) + caplog.text
    assert not [value for value in values.values() if value in shown + printed.out + printed.err]
    environment = json.loads((tmp_path / "environment").read_text())
    assert environment["HF_TOKEN"] == "hf_three"
    assert environment["AWS_SECRET_ACCESS_KEY"] == "wJalr-two"
    assert "token" not in environment, "a key that nobody named sets nothing"

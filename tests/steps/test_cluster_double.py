"""The tests' cluster through the official client: what Kubernetes promises, it keeps."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from kubernetes import client, config, watch

from tests.cluster import Cluster, Fault, Faults
from tests.cluster.faults import NO_FAULTS
from tests.cluster.kinds import DEPLOYMENT, ENDPOINTS, JOB, POD
from tests.cluster.selectors import Object
from tests.steps.live import wait_for

IMAGE = "slipway-step:1"
SECONDS = 90.0


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    """A cluster that the tests of this file share."""
    with Cluster() as running:
        yield running


@pytest.fixture(autouse=True)
def _empty(request: pytest.FixtureRequest) -> Iterator[None]:
    """Leave nothing to the next test."""
    yield
    if "cluster" in request.fixturenames:
        request.getfixturevalue("cluster").clear()


@pytest.fixture
def core(cluster: Cluster) -> client.CoreV1Api:
    """The client of an administrator."""
    return client.CoreV1Api(api_of(cluster.kubeconfig))


def api_of(kubeconfig: Path) -> client.ApiClient:
    """Return a client for a kubeconfig."""
    found: client.ApiClient = config.new_client_from_config(str(kubeconfig))
    return found


def container(script: str, **others: Any) -> Object:
    """Return a container that runs a script."""
    return {"name": "base", "image": IMAGE, "command": ["python", "-u", "-c"], "args": [script], **others}


def pod(script: str = "", name: str = "step", **spec: Any) -> Object:
    """Return the manifest of a pod with one container, if nothing else is given."""
    body = {"restartPolicy": "Never", "containers": [container(script)], **spec}
    return {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name}, "spec": body}


def wait_for_phase(cluster: Cluster, phase: str, name: str = "step") -> Object:
    """Wait until a pod is in a phase; return it."""
    wait_for(lambda: cluster.get(POD, name)["status"]["phase"] == phase, f"pod {name} is {phase}", SECONDS)
    return cluster.get(POD, name)


def wait_for_log(cluster: Cluster, text: str, name: str = "step") -> Object:
    """Wait until a pod has printed a text; return the pod."""

    def has_printed() -> bool:
        found = cluster.get(POD, name)
        return cluster.is_run(found) and text in cluster.log(found)

    wait_for(has_printed, f"pod {name} printed {text!r}", SECONDS)
    return cluster.get(POD, name)


def ended(found: Object, index: int = 0) -> Object:
    """Return how a container ended."""
    state: Object = found["status"]["containerStatuses"][index]["state"]["terminated"]
    return state


WAITS_FOR_SIGTERM = """
import signal, sys, time
signal.signal(signal.SIGTERM, lambda *_: sys.exit(10))
print("ready")
while True: time.sleep(0.01)
"""
IGNORES_SIGTERM = "print('ready')\nimport time\nwhile True: time.sleep(0.01)"


def test_a_pod_gets_volumes_secrets_fields_and_arguments(cluster: Cluster, core: client.CoreV1Api) -> None:
    core.create_namespaced_secret("slipway", {"metadata": {"name": "keys"}, "stringData": {"TOKEN": "t0ken"}})
    core.create_namespaced_config_map("slipway", {"metadata": {"name": "place"}, "data": {"REGION": "north"}})
    script = (
        "import os,pathlib,sys; print(os.environ['WHO'], os.environ['TOKEN'], os.environ['P_REGION'], sys.argv[1]);"
    )
    script += "print(pathlib.Path(sys.argv[2]).read_text(), os.environ['IP'], 'HOME_OF_TESTS' in os.environ)"
    env = [
        {"name": "IP", "valueFrom": {"fieldRef": {"fieldPath": "status.podIP"}}},
        {"name": "NAME", "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}},
        {"name": "TOKEN", "valueFrom": {"secretKeyRef": {"name": "keys", "key": "TOKEN"}}},
        {"name": "WHO", "value": "$(NAME)!$$(NAME)"},
    ]
    mounts = [{"name": "scratch", "mountPath": "/scratch"}]
    first = container("import sys,pathlib; pathlib.Path(sys.argv[1]).write_text('left here')", volumeMounts=mounts)
    first = {**first, "name": "first", "args": [*first["args"], "/scratch/note"]}
    base = container(script, volumeMounts=mounts, env=env)
    base |= {"envFrom": [{"prefix": "P_", "configMapRef": {"name": "place"}}]}
    base["args"] += ["$(WHO)", "/scratch/note"]
    wanted = pod(containers=[base], initContainers=[first], volumes=[{"name": "scratch", "emptyDir": {}}])
    core.create_namespaced_pod("slipway", wanted)
    found = wait_for_phase(cluster, "Succeeded")
    ip = found["status"]["podIP"]
    assert ip.startswith(f"{cluster.network}.")
    assert cluster.log(found) == f"step!$(NAME) t0ken north step!$(NAME)\nleft here {ip} False\n"
    assert ended(found)["reason"] == "Completed"


def test_a_log_is_followed_while_the_pod_runs(cluster: Cluster, core: client.CoreV1Api, tmp_path: Path) -> None:
    gate = tmp_path / "gate"
    script = f"""
import pathlib, time
print("one")
while not pathlib.Path({str(gate)!r}).exists(): time.sleep(0.01)
print("two")
"""
    core.create_namespaced_pod("slipway", pod(script))
    wait_for_log(cluster, "one")
    stream = core.read_namespaced_pod_log("step", "slipway", follow=True, timestamps=True, _preload_content=False)
    lines = iter(stream)
    assert next(lines).endswith(b"Z one\n")
    gate.touch()
    assert next(lines).endswith(b"Z two\n")
    assert list(lines) == []
    found = wait_for_phase(cluster, "Succeeded")
    tail = core.read_namespaced_pod_log("step", "slipway", tail_lines=1, _preload_content=False)
    assert tail.data == b"two\n", found


@pytest.mark.parametrize(
    ("script", "grace", "code"),
    [pytest.param(WAITS_FOR_SIGTERM, 60, 10, id="handled"), pytest.param(IGNORES_SIGTERM, 2, 137, id="not-handled")],
)
def test_a_deleted_pod_is_asked_then_killed(
    cluster: Cluster, core: client.CoreV1Api, script: str, grace: int, code: int
) -> None:
    core.create_namespaced_pod("slipway", pod(script))
    wait_for_log(cluster, "ready")
    codes = []
    before = core.list_namespaced_pod("slipway").metadata.resource_version
    core.delete_namespaced_pod("step", "slipway", grace_period_seconds=grace)
    stream = watch.Watch().stream(core.list_namespaced_pod, "slipway", resource_version=before, timeout_seconds=90)
    for event in stream:
        state = event["object"].status.container_statuses[0].state.terminated
        codes += [state.exit_code] if state else []
        if event["type"] == "DELETED":
            break
    assert codes[-1] == code
    assert cluster.pods() == []


UNKNOWN_SECRET = {"env": [{"name": "X", "valueFrom": {"secretKeyRef": {"name": "none", "key": "k"}}}]}


@pytest.mark.parametrize(
    ("spec", "reason", "message"),
    [
        pytest.param({"image": "elsewhere:1"}, "ErrImagePull", "elsewhere:1: not found", id="unknown-image"),
        pytest.param({"image": "No:1"}, "InvalidImageName", "couldn't parse", id="impossible-image"),
        pytest.param(UNKNOWN_SECRET, "CreateContainerConfigError", 'secret "none" not found', id="missing-secret"),
    ],
)
def test_a_container_that_cannot_start_says_why(
    cluster: Cluster, core: client.CoreV1Api, spec: Object, reason: str, message: str
) -> None:
    core.create_namespaced_pod("slipway", pod(containers=[container("", **spec)]))

    def waiting() -> Object:
        statuses = cluster.get(POD, "step")["status"].get("containerStatuses", [{"state": {}}])
        return statuses[0]["state"].get("waiting", {})  # type: ignore[no-any-return]

    reasons = (reason, "ImagePullBackOff") if reason == "ErrImagePull" else (reason,)
    wait_for(lambda: waiting().get("reason") in reasons, reason, SECONDS)
    assert message in waiting()["message"]
    wait_for(lambda: any(row.startswith("Failed: ") for row in cluster.events("step")), "the event", SECONDS)


GPU = {"resources": {"limits": {"nvidia.com/gpu": "1"}}}


@pytest.mark.parametrize(
    ("spec", "problem"),
    [
        pytest.param({"containers": [container("", **GPU)]}, "1 Insufficient nvidia.com/gpu", id="no-gpu"),
        pytest.param({"nodeSelector": {"pool": "gpu"}}, "didn't match Pod's node affinity/selector", id="no-such-node"),
    ],
)
def test_a_pod_without_a_node_waits_for_one(
    cluster: Cluster, core: client.CoreV1Api, spec: Object, problem: str
) -> None:
    core.create_namespaced_pod("slipway", pod("", **spec))
    wait_for(
        lambda: any("FailedScheduling" in row and problem in row for row in cluster.events("step")), "event", SECONDS
    )
    rows = cluster.get(POD, "step")["status"]["conditions"]
    assert [(row["status"], row["reason"]) for row in rows if row["type"] == "PodScheduled"] == [
        ("False", "Unschedulable")
    ]
    cluster.add_node("node-gpu", {"pool": "gpu"}, **{"nvidia.com/gpu": "1"})
    wait_for_phase(cluster, "Succeeded")
    cluster.remove_node("node-gpu")


@pytest.mark.parametrize(
    ("act", "phase", "reason", "container_reason"),
    [
        pytest.param(Cluster.oom_kill, "Failed", None, "OOMKilled", id="oom-killed"),
        pytest.param(Cluster.kill, "Failed", None, "Error", id="killed"),
        pytest.param(Cluster.evict, "Failed", "Evicted", "Error", id="evicted"),
        pytest.param(Cluster.shut_down_node, "Failed", "Terminated", "Error", id="node-shut-down"),
    ],
)
def test_a_pod_that_is_hit(  # noqa: PLR0917  # a table
    cluster: Cluster,
    core: client.CoreV1Api,
    act: Callable[[Cluster, Object], None],
    phase: str,
    reason: str | None,
    container_reason: str,
) -> None:
    core.create_namespaced_pod("slipway", pod(WAITS_FOR_SIGTERM))
    act(cluster, wait_for_log(cluster, "ready"))
    found = wait_for_phase(cluster, phase)
    wait_for(
        lambda: "terminated" in cluster.get(POD, "step")["status"]["containerStatuses"][0]["state"], "its end", SECONDS
    )
    found = cluster.get(POD, "step")
    assert found["status"].get("reason") == reason
    assert ended(found)["reason"] == container_reason
    assert ended(found)["exitCode"] == (10 if reason == "Terminated" else 137)


def test_a_preempted_pod_is_asked_and_goes(cluster: Cluster, core: client.CoreV1Api) -> None:
    core.create_namespaced_pod("slipway", pod(WAITS_FOR_SIGTERM))
    cluster.preempt(wait_for_log(cluster, "ready"))
    wait_for(lambda: not cluster.pods(), "the pod is gone", SECONDS)
    assert any(row.startswith("Preempted: ") for row in cluster.events("step"))


def test_a_pod_has_a_deadline(cluster: Cluster, core: client.CoreV1Api) -> None:
    core.create_namespaced_pod(
        "slipway", pod(IGNORES_SIGTERM, activeDeadlineSeconds=1, terminationGracePeriodSeconds=0)
    )
    assert wait_for_phase(cluster, "Failed")["status"]["reason"] == "DeadlineExceeded"


def test_a_disruption_budget_keeps_a_pod(cluster: Cluster, core: client.CoreV1Api) -> None:
    core.create_namespaced_pod(
        "slipway", {**pod(WAITS_FOR_SIGTERM), "metadata": {"name": "step", "labels": {"app": "a"}}}
    )
    spec = {"minAvailable": 1, "selector": {"matchLabels": {"app": "a"}}}
    cluster.create({"apiVersion": "policy/v1", "kind": "PodDisruptionBudget", "metadata": {"name": "a"}, "spec": spec})
    wait_for_log(cluster, "ready")
    with pytest.raises(client.exceptions.ApiException, match="429"):
        core.create_namespaced_pod_eviction("step", "slipway", {"metadata": {"name": "step"}})
    client.PolicyV1Api(core.api_client).delete_namespaced_pod_disruption_budget("a", "slipway")
    core.create_namespaced_pod_eviction("step", "slipway", {"metadata": {"name": "step"}})
    wait_for(lambda: not cluster.pods(), "the pod is gone", SECONDS)


def test_a_container_that_fails_is_started_again_and_probed(cluster: Cluster, core: client.CoreV1Api) -> None:
    probe = {"exec": {"command": ["python", "-c", "raise SystemExit(1)"]}, "periodSeconds": 1, "failureThreshold": 1}
    base = container(WAITS_FOR_SIGTERM, livenessProbe=probe)
    core.create_namespaced_pod(
        "slipway", pod(containers=[base], restartPolicy="Always", terminationGracePeriodSeconds=1)
    )

    def status() -> Object:
        found: Object = cluster.get(POD, "step")["status"].get("containerStatuses", [{"restartCount": 0}])[0]
        return found

    wait_for(lambda: status()["restartCount"] > 0, "it was started again", SECONDS)
    assert status()["lastState"]["terminated"]["reason"] in ("Error", "Completed")
    assert any(row.startswith("Unhealthy: Liveness probe failed") for row in cluster.events("step"))


def test_a_hook_runs_before_the_end(cluster: Cluster, core: client.CoreV1Api, tmp_path: Path) -> None:
    note = tmp_path / "note"
    words = [
        "python",
        "-c",
        "import os,pathlib,sys; pathlib.Path(sys.argv[1]).write_text(os.environ['WHO'])",
        str(note),
    ]
    base = container(WAITS_FOR_SIGTERM, env=[{"name": "WHO", "value": "hook"}])
    base |= {"lifecycle": {"preStop": {"exec": {"command": words}}}}
    core.create_namespaced_pod("slipway", pod(containers=[base]))
    wait_for_log(cluster, "ready")
    core.delete_namespaced_pod("step", "slipway")
    wait_for(lambda: not cluster.pods(), "the pod is gone", SECONDS)
    assert note.read_text() == "hook"


def test_faults_kill_pods(cluster: Cluster, core: client.CoreV1Api) -> None:
    cluster.use(Faults(1, rate=1.0, kinds=frozenset({Fault.KILLED_POD})))
    core.create_namespaced_pod("slipway", pod(IGNORES_SIGTERM))
    assert ended(wait_for_phase(cluster, "Failed"))["exitCode"] == 137
    cluster.use(NO_FAULTS)


def test_nothing_of_a_pod_is_left(cluster: Cluster, core: client.CoreV1Api) -> None:
    script = (
        "import subprocess,os\nc = subprocess.Popen(['setsid', 'sleep', '600'])\nprint(os.getpid(), c.pid)\nc.wait()"
    )
    core.create_namespaced_pod("slipway", pod(script))
    pids = cluster.log(wait_for_log(cluster, "\n")).split()
    assert all(Path(f"/proc/{pid}").exists() for pid in pids)
    core.delete_namespaced_pod("step", "slipway", grace_period_seconds=0)
    wait_for(lambda: not any(Path(f"/proc/{pid}").exists() for pid in pids), "its processes are gone", SECONDS)


def test_pods_die_with_a_killed_test() -> None:
    script = f"""
import sys, time
from tests.cluster import Cluster
cluster = Cluster()
cluster.create({pod("import os,time; print(os.getpid(), flush=True); time.sleep(600)")!r})
while not (cluster.is_run(cluster.pods()[0]) and cluster.log(cluster.pods()[0])):
    time.sleep(0.02)
print(cluster.log(cluster.pods()[0]).strip(), cluster.folder, sep="\\n", flush=True)
time.sleep(600)
"""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    process = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True, env=environment)
    assert process.stdout is not None
    pid, folder = process.stdout.readline().strip(), process.stdout.readline().strip()
    assert Path(f"/proc/{pid}").exists()
    process.kill()
    process.wait()
    shutil.rmtree(folder)
    wait_for(lambda: not Path(f"/proc/{pid}").exists(), "the pod's process is gone", SECONDS)


def job(script: str, **spec: Any) -> Object:
    """Return the manifest of a Job."""
    template = {"metadata": {"labels": {"app": "train"}}, "spec": pod(script)["spec"]}
    body = {"template": template, **spec}
    return {"apiVersion": "batch/v1", "kind": "Job", "metadata": {"name": "train"}, "spec": body}


def wait_for_job(cluster: Cluster, condition: str) -> Object:
    """Wait until a Job has ended; return its condition."""

    def found() -> list[Object]:
        rows = cluster.get(JOB, "train").get("status", {}).get("conditions", [])
        return [row for row in rows if row["type"] == condition]

    wait_for(found, f"the job is {condition}", SECONDS)
    return found()[0]


def test_an_indexed_job_replaces_a_dead_pod(cluster: Cluster, core: client.CoreV1Api, tmp_path: Path) -> None:
    script = f"""
import os, pathlib, sys, time
index = os.environ["JOB_COMPLETION_INDEX"]
print("index", index)
gate = pathlib.Path({str(tmp_path)!r}) / "gate"
while not gate.exists(): time.sleep(0.01)
"""
    batch = client.BatchV1Api(core.api_client)
    batch.create_namespaced_job("slipway", job(script, completions=2, parallelism=2, completionMode="Indexed"))
    wait_for(lambda: len(cluster.pods(**{"job-name": "train"})) == 2, "both pods", SECONDS)
    first, second = sorted(cluster.pods(), key=lambda found: str(found["metadata"]["name"]))
    assert (first["spec"]["hostname"], second["spec"]["hostname"]) == ("train-0", "train-1")
    cluster.kill(wait_for_log(cluster, "index 1", second["metadata"]["name"]))
    wait_for(lambda: len(cluster.pods()) == 3, "another pod in place of the dead one", SECONDS)
    (tmp_path / "gate").touch()
    wait_for_job(cluster, "Complete")
    status = cluster.get(JOB, "train")["status"]
    assert (status["completedIndexes"], status["succeeded"], status["failed"]) == ("0-1", 2, 1)
    batch.delete_namespaced_job("train", "slipway", propagation_policy="Background")
    wait_for(lambda: not cluster.pods(), "the job's pods are gone", SECONDS)


def test_deleting_a_job_without_a_word_leaves_its_pods(cluster: Cluster, core: client.CoreV1Api) -> None:
    batch = client.BatchV1Api(core.api_client)
    batch.create_namespaced_job("slipway", job("pass"))
    wait_for_job(cluster, "Complete")
    batch.delete_namespaced_job("train", "slipway")
    assert len(cluster.pods()) == 1


POLICY = {"rules": [{"action": "FailJob", "onExitCodes": {"operator": "In", "values": [20]}}]}


@pytest.mark.parametrize(
    ("spec", "reason", "num_pods"),
    [
        pytest.param({"backoffLimit": 1}, "BackoffLimitExceeded", 2, id="too-many-failures"),
        pytest.param({"podFailurePolicy": POLICY}, "PodFailurePolicy", 1, id="an-exit-code-that-ends-it"),
    ],
)
def test_a_job_fails(cluster: Cluster, core: client.CoreV1Api, spec: Object, reason: str, num_pods: int) -> None:
    client.BatchV1Api(core.api_client).create_namespaced_job("slipway", job("raise SystemExit(20)", **spec))
    assert wait_for_job(cluster, "Failed")["reason"] == reason
    assert len(cluster.pods()) == num_pods


SERVER = """
import http.server, os, pathlib, sys
class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200 if pathlib.Path(sys.argv[1]).exists() else 503); self.end_headers()
    def log_message(self, *_): pass
http.server.ThreadingHTTPServer((os.environ["POD_IP"], 3000), Handler).serve_forever()
"""


def deployment(gate: Path, **spec: Any) -> Object:
    """Return the manifest of a Deployment whose pods are ready when a file exists."""
    base = container(SERVER, env=[{"name": "POD_IP", "valueFrom": {"fieldRef": {"fieldPath": "status.podIP"}}}])
    base["args"] += [str(gate)]
    base |= {"ports": [{"name": "http", "containerPort": 3000}]}
    base |= {"readinessProbe": {"httpGet": {"path": "/readyz", "port": "http"}, "periodSeconds": 1}}
    labels = {"app": "docs"}
    pods = {"containers": [base], "terminationGracePeriodSeconds": 0}
    template = {"metadata": {"labels": labels}, "spec": pods}
    body = {"replicas": 2, "selector": {"matchLabels": labels}, "template": template, **spec}
    return {"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "docs"}, "spec": body}


def test_a_deployment_is_ready_when_its_pods_say_so(cluster: Cluster, core: client.CoreV1Api, tmp_path: Path) -> None:
    gate = tmp_path / "gate"
    apps = client.AppsV1Api(core.api_client)
    ports = [{"port": 80, "targetPort": "http"}]
    core.create_namespaced_service(
        "slipway", {"metadata": {"name": "docs"}, "spec": {"selector": {"app": "docs"}, "ports": ports}}
    )
    apps.create_namespaced_deployment("slipway", deployment(gate))

    def addresses() -> tuple[int, int]:
        (subset,) = cluster.get(ENDPOINTS, "docs").get("subsets") or [{}]
        return len(subset.get("addresses", ())), len(subset.get("notReadyAddresses", ()))

    wait_for(lambda: cluster.store.find(ENDPOINTS, "slipway", "docs") and addresses() == (0, 2), "two pods", SECONDS)
    assert "readyReplicas" not in cluster.get(DEPLOYMENT, "docs")["status"]
    gate.touch()
    wait_for(lambda: cluster.get(DEPLOYMENT, "docs")["status"].get("readyReplicas") == 2, "both are ready", SECONDS)
    wait_for(lambda: addresses() == (2, 0), "both get requests", SECONDS)
    victim = cluster.pods(app="docs")[0]
    cluster.delete(victim, seconds=0)
    wait_for(lambda: len({row["metadata"]["name"] for row in cluster.pods(app="docs")}) == 2, "a new pod", SECONDS)
    scaler = {"scaleTargetRef": {"kind": "Deployment", "name": "docs"}, "minReplicas": 3, "maxReplicas": 4}
    kind = {"apiVersion": "autoscaling/v2", "kind": "HorizontalPodAutoscaler"}
    cluster.create({**kind, "metadata": {"name": "docs"}, "spec": scaler})
    wait_for(lambda: cluster.get(DEPLOYMENT, "docs")["status"].get("readyReplicas") == 3, "the least number", SECONDS)
    apps.delete_namespaced_deployment("docs", "slipway")
    wait_for(lambda: not cluster.pods(app="docs"), "its pods are gone", SECONDS)

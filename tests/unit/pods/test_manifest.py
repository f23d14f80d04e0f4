"""What the pod of a work step is made of."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from pipelines.errors import BadInput, SpecError
from pipelines.labels import run_digest
from pipelines.pods.manifest import check_store, pod_name, step_pod
from pipelines.podspec import CONTROLLER_SECRET, STORE_ADDRESS
from pipelines.runner import StepTry, WorkStep
from pipelines.settings import REPOSITORY, Settings, read_settings
from pipelines.spec import ModelSpec, load_spec, parse_spec
from pipelines.step import WORK_STEPS, RunInfo

INFO = RunInfo(model="docs-gpt", run_id="manual__2026-11-21T00:00:00+00:00", task_id="train", try_number=2)
SETTINGS = Settings(platform="kubernetes", store="s3://bucket/slipway", step_image="registry/slipway-trainer@sha256:aa")
SPECS = sorted(path for folder in ("dags/models", "docs/specs") for path in (REPOSITORY / folder).glob("*.yaml"))


def made(step: str = "train", settings: Settings = SETTINGS, *, is_last_try: bool = False, **resources: Any) -> Any:
    """Return the pod of a step with what a spec gives it."""
    spec = ModelSpec.model_validate({"name": "docs-gpt", "resources": {step: resources}})
    info = INFO.model_copy(update={"task_id": step})
    return step_pod(["-m", "x"], info, spec.resources.of(step), settings, is_last_try=is_last_try)


def test_a_whole_pod() -> None:
    assert made() == {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {
            "name": f"docs-gpt-train-{run_digest(INFO.run_id)}-2",
            "namespace": "slipway",
            "labels": {
                "app.kubernetes.io/managed-by": "slipway",
                "app.kubernetes.io/component": "step",
                "slipway.dev/model": "docs-gpt",
                "slipway.dev/run": run_digest(INFO.run_id),
                "slipway.dev/task": "train",
                "slipway.dev/try": "2",
            },
            "annotations": {"slipway.dev/run-id": INFO.run_id},
        },
        "spec": {
            "restartPolicy": "Never",
            "activeDeadlineSeconds": 1209600,
            "terminationGracePeriodSeconds": 120,
            "serviceAccountName": "slipway-step",
            "automountServiceAccountToken": False,
            "enableServiceLinks": False,
            "securityContext": {
                "runAsNonRoot": True,
                "runAsUser": 65532,
                "runAsGroup": 65532,
                "fsGroup": 65532,
                "seccompProfile": {"type": "RuntimeDefault"},
            },
            "containers": [
                {
                    "name": "base",
                    "image": "registry/slipway-trainer@sha256:aa",
                    "imagePullPolicy": "IfNotPresent",
                    "command": ["python"],
                    "args": ["-m", "x"],
                    "env": [
                        {"name": "HOME", "value": "/slipway"},
                        {"name": "PYTHONUNBUFFERED", "value": "1"},
                        {"name": "SLIPWAY_HOME", "value": "/slipway"},
                        {"name": "SLIPWAY_STORE", "value": "s3://bucket/slipway"},
                        {"name": "TMPDIR", "value": "/tmp"},
                        {
                            "name": "SLIPWAY_CORES",
                            "valueFrom": {
                                "resourceFieldRef": {
                                    "containerName": "base",
                                    "resource": "requests.cpu",
                                    "divisor": "1",
                                }
                            },
                        },
                    ],
                    "resources": {"requests": {"cpu": "2", "memory": "4Gi"}, "limits": {"memory": "4Gi"}},
                    "volumeMounts": [
                        {"name": "home", "mountPath": "/slipway"},
                        {"name": "tmp", "mountPath": "/tmp"},
                        {"name": "shm", "mountPath": "/dev/shm"},
                    ],
                    "securityContext": {
                        "allowPrivilegeEscalation": False,
                        "readOnlyRootFilesystem": True,
                        "capabilities": {"drop": ["ALL"]},
                    },
                    "terminationMessagePolicy": "FallbackToLogsOnError",
                }
            ],
            "volumes": [
                {"name": "home", "emptyDir": {"sizeLimit": "20Gi"}},
                {"name": "tmp", "emptyDir": {"sizeLimit": "20Gi"}},
                {"name": "shm", "emptyDir": {"medium": "Memory", "sizeLimit": "1Gi"}},
            ],
        },
    }


@pytest.mark.parametrize("step", WORK_STEPS)
@pytest.mark.parametrize("spec_file", SPECS, ids=lambda path: path.stem)
def test_the_container_runs_the_command_of_one_machine(step: str, spec_file: Path, tmp_path: Path) -> None:
    spec = load_spec(spec_file)
    info = RunInfo(model=spec.name, run_id="manual__{{ ds }}/$(HOME)..", task_id=step, try_number=3)
    uri = info.spec_uri(spec_file.name) if step == "freeze" else f"artifacts/spec/{'0' * 64}"
    settings = SETTINGS.model_copy(update={"store": f"file://{tmp_path}"})
    local = WorkStep(step, uri, info, settings).command
    arguments = StepTry(step, uri, info, settings).arguments
    pod = step_pod(arguments, info, spec.resources.of(step), settings, is_last_try=False)
    container = pod["spec"]["containers"][0]
    assert [argument.encode() for argument in container["args"]] == [argument.encode() for argument in local[1:]]
    assert container["command"] == ["python"], "the interpreter of the image instead of this machine's"
    assert "$(" not in json.dumps(container["args"]), "the kubelet would replace it"
    assert "{{" not in json.dumps(container), "Airflow would render it"


@pytest.mark.parametrize(
    ("resources", "where", "expected"),
    [
        pytest.param({"cpu_limit": "4"}, "limits", {"cpu": "4", "memory": "4Gi"}, id="cpu-limit"),
        pytest.param({"gpus": 2}, "limits", {"memory": "4Gi", "nvidia.com/gpu": "2"}, id="gpus"),
        pytest.param(
            {"gpus": 1, "gpu_resource": "amd.com/gpu"},
            "requests",
            {"cpu": "2", "memory": "4Gi", "amd.com/gpu": "1"},
            id="another-gpu",
        ),
    ],
)
def test_amounts(resources: dict[str, Any], where: str, expected: dict[str, str]) -> None:
    assert made(**resources)["spec"]["containers"][0]["resources"][where] == expected


@pytest.mark.parametrize(
    ("resources", "expected"),
    [
        pytest.param({"node_selector": {"zone": "a"}}, {"nodeSelector": {"zone": "a"}}, id="node-selector"),
        pytest.param(
            {"tolerations": [{"key": "spot", "effect": "NoSchedule"}]},
            {"tolerations": [{"key": "spot", "operator": "Exists", "effect": "NoSchedule"}]},
            id="tolerations",
        ),
        pytest.param({"affinity": {"nodeAffinity": {"x": 1}}}, {"affinity": {"nodeAffinity": {"x": 1}}}, id="affinity"),
        pytest.param({"priority_class": "high"}, {"priorityClassName": "high"}, id="priority"),
        pytest.param({"runtime_class": "nvidia"}, {"runtimeClassName": "nvidia"}, id="runtime"),
        pytest.param({"deadline_seconds": 60}, {"activeDeadlineSeconds": 60}, id="deadline"),
        pytest.param({"grace_seconds": 300}, {"terminationGracePeriodSeconds": 300}, id="grace"),
    ],
)
def test_what_a_spec_says_is_in_the_pod(resources: dict[str, Any], expected: dict[str, Any]) -> None:
    pod, plain = made(**resources)["spec"], made()["spec"]
    assert {key: value for key, value in pod.items() if plain.get(key) != value} == expected


def test_only_the_last_try_asks_for_nodes_that_stay() -> None:
    spot = {"node_selector": {"kind": "spot", "zone": "a"}, "on_demand_node_selector": {"kind": "on-demand"}}
    assert made(**spot)["spec"]["nodeSelector"] == {"kind": "spot", "zone": "a"}
    assert made(is_last_try=True, **spot)["spec"]["nodeSelector"] == {"kind": "on-demand", "zone": "a"}


def test_volumes_are_mounted_read_only_unless_said_otherwise() -> None:
    volumes = [
        {"mount_path": "/data", "claim": "corpus"},
        {"mount_path": "/settings", "config_map": "words", "is_read_only": False},
    ]
    pod = made("prepare", volumes=volumes)["spec"]
    assert pod["volumes"][2:] == [
        {"name": "volume-0", "persistentVolumeClaim": {"claimName": "corpus"}},
        {"name": "volume-1", "configMap": {"name": "words"}},
    ]
    assert pod["containers"][0]["volumeMounts"][2:] == [
        {"name": "volume-0", "mountPath": "/data", "readOnly": True},
        {"name": "volume-1", "mountPath": "/settings", "readOnly": False},
    ]


def test_secrets_are_named_and_never_held() -> None:
    update = {"store_secret": "bucket", "step_secrets": "HF_TOKEN=all/token", "image_pull_secrets": "one, two"}
    own = {"WANDB_API_KEY": {"name": "wandb", "key": "key"}}
    pod = made(settings=SETTINGS.model_copy(update=update), secrets=own)["spec"]
    (container,) = pod["containers"]
    named = {entry["name"]: entry["valueFrom"]["secretKeyRef"] for entry in container["env"] if secret_of(entry)}
    assert named == {
        "AWS_ACCESS_KEY_ID": {"name": "bucket", "key": "AWS_ACCESS_KEY_ID"},
        "AWS_SECRET_ACCESS_KEY": {"name": "bucket", "key": "AWS_SECRET_ACCESS_KEY"},
        **{name: {"name": "bucket", "key": name, "optional": True} for name in STORE_ADDRESS},
        "HF_TOKEN": {"name": "all", "key": "token"},
        "WANDB_API_KEY": {"name": "wandb", "key": "key"},
    }
    assert "envFrom" not in container, "no other key of a Secret sets a variable"
    assert pod["imagePullSecrets"] == [{"name": "one"}, {"name": "two"}]


def test_what_a_spec_names_for_its_step_counts_before_what_all_steps_get() -> None:
    settings = SETTINGS.model_copy(update={"step_secrets": "HF_TOKEN=all/token"})
    pod = made(settings=settings, secrets={"HF_TOKEN": {"name": "own", "key": "token"}})["spec"]
    tokens = [entry for entry in pod["containers"][0]["env"] if entry["name"] == "HF_TOKEN"]
    assert [secret_of(entry)["name"] for entry in tokens] == ["own"]


@pytest.mark.parametrize("text", ["HF_TOKEN", "hf=secret/key", "HF_TOKEN=secret", "HF_TOKEN=a/b/c", "A=hf_abcdef"])
def test_a_setting_that_names_no_secret_is_refused(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SLIPWAY_STEP_SECRETS", text)
    with pytest.raises(BadInput, match=r"SLIPWAY_STEP_SECRETS: .*such as HF_TOKEN=hugging-face/token"):
        read_settings()


def test_no_step_gets_the_controllers_secret(monkeypatch: pytest.MonkeyPatch) -> None:
    ledgers = {"LEDGER": {"name": CONTROLLER_SECRET, "key": "SLIPWAY_LEDGER"}}
    rule = f"Secret {CONTROLLER_SECRET} holds the ledger's URL, which no step may have; name a Secret of the step's own"
    with pytest.raises(SpecError, match=rf"resources\.train\.secrets\.LEDGER\.name: {rule}"):
        parse_spec({"name": "docs-gpt", "resources": {"train": {"secrets": ledgers}}})
    monkeypatch.setenv("SLIPWAY_STEP_SECRETS", f"LEDGER={CONTROLLER_SECRET}/SLIPWAY_LEDGER")
    with pytest.raises(BadInput, match=f"SLIPWAY_STEP_SECRETS: .*{rule}"):
        read_settings()


def secret_of(entry: dict[str, Any]) -> dict[str, Any]:
    """Return what a variable says of a Secret; empty: nothing."""
    found: dict[str, Any] = entry.get("valueFrom", {}).get("secretKeyRef", {})
    return found


def test_a_pod_knows_where_the_numbers_of_a_training_go() -> None:
    settings = SETTINGS.model_copy(update={"pushgateway": "gateway.monitoring:9091"})
    environment = made(settings=settings)["spec"]["containers"][0]["env"]
    assert {"name": "SLIPWAY_PUSHGATEWAY", "value": "gateway.monitoring:9091"} in environment
    assert "SLIPWAY_STATSD" not in {variable["name"] for variable in environment}


def test_a_folder_of_one_machine_is_no_store_for_pods() -> None:
    check_store(SETTINGS)
    with pytest.raises(BadInput, match=r"SLIPWAY_STORE is empty.*such as s3://bucket/slipway"):
        check_store(SETTINGS.model_copy(update={"store": ""}))


def test_a_name_fits_whatever_the_model_is_called() -> None:
    longest = RunInfo(model="m" * 35 + "-long", run_id="r" * 250, task_id="validate", try_number=999)
    assert len(pod_name(longest)) <= 63
    assert "--" not in pod_name(longest)


def test_names_differ_by_run_task_and_try() -> None:
    others = [{"run_id": "manual__2"}, {"task_id": "evaluate"}, {"try_number": 3}, {"model": "other"}]
    names = {pod_name(INFO), *(pod_name(INFO.model_copy(update=other)) for other in others)}
    assert len(names) == 5

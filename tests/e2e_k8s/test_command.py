"""`make e2e-k8s` as its user sees it: from data to canary on a cluster, and plain errors before anything is made."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from urllib.parse import urlsplit

import fsspec
import pytest
from pydantic import BaseModel

from pipelines import artifacts
from pipelines.artifacts import ArtifactRef
from pipelines.errors import BadInput, ExitCode
from pipelines.release.kubernetes.cluster import Cluster as Client
from pipelines.settings import REPOSITORY, Settings
from pipelines.step import WORK_STEPS, RunInfo, leave_receipt
from pipelines.store import Store
from tests.cluster import Cluster
from tests.cluster.access import service_account
from tests.cluster.gateway import EnvoyGateway
from tests.cluster.gateway.controller import HOME
from tests.cluster.kinds import HTTP_ROUTE, NAMESPACE
from tests.e2e_k8s import __main__ as command
from tests.e2e_k8s import applying, gateways, leftovers
from tests.e2e_k8s.installation import GATEWAY_CLASS, settings_of
from tests.e2e_k8s.rehearsal import LISTENER, rehearsal
from tests.e2e_k8s.releases import Releases
from tests.e2e_k8s.report import Report
from tests.e2e_k8s.target import read_target
from tests.live_s3 import LiveS3

RUN_SECONDS = 3600
"""Two releases, which take minutes on a machine of two cores with nothing else to do."""

PATHS = tuple(str(REPOSITORY / name) for name in (".", "plugins", "docker"))
"""What the Makefile puts on PYTHONPATH."""

VARIABLES = ("CONTEXT", "STORE", "OVERLAY", "BASE_IMAGE", "REGISTRY", "GATEWAY_ADDRESS", "PROMETHEUS", "MODEL")


@pytest.mark.slow
@pytest.mark.timeout(RUN_SECONDS)
@pytest.mark.needs("prometheus")
def test_the_lifecycle_goes_from_data_to_canary_on_a_cluster(tmp_path: Path) -> None:
    with rehearsal(tmp_path) as variables:
        done = subprocess.run(
            [sys.executable, "-m", "tests.e2e_k8s"],
            env={**os.environ, **variables, "PYTHONPATH": os.pathsep.join(PATHS)},
            cwd=REPOSITORY,
            capture_output=True,
            text=True,
            check=False,
        )
    assert done.returncode == 0, done.stdout[-8000:] + done.stderr[-2000:]
    assert "both versions answered users" in done.stdout
    assert "0 failed" in done.stdout.splitlines()[-1]


@pytest.fixture
def cluster() -> Iterator[Cluster]:
    """Give one test a cluster that has Envoy Gateway's namespace, and nobody in it."""
    with Cluster(namespaces=("slipway", HOME)) as cluster:
        yield cluster


@pytest.fixture
def user(cluster: Cluster, s3: LiveS3, monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Return what sets the variables of a user; the others are as they should be."""

    def say(**variables: str) -> None:
        right = {**s3.environment, "KUBECONFIG": str(cluster.kubeconfig), "STORE": f"s3://{s3.make_bucket()}/store"}
        fsspec.filesystem("s3").clear_instance_cache()  # a client keeps the address that it began with
        for name, value in {**dict.fromkeys(VARIABLES, ""), **right, **variables}.items():
            monkeypatch.setenv(name, value)

    return say


def refusal(capsys: pytest.CaptureFixture[str]) -> str:
    """Run the command, which has to end with one plain error; return that."""
    assert command.main() == ExitCode.REFUSED
    (line,) = capsys.readouterr().err.strip().splitlines()
    return line.removeprefix("error: ")


@pytest.mark.parametrize(
    ("variables", "words"),
    [
        pytest.param({"STORE": ""}, "STORE is not set: name the bucket", id="no-store"),
        pytest.param({"STORE": "file:///tmp/store"}, "write s3://bucket/path, got 'file:///tmp/store'", id="a-folder"),
        pytest.param({"STORE": "s3://nobodys/store"}, "nobodys", id="no-such-bucket"),
        pytest.param({"OVERLAY": "kin"}, "no overlay of that name; known: eks, kind, got 'kin'", id="no-such-overlay"),
        pytest.param({"KUBECONFIG": "/no/such"}, "load the current context of /no/such", id="no-kubeconfig"),
        pytest.param({"CONTEXT": "prod"}, "set SLIPWAY_KUBERNETES_CONTEXT to a name", id="no-such-context"),
        pytest.param({"AWS_ACCESS_KEY_ID": ""}, "export AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY", id="no-keys"),
        pytest.param({"BASE_IMAGE": "python:3.11"}, "the nodes would not have them; name a REGISTRY", id="no-registry"),
        pytest.param({"PROMETHEUS": "http://127.0.0.1:9"}, "PROMETHEUS: counts: Prometheus at http", id="no-counts"),
        pytest.param({"PATH": "/no/such"}, "kubectl is not on the PATH", id="no-kubectl"),
        pytest.param({"MAX_STEPS": "many"}, "MAX_STEPS: Input should be a valid integer", id="no-number"),
    ],
)
def test_what_cannot_work_is_one_plain_error_and_nothing_is_made(
    variables: dict[str, str],
    words: str,
    cluster: Cluster,
    user: Callable[..., None],
    capsys: pytest.CaptureFixture[str],
) -> None:
    user(**variables)

    assert words in refusal(capsys)
    assert {row.verb for row in cluster.seen()} <= {"get", "list"}


def test_a_cluster_that_does_not_answer_is_named(
    cluster: Cluster, user: Callable[..., None], capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    nowhere = tmp_path / "kubeconfig"
    nowhere.write_text(cluster.kubeconfig.read_text().replace(cluster.url, "http://127.0.0.1:9"))
    user(KUBECONFIG=str(nowhere))

    said = refusal(capsys)

    assert "get the version of the cluster: " in said
    assert said.endswith(f"look whether the current context of {nowhere} names it, and whether it is up")


def test_who_may_not_look_or_make_is_told_the_verb(
    cluster: Cluster, user: Callable[..., None], capsys: pytest.CaptureFixture[str]
) -> None:
    nobody = service_account("slipway", "nobody")
    user(KUBECONFIG=str(cluster.kubeconfig_of(nobody)))
    assert f"give {nobody} the verb list on deployments.apps in namespace slipway" in refusal(capsys)

    cluster.access.forbid("patch", "namespaces")
    user()
    assert "apply Namespace airflow: " in (said := refusal(capsys))
    assert "give kubernetes-admin the verb patch on namespaces" in said


def test_an_installation_that_is_there_is_left_alone(
    cluster: Cluster, user: Callable[..., None], capsys: pytest.CaptureFixture[str]
) -> None:
    user()
    labels = {"app.kubernetes.io/managed-by": "slipway"}
    metadata = {"name": "docs-gpt", "namespace": "slipway", "labels": labels}
    cluster.create({"apiVersion": HTTP_ROUTE.api_version, "kind": "HTTPRoute", "metadata": metadata, "spec": {}})

    said = refusal(capsys)

    assert "HTTPRoute docs-gpt is there" in said
    assert (
        "kubectl --namespace slipway delete deployment,httproute --selector app.kubernetes.io/managed-by=slipway"
        in said
    )


def test_databases_and_backups_of_a_users_installation_are_left_alone(
    user: Callable[..., None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    user()
    for name in ("LEDGER", "AIRFLOW_DB", "BACKUP", "LOGS"):
        monkeypatch.setenv(f"SLIPWAY_{name}", "production")
    monkeypatch.setenv("SLIPWAY_PLATFORM", "local")

    settings = settings_of(read_target(), tmp_path)

    assert "production" not in settings.model_dump_json()
    assert settings.platform == "kubernetes"
    assert settings.store_ports == str(urlsplit(os.environ["AWS_ENDPOINT_URL"]).port)


def test_without_a_controller_nobody_works_the_gateway(cluster: Cluster, user: Callable[..., None]) -> None:
    user()
    client = Client(Settings())
    assert not gateways.is_worked(client, GATEWAY_CLASS, seconds=0)


def test_a_gateway_that_is_not_reached_from_here_has_to_be_named(
    cluster: Cluster, user: Callable[..., None], tmp_path: Path
) -> None:
    user()
    settings = settings_of(read_target(), tmp_path)
    api, client = applying.connect(settings), Client(settings)
    bodies = [body for body in applying.rendered("kind", "slipway-airflow:0.1.0") if body["kind"].startswith("Gateway")]
    with EnvoyGateway(cluster):
        assert applying.apply(api, bodies, settings) == []
        assert gateways.is_worked(client, GATEWAY_CLASS)
        with pytest.raises(
            BadInput, match=f":{LISTENER}, which this machine does not reach .* GATEWAY_ADDRESS=host:port"
        ):
            gateways.way_in(client, settings)


def test_what_serves_is_removed_at_the_end(cluster: Cluster, user: Callable[..., None]) -> None:
    user()
    labels = {"app.kubernetes.io/managed-by": "slipway", "app.kubernetes.io/component": "service"}
    metadata = {"name": "docs-gpt", "namespace": "slipway", "labels": labels}
    cluster.create({"apiVersion": HTTP_ROUTE.api_version, "kind": "HTTPRoute", "metadata": metadata, "spec": {}})

    leftovers.remove(Client(Settings()))

    assert cluster.list(HTTP_ROUTE) == []
    assert [body["metadata"]["name"] for body in cluster.list(NAMESPACE)] == ["default", HOME, "slipway"]


def test_a_step_without_a_receipt_and_an_artifact_with_a_wrong_byte_fail_the_run(tmp_path: Path) -> None:
    store, report = Store(f"file://{tmp_path / 'store'}"), Report()
    settings = Settings(store=store.url)
    ref = artifacts.publish_files(store, "dataset", {"rows": b"one"}, tmp_path / "scratch")
    info = RunInfo(model="tiny", run_id="one", task_id="validate")
    leave_receipt(store, info, Made(dataset=ref), time.time())
    releases = Releases(settings, Client(settings), "tiny", report)

    releases.check_steps("one")
    assert report.passed == ["step validate left its receipt, and what it made is sound"]
    assert len(report.failed) == len(WORK_STEPS) - 1

    folder = store.local_path(ref.uri)
    assert folder is not None
    (folder / "rows").write_bytes(b"two")
    releases.check_steps("one")
    assert "is sound: " in report.failed[-5]
    assert report.text().splitlines()[-1] == "1 checks passed, 11 failed, 0 were skipped"


class Made(BaseModel):
    """What a step says that it made."""

    dataset: ArtifactRef

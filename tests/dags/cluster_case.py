"""A whole installation on the tests' cluster: what `docker/k8s/base` says, with the controller as a Deployment of it.

Pods and services are processes of the cluster, data and artifacts are in an S3 server, traffic goes through a real
Envoy, and a real Prometheus counts it. Airflow runs in this process, with the rights of its worker. Nothing of the
product is replaced, and nothing is told to it but settings.
"""

from __future__ import annotations

import contextlib
import uuid
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import fsspec
import httpx
import pytest
import yaml

from pipelines import ledger
from pipelines.artifacts import ArtifactRef
from pipelines.lifecycle import inputs_of
from pipelines.podspec import CONTROLLER_SECRET
from pipelines.runner import WorkStep
from pipelines.settings import REPOSITORY, Settings
from pipelines.stack.summary import load_receipts
from pipelines.step import WORK_STEPS, Receipt, RunInfo, leave_spec
from pipelines.store import Store
from tests.airflow_case import Lifecycle, Run
from tests.cluster import Cluster
from tests.cluster.access import service_account
from tests.cluster.gateway import EnvoyGateway, LivePrometheus
from tests.cluster.gateway.controller import HOME
from tests.cluster.selectors import Object
from tests.live_postgres import LivePostgres
from tests.live_s3 import LiveS3
from tests.local_stack import TINY_SPEC, write_corpus

MODEL = "tiny"
NAMESPACE = "slipway"
MANIFESTS = REPOSITORY / "docker" / "k8s" / "base"
STORE_SECRET = "slipway-store"
SPEED = 2.0
"""How much faster than a real cluster's probes are: each of the controller's is a process, which takes its second."""

START_SECONDS = 600
"""Deadline of a copy that takes seconds to start; a busy machine may need many times that."""

STEPS = 300
"""Steps of the first version's training: with few, a release is held, for its answers are no text."""


@dataclass(frozen=True)
class Installation:
    """Settings with everything behind them: a cluster with a Gateway, an S3 server, two databases."""

    settings: Settings
    cluster: Cluster
    gateway: EnvoyGateway
    lifecycle: Lifecycle

    @property
    def url(self) -> str:
        """Where the Gateway is reached."""
        return f"http://{self.gateway.address}:{self.gateway.port}"

    def run(self, **params: Any) -> tuple[Run, dict[str, Receipt]]:
        """Run the model's DAG to its end; return how, and what its tasks left."""
        done = self.lifecycle.run(**params)
        return done, load_receipts(Store(self.settings.store_url()), MODEL, done.id)

    def ask(self) -> httpx.Response:
        """Ask the service for a completion, as a user does."""
        body = {"prompt": "Return the", "max_tokens": 4}
        return httpx.post(f"{self.url}/v1/completions", json=body, headers={"Host": MODEL}, trust_env=False, timeout=60)

    def champion(self) -> ledger.Version:
        """Return the version that the ledger says is in production."""
        found = ledger.champion(self.settings.ledger_url(), MODEL)
        assert found is not None
        return found


@contextlib.contextmanager
def installed(folder: Path, postgres: LivePostgres, s3: LiveS3) -> Iterator[Installation]:
    """Install all of it for a block, with the spec of a tiny model."""
    with contextlib.ExitStack() as stack:
        cluster = stack.enter_context(Cluster(namespaces=(HOME,), speed=SPEED))
        gateway = stack.enter_context(EnvoyGateway(cluster))
        prometheus = stack.enter_context(LivePrometheus(cluster, gateway))
        said = settings_on_cluster(s3, prometheus.url, f"{gateway.address}:{gateway.port}")
        secret = databases(postgres)
        patch = stack.enter_context(pytest.MonkeyPatch.context())
        home = {"SLIPWAY_HOME": str(folder / "home"), "SLIPWAY_MODELS_DIR": str(folder / "models")}
        for name, value in {**s3.environment, **said, **secret, **home}.items():
            patch.setenv(name, value)
        patch.setenv("KUBECONFIG", str(cluster.kubeconfig_of(service_account("airflow", "airflow-worker"), NAMESPACE)))
        fsspec.filesystem("s3").clear_instance_cache()  # a client keeps the address that it began with
        settings = Settings()
        write_spec(settings, s3)
        for body in [*manifests(gateway.port), *configuration(said, secret, s3)]:
            cluster.create(body)
        yield Installation(settings, cluster, gateway, Lifecycle(settings, folder / "told.json"))


def settings_on_cluster(s3: LiveS3, prometheus: str, gateway: str) -> Mapping[str, str]:
    """Return what an overlay's `settings.env` says."""
    return {
        "SLIPWAY_PLATFORM": "kubernetes",
        "SLIPWAY_STORE": f"s3://{s3.make_bucket()}/store",
        "SLIPWAY_BACKUP": f"s3://{s3.make_bucket()}/backup",
        "SLIPWAY_STORE_SECRET": STORE_SECRET,
        "SLIPWAY_GATEWAY_ADDRESS": gateway,
        "SLIPWAY_PROMETHEUS": prometheus,
    }


def databases(postgres: LivePostgres) -> Mapping[str, str]:
    """Return the URLs of two databases, the ledger with its tables.

    The server's socket is in /tmp. A pod has a /tmp of its own, so the path is quoted, and not taken for one there.
    """
    word = uuid.uuid4().hex
    urls = {name: postgres.create_database(f"{name}_{word}") for name in ("ledger", "airflow")}
    ledger.migrate(urls["ledger"])
    quoted = {name: url.replace("host=/", "host=%2F") for name, url in urls.items()}
    return {"SLIPWAY_LEDGER": quoted["ledger"], "SLIPWAY_AIRFLOW_DB": quoted["airflow"]}


def manifests(port: int) -> Iterator[Object]:
    """Return the product's own objects, with a Gateway that listens where this user may."""
    for name in yaml.safe_load((MANIFESTS / "kustomization.yaml").read_text())["resources"]:
        for body in yaml.safe_load_all((MANIFESTS / name).read_text()):
            if body["kind"] == "Gateway":
                body["spec"]["listeners"][0]["port"] = port
            yield body


def configuration(said: Mapping[str, str], secret: Mapping[str, str], s3: LiveS3) -> Iterator[Object]:
    """Return what the manifests refer to: settings, the ledger's URL, the keys of the store."""
    home = {"SLIPWAY_HOME": "/scratch/slipway"}  # what the image says
    about = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "slipway-settings", "namespace": NAMESPACE}}
    yield {**about, "data": {**said, **home}}
    controllers = {"SLIPWAY_LEDGER": secret["SLIPWAY_LEDGER"]}
    for name, content in ((CONTROLLER_SECRET, controllers), (STORE_SECRET, s3.environment)):
        about = {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": name, "namespace": NAMESPACE}}
        yield {**about, "stringData": dict(content)}


def write_spec(settings: Settings, s3: LiveS3) -> None:
    """Write the spec of a tiny model, and put its corpus into a bucket."""
    settings.models_dir.mkdir()
    corpus, bucket = settings.models_dir.with_name("corpus.jsonl"), s3.make_bucket()
    write_corpus(corpus)
    s3.put(bucket, corpus.name, corpus.read_bytes())
    spec = yaml.safe_load(TINY_SPEC.format(corpus=f"s3://{bucket}/{corpus.name}"))
    spec["rollout"]["ready_timeout_seconds"] = START_SECONDS
    spec["training"]["max_steps"] = STEPS
    (settings.models_dir / f"{MODEL}.yaml").write_text(yaml.safe_dump(spec), encoding="utf-8")


def work_locally(spec_file: Path, settings: Settings) -> dict[str, Receipt]:
    """Do all work steps as processes of this machine; return what they left."""
    store, receipts = Store(settings.store_url()), dict[str, Receipt]()
    spec_uri = leave_spec(store, RunInfo(model=MODEL, run_id="local", task_id="freeze"), spec_file)
    for step in WORK_STEPS:
        info = RunInfo(model=MODEL, run_id="local", task_id=step)
        inputs = inputs_of(step, receipts, lambda: None) if receipts else {}
        receipts[step] = WorkStep(step, spec_uri, info, settings).run(inputs, lambda line: None)
        spec_uri = ArtifactRef.model_validate(receipts["freeze"].result["spec"]).uri
    return receipts

"""A cluster for tests of the serving adapters: the double, a Gateway whose routes somebody accepts, an installation."""

from __future__ import annotations

import contextlib
import json
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from pipelines import artifacts
from pipelines.ledger import Version
from pipelines.release.kubernetes import objects
from pipelines.release.kubernetes.cluster import Cluster
from pipelines.release.kubernetes.fleet import KubernetesFleet
from pipelines.release.kubernetes.gateway import Gateway
from pipelines.release.kubernetes.objects import Peers
from pipelines.release.kubernetes.router import HttpRouteRouter
from pipelines.release.ports import Address, FleetError, Target
from pipelines.settings import Settings
from pipelines.spec import ServingConfig, parse_spec
from pipelines.store import Store
from tests import cluster as double
from tests.cluster.kinds import HTTP_ROUTE
from tests.steps.live import wait_for

GATEWAY_NAMESPACE = "envoy-gateway-system"
CONTROLLER = "gateway.envoyproxy.io/gatewayclass-controller"
API = "gateway.networking.k8s.io"
PARENT = {"group": API, "kind": "Gateway", "namespace": GATEWAY_NAMESPACE, "name": "slipway"}
NAMESPACE = "slipway"


class GatewayController:
    """Accepts every HTTPRoute, or refuses them with a reason."""

    def __init__(self, cluster: double.Cluster) -> None:
        self.refusal = ""
        self.is_asleep = False
        self._store = cluster.store
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def stop(self) -> None:
        self._stopping.set()
        self._store.wake()
        self._thread.join()

    def _run(self) -> None:
        while not self._stopping.is_set():
            version = self._store.version
            for route in [] if self.is_asleep else self._store.list(HTTP_ROUTE):
                wanted = self._status(route)
                if route.get("status") != wanted:
                    name, namespace = route["metadata"]["name"], route["metadata"]["namespace"]
                    self._store.set_status(
                        HTTP_ROUTE, namespace, name, lambda found: {**found, "status": self._status(found)}
                    )
            self._store.wait(version, 0.1)

    def _status(self, route: dict[str, Any]) -> dict[str, Any]:
        status = (
            {"status": "False", "reason": "NotAllowed", "message": self.refusal}
            if self.refusal
            else {"status": "True", "reason": "Accepted"}
        )
        conditions = [
            {"type": name, "observedGeneration": route["metadata"]["generation"], **status}
            for name in ("Accepted", "ResolvedRefs")
        ]
        return {"parents": [{"parentRef": PARENT, "controllerName": CONTROLLER, "conditions": conditions}]}


class Case:
    """An installation on a cluster."""

    def __init__(self, folder: Path, cluster: double.Cluster) -> None:
        self.double = cluster
        self.folder = folder
        self.settings = Settings(
            platform="kubernetes",
            store=f"file://{folder / 'store'}",
            home=folder / "home",
            prometheus="http://127.0.0.1:9",
        )
        self.store = Store(self.settings.store_url())
        self.controller = GatewayController(cluster)
        self.connect()

    def connect(self, **settings: Any) -> None:
        """Begin anew, as a process that has asked nothing yet."""
        self.settings = self.settings.model_copy(update=settings)
        self.cluster = Cluster(self.settings)
        self.gateway = Gateway(self.settings, self.cluster)
        self.fleet = KubernetesFleet(self.settings, self.cluster, self.gateway)
        self.router = HttpRouteRouter(self.settings, self.cluster, self.gateway)

    def version(self, word: str, number: int = 1, **serving: Any) -> Version:
        """Publish a small bento with the spec that it was made from, and return its version."""
        return self._version(word, number, {"content.txt": word.encode()}, serving)

    def bento_version(self, word: str, number: int = 1, **serving: Any) -> Version:
        """Publish a bento that `tests.steps.copy_server` serves, and return its version."""
        known = {"version": word, "digest": "0" * 64, "answers": {}}
        return self._version(word, number, {"src/copy.json": json.dumps(known).encode()}, serving)

    def _version(self, word: str, number: int, files: dict[str, bytes], serving: dict[str, Any]) -> Version:
        refs = {kind: self._publish(kind, {"content.txt": word.encode()}) for kind in ("model", "evaluation")}
        refs["bento"] = self._publish("bento", files)
        spec = parse_spec({"name": "docs", "serving": serving})
        return Version(
            service="docs",
            bento=refs["bento"],
            tag=f"docs:{word}",
            model=refs["model"],
            evaluation=refs["evaluation"],
            spec=self._publish("spec", {"spec.json": spec.canonical()}),
            rollout=spec.rollout,
            id=number,
            number=number,
            run_id=f"run-{word}",
        )

    def bodies(self, version: Version) -> list[dict[str, Any]]:
        """Return the objects of a copy."""
        return objects.bodies(version, ServingConfig(), self.settings, Peers(GATEWAY_NAMESPACE, "monitoring"))

    def stop(self, copy: str) -> None:
        """Stop a copy as the controller does: at the next look again, while a pod that has begun is still ending."""

        def is_stopped() -> bool:
            try:
                self.fleet.stop(copy)
            except FleetError:
                return False
            return True

        wait_for(is_stopped, f"copy {copy} is stopped", seconds=180)

    def target(self, word: str) -> Target:
        return Target(f"docs-{word}", Address(f"docs-{word}.{NAMESPACE}.svc", 3000))

    def _publish(self, kind: str, files: dict[str, bytes]) -> artifacts.ArtifactRef:
        return artifacts.publish_files(self.store, kind, files, self.folder / "scratch")


@contextlib.contextmanager
def running(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Case]:
    """Run a cluster with a Gateway for a block."""
    with double.Cluster(namespaces=(NAMESPACE, GATEWAY_NAMESPACE)) as cluster:
        monkeypatch.setenv("KUBECONFIG", str(cluster.kubeconfig))
        add_gateway(cluster)
        account = {"name": "slipway-service", "namespace": NAMESPACE}
        cluster.create({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": account})
        case = Case(folder, cluster)
        try:
            yield case
        finally:
            case.controller.stop()


def add_gateway(cluster: double.Cluster, controller: str = CONTROLLER) -> None:
    """Add the Gateway that the settings name, and its class."""
    about = {"apiVersion": f"{API}/v1", "kind": "GatewayClass", "metadata": {"name": "class"}}
    cluster.create({**about, "spec": {"controllerName": controller}})
    listener = {"name": "http", "protocol": "HTTP", "port": 80}
    cluster.create(
        {
            "apiVersion": f"{API}/v1",
            "kind": "Gateway",
            "metadata": {"name": "slipway", "namespace": GATEWAY_NAMESPACE},
            "spec": {"gatewayClassName": "class", "listeners": [listener]},
        }
    )

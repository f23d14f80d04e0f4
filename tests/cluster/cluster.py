"""The cluster as a test sees it."""

from __future__ import annotations

import json
import secrets
import shutil
import socket
import tempfile
import threading
from collections.abc import Sequence
from pathlib import Path

from tests.cluster import autoscaling, deletion, events, jobs, podstatus, replicas, scheduling, services
from tests.cluster.access import ADMIN, Access, service_account
from tests.cluster.admission import create
from tests.cluster.api import Api, Seen
from tests.cluster.containers import Container
from tests.cluster.faults import Faults
from tests.cluster.kinds import EVENT, NODE, POD, SERVICE_ACCOUNT, Kind, Kinds
from tests.cluster.kubelet import Kubelet
from tests.cluster.loop import Loop
from tests.cluster.pods import PodRunner
from tests.cluster.running import Running
from tests.cluster.selectors import Object
from tests.cluster.server import Server
from tests.cluster.starting import Node
from tests.cluster.stopping import Ending
from tests.cluster.store import Store
from tests.cluster.verbs import Verbs

API_PORT = 6443
KNOWN_IMAGES = ("slipway*", "*/slipway*")
"""Patterns of the images that exist, if a test names no others."""

_CAPACITY = {"cpu": "16", "memory": "64Gi", "ephemeral-storage": "100Gi", "pods": "110"}


class Cluster(Running):
    """A running cluster with one node. Its network is a part of 127.0.0.0/8 that no other cluster here has."""

    def __init__(
        self,
        *,
        namespaces: Sequence[str] = ("slipway",),
        images: Sequence[str] = KNOWN_IMAGES,
        entrypoint: Sequence[str] = (),
        speed: float = 20.0,
    ) -> None:
        """Start.

        Args:
            namespaces: namespaces beside `default`.
            images: patterns of the images that the nodes can get.
            entrypoint: what an image runs when a container has no `command`.
            speed: how much faster than a real cluster backoffs and probes are; a pod's own times are real, and so is
                how long a probe fails before its container is started again.
        """
        self.folder = Path(tempfile.mkdtemp(prefix="slipway-cluster-"))
        self._writing = threading.Lock()
        listener, self.network = _own_network()
        self.url = f"http://{self.network}.0.1:{API_PORT}"
        self.store = Store()
        self.kinds = Kinds()
        self.access = Access(self.store)
        address = f"{self.network}.0.10"
        node = Node(self.store, self.folder, address, speed, tuple(images), tuple(entrypoint))
        self._kubelet = Kubelet(node, self.network, self._variables_of)
        self.api = Api(self.kinds, self.access, Verbs(self.store, self._kubelet))
        self._server = Server(listener, self.api)
        for namespace in ("default", *namespaces):
            self.create({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": namespace}})
        self.add_node("node-1")
        controllers = [
            jobs.Jobs(self.store, speed).reconcile,
            lambda: autoscaling.reconcile(self.store),
            lambda: replicas.reconcile_deployments(self.store),
            lambda: replicas.reconcile_sets(self.store),
            lambda: scheduling.schedule(self.store),
            self._kubelet.reconcile,
            lambda: services.reconcile_services(self.store),
            lambda: services.reconcile_budgets(self.store),
            lambda: deletion.collect_garbage(self.store),
        ]
        self._loop = Loop(self.store, controllers)

    def stop(self) -> None:
        """Stop everything; no process is left."""
        self._loop.stop()
        self._kubelet.stop()
        self._server.stop()
        shutil.rmtree(self.folder, ignore_errors=True)
        assert not self._loop.crashes, self._loop.crashes[0]

    @property
    def kubeconfig(self) -> Path:
        """File with which clients are the administrator."""
        return self.kubeconfig_of(ADMIN, "slipway")

    def kubeconfig_of(self, user: str, namespace: str = "default") -> Path:
        """Return a file with which clients are a user; `access.service_account` names those of service accounts."""
        path = self.folder / "kubeconfigs" / user.replace(":", "-") / f"{namespace}.json"
        context = {"cluster": "double", "user": user, "namespace": namespace}
        content = {
            "apiVersion": "v1",
            "kind": "Config",
            "current-context": "double",
            "clusters": [{"name": "double", "cluster": {"server": self.url}}],
            "users": [{"name": user, "user": {"token": self.access.token(user)}}],
            "contexts": [{"name": "double", "context": context}],
        }
        self._write(path, json.dumps(content, indent=1))
        return path

    def _write(self, path: Path, content: str) -> None:
        """Write a file that a pod may be reading."""
        with self._writing:
            path.parent.mkdir(parents=True, exist_ok=True)
            if not path.exists() or path.read_text() != content:
                path.with_suffix(".new").write_text(content)
                path.with_suffix(".new").replace(path)

    def add_node(self, name: str, labels: dict[str, str] | None = None, **resources: str) -> None:
        """Add a node; resources such as `cpu="2"` and `**{"nvidia.com/gpu": "1"}` are added to the usual ones."""
        capacity = {**_CAPACITY, **resources}
        labels = {"kubernetes.io/hostname": name, "kubernetes.io/os": "linux", **(labels or {})}
        status = {"capacity": capacity, "allocatable": capacity, "conditions": [{"type": "Ready", "status": "True"}]}
        self.store.create(NODE, "", {"metadata": {"name": name, "labels": labels}, "spec": {}, "status": status})

    def remove_node(self, name: str) -> None:
        """Take a node away; its pods stay."""
        self.store.remove(NODE, "", name)

    def define(self, kind: Kind) -> None:
        """Serve one more type of custom resource (`kinds.custom`)."""
        self.kinds.add(kind)

    def create(self, manifest: Object) -> Object:
        """Create an object as the administrator."""
        kind = self.kinds.of(manifest)
        namespace = manifest["metadata"].get("namespace", "slipway") if kind.is_namespaced else ""
        return create(self.store, kind, namespace, manifest)

    def get(self, kind: Kind, name: str, namespace: str = "slipway") -> Object:
        """Return an object."""
        return self.store.get(kind, namespace if kind.is_namespaced else "", name)

    def list(self, kind: Kind, namespace: str = "slipway") -> Sequence[Object]:
        """Return the objects of a kind."""
        return self.store.list(kind, namespace if kind.is_namespaced else "")

    def delete(self, thing: Object, seconds: int | None = None) -> None:
        """Delete an object; a pod within so many seconds of grace."""
        metadata = thing["metadata"]
        options = {} if seconds is None else {"gracePeriodSeconds": seconds}
        kind = self.kinds.of(thing)
        deletion.delete(self.store, kind, metadata.get("namespace", ""), metadata["name"], options)

    def clear(self, namespace: str = "slipway") -> None:
        """Delete all that tests made in a namespace, and what controllers made of it meanwhile; no process is left."""
        kept = (SERVICE_ACCOUNT, EVENT)
        is_clear = False
        while not is_clear:
            left = [row for row in self.store.everything() if row[1]["metadata"].get("namespace") == namespace]
            doomed = [(kind, thing["metadata"]["name"]) for kind, thing in left if kind not in kept]
            for kind, name in doomed:
                self.store.remove(kind, namespace, name)
            self._loop.wait_for_round()
            is_clear = not doomed and not self._kubelet.num_running(namespace)
        for event in self.store.list(EVENT, namespace):
            self.store.remove(EVENT, namespace, event["metadata"]["name"])

    def is_run(self, pod: Object) -> bool:
        """Say whether a node runs a pod, or has run it."""
        return self._kubelet.runner(pod) is not None

    def pods(self, namespace: str = "slipway", **labels: str) -> Sequence[Object]:
        """Return the pods with these labels."""
        return [
            pod
            for pod in self.store.list(POD, namespace)
            if labels.items() <= (pod["metadata"].get("labels") or {}).items()
        ]

    def events(self, name: str, namespace: str = "slipway") -> Sequence[str]:
        """Return what was said about an object, as `Reason: message`."""
        found = [row for row in self.store.list(EVENT, namespace) if row["involvedObject"]["name"] == name]
        rows = sorted(found, key=lambda row: int(row["metadata"]["resourceVersion"]))
        return [f"{row['reason']}: {row['message']}" for row in rows]

    def log(self, pod: Object, container: str = "") -> str:
        """Return what a container has printed so far."""
        found = self._running(pod).container(container)
        return found.log.text() if found else ""

    def oom_kill(self, pod: Object, container: str = "") -> None:
        """Kill a container as the kernel does when its memory is used up."""
        self._container(pod, container).kill("OOMKilled")

    def kill(self, pod: Object, container: str = "") -> None:
        """Kill a container's processes."""
        self._container(pod, container).kill()

    def evict(self, pod: Object, message: str = "The node was low on resource: memory.") -> None:
        """End a pod as a kubelet does whose node runs out of something: at once, and its object stays."""
        deletion.disrupt(self.store, pod, "TerminationByKubelet", message)
        events.record(self.store, POD, pod, (events.WARNING, "Evicted", message), component="kubelet")
        self._running(pod).end(Ending.within(0, podstatus.FAILED, "Evicted", message))

    def preempt(self, pod: Object) -> None:
        """Delete a pod as the scheduler does for one of higher priority: with its grace."""
        message = "default-scheduler: preempting to accommodate a higher priority pod"
        deletion.disrupt(self.store, pod, "PreemptionByScheduler", message)
        metadata = pod["metadata"]
        said = f"Preempted by a pod on node {pod['spec'].get('nodeName')}"
        events.record(self.store, POD, pod, (events.NORMAL, "Preempted", said), component="default-scheduler")
        deletion.delete(self.store, POD, metadata["namespace"], metadata["name"], {})

    def shut_down_node(self, pod: Object) -> None:
        """End a pod as a kubelet does whose node (a spot machine, say) shuts down: with its grace; its object stays."""
        message = "Pod was terminated in response to imminent node shutdown."
        deletion.disrupt(self.store, pod, "TerminationByKubelet", message)
        runner = self._running(pod)
        runner.end(Ending.within(runner.grace_seconds, podstatus.FAILED, "Terminated", message))

    def use(self, faults: Faults) -> None:
        """Let calls and pods fail from now on."""
        self.api.faults = self._kubelet.faults = faults

    def seen(self, verb: str = "", resource: str = "") -> Sequence[Seen]:
        """Return the requests that were served."""
        return [row for row in list(self.api.seen) if verb in ("", row.verb) and resource in ("", row.resource)]

    def _container(self, pod: Object, name: str) -> Container:
        found = self._running(pod).container(name)
        assert found is not None, f"no container {name}"
        return found

    def _running(self, pod: Object) -> PodRunner:
        runner = self._kubelet.runner(pod)
        assert runner is not None, f"pod {pod['metadata']['name']} is not bound to a node"
        return runner

    def _variables_of(self, pod: Object) -> dict[str, str]:
        """Return what each container finds: host name, API server, and a kubeconfig in place of the mounted token."""
        variables = {"HOSTNAME": pod["spec"].get("hostname") or pod["metadata"]["name"]}
        variables |= {"KUBERNETES_SERVICE_HOST": f"{self.network}.0.1", "KUBERNETES_SERVICE_PORT": str(API_PORT)}
        if pod["spec"].get("automountServiceAccountToken", True):
            namespace = pod["metadata"]["namespace"]
            user = service_account(namespace, pod["spec"]["serviceAccountName"])
            variables["KUBECONFIG"] = str(self.kubeconfig_of(user, namespace))
        return variables


def _own_network() -> tuple[socket.socket, str]:
    """Return the API server's socket, and the first two numbers of the addresses that are this cluster's alone."""
    for number in secrets.SystemRandom().sample(range(2, 255), 253):
        listener = socket.socket()
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind((f"127.{number}.0.1", API_PORT))
            listener.listen(128)  # two may be bound to one address, if nobody listens
        except OSError:
            listener.close()
            continue
        return listener, f"127.{number}"
    raise AssertionError("no free network of 127.0.0.0/8")

"""The fleet on Kubernetes: every copy is a Deployment with what belongs to it (`pipelines.release.kubernetes.objects`).

The Deployment is made first and marked as whole last: a copy that a crash left half-made is completed by the next
`start`, and found by `list` and `stop` as any other. What is whole is left as it is, whatever settings say by now: a
new image must not restart what is in production.

A copy that stops is first scaled to no pods. Its Deployment goes when they have ended, and what it owns with it: their
network policy stays while they finish their streams. No other copy has no pods, so whoever finds one ends it.

Copies in pods record no requests: nothing but a pod's own account could read them, for nobody may execute commands in a
pod, and no endpoint shows what users asked. So a release on a cluster repeats reference requests only.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator, Mapping, Sequence

from pipelines import artifacts, labels
from pipelines.errors import ArtifactCorrupt, ExitCode
from pipelines.formats.headers import Traffic
from pipelines.formats.metrics import ServiceCounters
from pipelines.formats.requests import RecordedRequest
from pipelines.ledger import Version
from pipelines.release.kubernetes import objects
from pipelines.release.kubernetes.cluster import DEPLOYMENT, POD, Body, Cluster
from pipelines.release.kubernetes.gateway import Gateway
from pipelines.release.kubernetes.meters import PodMeters
from pipelines.release.kubernetes.objects import FETCH, PORT, Peers
from pipelines.release.ports import Address, FleetError
from pipelines.settings import Settings
from pipelines.spec import ModelSpec
from pipelines.store import Store

logger = logging.getLogger(__name__)

WHOLE = "slipway.dev/whole"
"""Annotation of a Deployment whose copy has all of its objects."""

STOP_SECONDS = 15.0
"""How long `stop` waits for pods to end; they may take longer, and the next look asks again."""

POLL_SECONDS = 0.2

_TO_NO_PODS: Body = {"op": "add", "path": "/spec/replicas", "value": 0}

HOPELESS = frozenset({"ErrImageNeverPull", "InvalidImageName", "CreateContainerConfigError", "CreateContainerError"})
PULLING_FAILS = frozenset({"ErrImagePull", "ImagePullBackOff"})


class KubernetesFleet:
    """See `pipelines.release.ports.Fleet`."""

    def __init__(self, settings: Settings, cluster: Cluster, gateway: Gateway) -> None:
        self._settings = settings
        self._cluster = cluster
        self._gateway = gateway
        self._store = Store(settings.store_url())
        self._meters = PodMeters(cluster)

    def start(self, version: Version) -> Address:
        """Make the copy's objects unless they are all there; say why its pods cannot start, when they cannot.

        The first time, the server checks every object before any is made.

        Raises:
            ArtifactMissing, ArtifactCorrupt: when the store has no such bento, or its bytes are not what its name says:
                then the pods' init containers have found it.
            ClusterRefused: when the cluster refuses an object for good; nothing is made.
            FleetError: when it cannot be started at present.
        """
        found = self._cluster.get(DEPLOYMENT, version.copy_name)
        if found is not None and _is_stopping(found):
            self._stop(version.copy_name, seconds=0.0)  # the look that wants it back has a route to mend
            found = None
        if found is None or not _is_whole(found):
            self._make(version, is_new=found is None)
        elif not _num_ready(found):
            _tell_refusal(found)
            _tell_problems(version.copy_name, self._pods(version.copy_name))
        return Address(f"{version.copy_name}.{self._cluster.namespace}.svc", PORT)

    def stop(self, copy: str) -> None:
        """Let the pods end, then delete everything that has the copy's label; wait a while for that.

        Raises:
            FleetError: when it takes longer; asking again goes on from there.
        """
        self._stop(copy, STOP_SECONDS)

    def ready(self, copy: str) -> bool:
        """Ask the Deployment: as many pods as its disruption budget leaves say that they are ready."""
        found = self._cluster.get(DEPLOYMENT, copy)
        if found is None or _is_stopping(found):
            return False
        is_current = found.get("status", {}).get("observedGeneration", 0) >= found["metadata"].get("generation", 0)
        return is_current and _num_ready(found) >= max(1, _num_wanted(found) - 1)

    def list(self, service: str | None = None) -> frozenset[str]:
        """Return the copies that have a Deployment, those that are ending among them."""
        found = self._cluster.find(DEPLOYMENT, labels.service_labels(service))
        return frozenset(body["metadata"]["labels"][labels.COPY] for body in found)

    def meter(self, copy: str) -> Mapping[Traffic, ServiceCounters]:
        """Ask every pod of the copy, and add up what they say.

        Raises:
            FleetError: when no pod runs, or one that does cannot be asked: a sum without it would be none.
        """
        return self._meters.read(copy, self._pods(copy))

    def recorded(self, copy: str) -> Sequence[RecordedRequest]:
        """Return nothing: pods record no requests."""
        return ()

    def _make(self, version: Version, *, is_new: bool) -> None:
        artifacts.read_manifest(self._store, version.bento)
        spec = ModelSpec.model_validate_json(artifacts.read_file(self._store, version.spec, "spec.json"))
        peers = Peers(self._gateway.check().proxies_namespace, self._settings.prometheus_namespace)
        deployment, *others = objects.bodies(version, spec.serving, self._settings, peers)
        if is_new:
            for body in (deployment, *others):
                self._cluster.apply(body, is_trial=True)
        owner = self._cluster.apply(deployment)
        for body in others:
            self._cluster.apply(objects.owned_by(body, owner))
        annotations = {**deployment["metadata"]["annotations"], WHOLE: "true"}
        self._cluster.apply({**deployment, "metadata": {**deployment["metadata"], "annotations": annotations}})
        logger.info("%s: copy %s, %d objects", version.service, version.copy_name, 1 + len(others))

    def _stop(self, copy: str, seconds: float) -> None:
        deadline = time.monotonic() + seconds
        for found in self._cluster.find(DEPLOYMENT, _of(copy)):
            if not _is_stopping(found):
                self._cluster.patch(DEPLOYMENT, found["metadata"]["name"], [_TO_NO_PODS])
        _await_end(copy, self._running, deadline)
        for kind in (DEPLOYMENT, *objects.owned_kinds()):
            for found in self._cluster.find(kind, _of(copy)):
                if "deletionTimestamp" not in found["metadata"]:
                    self._cluster.delete(kind, found["metadata"]["name"])
        _await_end(copy, self._left, deadline)

    def _running(self, copy: str) -> set[str]:
        """Return the pods that are not over; one that failed stays until its owner is deleted."""
        return {
            f"Pod {pod['metadata']['name']}"
            for pod in self._pods(copy)
            if pod.get("status", {}).get("phase") not in ("Succeeded", "Failed")
        }

    def _left(self, copy: str) -> set[str]:
        kinds = (DEPLOYMENT, *objects.owned_kinds(), POD)
        return {
            f"{kind.kind} {body['metadata']['name']}" for kind in kinds for body in self._cluster.find(kind, _of(copy))
        }

    def _pods(self, copy: str) -> Sequence[Body]:
        return self._cluster.find(POD, _of(copy))


def _of(copy: str) -> dict[str, str]:
    return {labels.MANAGED_BY: labels.SLIPWAY, labels.COPY: copy}


def _await_end(copy: str, left: Callable[[str], set[str]], deadline: float) -> None:
    while names := left(copy):
        if time.monotonic() > deadline:
            raise FleetError(f"fleet: copy {copy} is still ending: {', '.join(sorted(names))}")
        time.sleep(POLL_SECONDS)


def _is_whole(deployment: Body) -> bool:
    return WHOLE in deployment["metadata"].get("annotations", {})


def _is_stopping(deployment: Body) -> bool:
    return "deletionTimestamp" in deployment["metadata"] or _num_wanted(deployment) == 0


def _num_ready(deployment: Body) -> int:
    return int(deployment.get("status", {}).get("readyReplicas") or 0)


def _num_wanted(deployment: Body) -> int:
    return int(deployment["spec"].get("replicas", 1))


def _tell_refusal(deployment: Body) -> None:
    """Say why pods cannot be made at all: a quota, a missing service account, a policy.

    Raises:
        FleetError: with the cluster's own words.
    """
    for condition in deployment.get("status", {}).get("conditions", ()):
        if condition["type"] == "ReplicaFailure" and condition["status"] == "True":
            name = deployment["metadata"]["name"]
            raise FleetError(f"fleet: no pod of copy {name} can be made: {condition.get('message', '')}")


def _tell_problems(copy: str, pods: Sequence[Body]) -> None:
    """Say why pods cannot start.

    Raises:
        ArtifactCorrupt: when the bento was refused by the pod that fetched it.
        FleetError: for what may pass: an image that cannot be pulled at present, no room.
    """
    for pod in pods:
        name, status = pod["metadata"]["name"], pod.get("status", {})
        for container, state in _states(status):
            waiting, ended = state.get("waiting", {}), state.get("terminated", {})
            if container == FETCH and ended.get("exitCode") == ExitCode.REFUSED:
                raise ArtifactCorrupt(f"fleet: pod {name}: {_last_line(ended.get('message', 'the bento is refused'))}")
            reason, message = waiting.get("reason", ""), waiting.get("message", "")
            if reason in HOPELESS | PULLING_FAILS:
                raise FleetError(f"fleet: pod {name} of copy {copy}: {container}: {reason}: {message}")
        for condition in status.get("conditions", ()):
            if condition["type"] == "PodScheduled" and condition["status"] == "False":
                raise FleetError(f"fleet: pod {name} of copy {copy} has no node: {condition.get('message', '')}")


def _states(status: Body) -> Iterator[tuple[str, Body]]:
    for part in ("initContainerStatuses", "containerStatuses"):
        for found in status.get(part, ()):
            yield found["name"], found.get("state", {})
            yield found["name"], found.get("lastState", {})


def _last_line(text: str) -> str:
    lines = text.strip().splitlines()
    return lines[-1] if lines else text

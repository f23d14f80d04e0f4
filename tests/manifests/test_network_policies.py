"""The network policies let each pod out to the servers that the settings name, and to no others."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import NamedTuple

import pytest

from pipelines import labels
from tests.manifests.rendered import OVERLAYS, Body, of_kind, settings_of

both = pytest.mark.parametrize("overlay", OVERLAYS)


class Pod(NamedTuple):
    """What a policy sees of a pod; Airflow's chart labels its pods with their `component`."""

    namespace: str
    labels: Mapping[str, str]


class Server(NamedTuple):
    """A server of the cluster."""

    namespace: str
    port: int
    protocol: str = "TCP"


WORKER, TRIGGERER, SCHEDULER, DAG_PROCESSOR, API_SERVER = (
    Pod("airflow", {"tier": "airflow", "component": name})
    for name in ("worker", "triggerer", "scheduler", "dag-processor", "api-server")
)
CONTROLLER = Pod("slipway", labels.service_labels("docs") | {labels.COMPONENT: labels.CONTROLLER})
TRAINING = Pod("slipway", labels.step_labels("docs", "run", "train", 1))
EVALUATION = Pod("slipway", labels.step_labels("docs", "run", "evaluate", 1))

PROMETHEUS = Server("monitoring", 9090)
PUSHGATEWAY = Server("monitoring", 9091)
STATSD = Server("monitoring", 8125, "UDP")


def reaches(overlay: str, pod: Pod, server: Server) -> bool:
    """Return whether a policy lets a pod out to a server."""
    return any(
        _is_of(rule.get("to"), server) and _has(rule.get("ports"), server)
        for policy in of_kind(overlay, "NetworkPolicy")
        if policy["metadata"]["namespace"] == pod.namespace and _selects(policy["spec"]["podSelector"], pod.labels)
        for rule in policy["spec"].get("egress", ())
    )


def _selects(selector: Body, found: Mapping[str, str]) -> bool:
    expressions: Iterable[Body] = selector.get("matchExpressions", ())
    assert {expression["operator"] for expression in expressions} <= {"In"}
    return selector.get("matchLabels", {}).items() <= found.items() and all(
        found.get(expression["key"]) in expression["values"] for expression in expressions
    )


def _is_of(peers: list[Body] | None, server: Server) -> bool:
    name = {"kubernetes.io/metadata.name": server.namespace}
    return peers is None or {"namespaceSelector": {"matchLabels": name}} in peers


def _has(ports: list[Body] | None, server: Server) -> bool:
    return ports is None or {"port": server.port, "protocol": server.protocol} in ports


@both
@pytest.mark.parametrize("pod", [CONTROLLER, WORKER, TRIGGERER], ids=["controller", "worker", "triggerer"])
def test_whoever_changes_a_weight_reaches_prometheus_and_the_gateway(overlay: str, pod: Pod) -> None:
    host, _, port = settings_of(overlay)["SLIPWAY_GATEWAY_ADDRESS"].partition(":")
    _, namespace, _ = host.split(".")

    assert f".{PROMETHEUS.namespace}.svc:{PROMETHEUS.port}" in settings_of(overlay)["SLIPWAY_PROMETHEUS"]
    assert reaches(overlay, pod, PROMETHEUS)
    assert reaches(overlay, pod, Server(namespace, int(port)))


@both
@pytest.mark.parametrize(
    "pod", [SCHEDULER, DAG_PROCESSOR, API_SERVER, TRAINING], ids=["scheduler", "dags", "api-server", "training"]
)
def test_whoever_changes_none_does_not_reach_prometheus(overlay: str, pod: Pod) -> None:
    assert not reaches(overlay, pod, PROMETHEUS)


@both
@pytest.mark.parametrize("server", [PUSHGATEWAY, STATSD], ids=["pushgateway", "statsd"])
@pytest.mark.parametrize(
    "pod", [WORKER, TRIGGERER, SCHEDULER, TRAINING], ids=["worker", "triggerer", "scheduler", "training"]
)
def test_numbers_of_tasks_and_trainings_reach_who_collects_them(overlay: str, pod: Pod, server: Server) -> None:
    assert reaches(overlay, pod, server)


@both
@pytest.mark.parametrize("server", [PUSHGATEWAY, STATSD, PROMETHEUS], ids=["pushgateway", "statsd", "prometheus"])
def test_a_step_that_sends_no_numbers_reaches_nothing_of_monitoring(overlay: str, server: Server) -> None:
    assert not reaches(overlay, EVALUATION, server)

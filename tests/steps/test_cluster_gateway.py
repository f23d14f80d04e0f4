"""The Gateway of the tests' cluster: an HTTPRoute is in force in a real Envoy, and a real Prometheus counts."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from tests.cluster import Cluster
from tests.cluster.gateway import EnvoyGateway, LivePrometheus
from tests.cluster.gateway.controller import HOME
from tests.cluster.kinds import DEPLOYMENT, GATEWAY, HTTP_ROUTE
from tests.cluster.selectors import Object
from tests.steps.live import wait_for

HOST = "docs.example"
SECONDS = 60.0
CLIENT = httpx.Client(timeout=60, trust_env=False, limits=httpx.Limits(max_keepalive_connections=0))
SERVER = """
import http.server, json, os
seen = []
class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    def do_GET(self):
        if self.path == "/seen":
            body = json.dumps(seen).encode()
        else:
            seen.append(dict(self.headers))
            body = os.environ["WHO"].encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)
    def log_message(self, *_): pass
http.server.ThreadingHTTPServer((os.environ["POD_IP"], 3000), Handler).serve_forever()
"""


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    """A cluster with two services, `one` and `two`."""
    with Cluster(namespaces=("slipway", HOME)) as running:
        for who in ("one", "two"):
            running.create(deployment(who))
            spec = {"selector": {"app": who}, "ports": [{"port": 80, "targetPort": 3000}]}
            running.create({"apiVersion": "v1", "kind": "Service", "metadata": {"name": who}, "spec": spec})
        wait_for(lambda: all(is_ready(running, who) for who in ("one", "two")), "both are ready", SECONDS)
        yield running


@pytest.fixture(scope="module")
def gateway(cluster: Cluster) -> Iterator[EnvoyGateway]:
    """Envoy Gateway on that cluster."""
    with EnvoyGateway(cluster) as running:
        running.install()
        yield running


@pytest.fixture(scope="module")
def prometheus(cluster: Cluster, gateway: EnvoyGateway) -> Iterator[LivePrometheus]:
    """Prometheus on that cluster."""
    with LivePrometheus(cluster, gateway) as running:
        yield running


@pytest.fixture(autouse=True)
def _without_route(cluster: Cluster) -> Iterator[None]:
    yield
    for route in cluster.list(HTTP_ROUTE):
        cluster.store.remove(HTTP_ROUTE, "slipway", route["metadata"]["name"])


def deployment(who: str) -> Object:
    """Return a Deployment of one pod that says who it is."""
    env = [{"name": "WHO", "value": who}, {"name": "POD_IP", "valueFrom": {"fieldRef": {"fieldPath": "status.podIP"}}}]
    probe = {"httpGet": {"path": "/seen", "port": 3000}, "periodSeconds": 1}
    base = {"name": "base", "image": "slipway-service:1", "command": ["python", "-c", SERVER], "env": env}
    pods = {"containers": [{**base, "readinessProbe": probe}], "terminationGracePeriodSeconds": 0}
    template = {"metadata": {"labels": {"app": who}}, "spec": pods}
    spec = {"replicas": 1, "selector": {"matchLabels": {"app": who}}, "template": template}
    return {"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": who}, "spec": spec}


def is_ready(cluster: Cluster, name: str) -> bool:
    """Say whether a Deployment has a ready pod."""
    return bool(cluster.get(DEPLOYMENT, name).get("status", {}).get("readyReplicas"))


def backend(name: str, weight: int, **others: Any) -> Object:
    """Return a backend of a rule."""
    return {"name": name, "port": 80, "weight": weight, **others}


def told(name: str) -> Object:
    """Return a filter that tells a backend's pods who was chosen."""
    changes = {"set": [{"name": "X-Chosen", "value": name}], "remove": ["X-Forged"]}
    return {"type": "RequestHeaderModifier", "requestHeaderModifier": changes}


def put_route(cluster: Cluster, *rules: Object, name: str = "docs", gateway: str = "slipway") -> Object:
    """Create or replace the route; wait until the Gateway's controller has looked; return its conditions."""
    parents = [{"name": gateway, "namespace": HOME}]
    spec = {"parentRefs": parents, "hostnames": [HOST], "rules": list(rules)}
    manifest = {"apiVersion": HTTP_ROUTE.api_version, "kind": "HTTPRoute", "metadata": {"name": name}, "spec": spec}
    if cluster.store.find(HTTP_ROUTE, "slipway", name) is None:
        cluster.create(manifest)
    else:
        cluster.store.change(HTTP_ROUTE, "slipway", name, lambda found: {**found, "spec": spec})
    wait_for(lambda: conditions(cluster, name), "the controller has looked")
    return {row["type"]: (row["status"], row["reason"]) for row in conditions(cluster, name)}


def conditions(cluster: Cluster, name: str) -> list[Object]:
    """Return what the controller says about the present generation of the route."""
    found = cluster.get(HTTP_ROUTE, name)
    parents = found.get("status", {}).get("parents", ())
    rows = [row for parent in parents for row in parent["conditions"]]
    return [row for row in rows if row["observedGeneration"] == found["metadata"]["generation"]]


def ask(gateway: EnvoyGateway, path: str = "/", **headers: str) -> httpx.Response:
    """Ask as a user."""
    url = f"http://{gateway.address}:{gateway.port}{path}"
    return CLIENT.get(url, headers={"Host": HOST, **headers})


GOOD = {"Accepted": ("True", "Accepted"), "ResolvedRefs": ("True", "ResolvedRefs")}


def test_weights_share_the_requests(cluster: Cluster, gateway: EnvoyGateway) -> None:
    backends = [backend("one", 3, filters=[told("one")]), backend("two", 1, filters=[told("two")])]
    assert put_route(cluster, {"backendRefs": backends}) == GOOD
    answers = Counter(ask(gateway).text for _ in range(200))
    assert answers.total() == answers["one"] + answers["two"] == 200
    assert 20 <= answers["two"] <= 85
    backends[0]["weight"] = 0
    put_route(cluster, {"backendRefs": backends})
    assert {ask(gateway).text for _ in range(20)} == {"two"}


def test_the_narrower_match_is_asked_first(cluster: Cluster, gateway: EnvoyGateway) -> None:
    pinned = {"path": {"type": "PathPrefix", "value": "/"}, "headers": [{"name": "X-Pin", "value": "two"}]}
    put_route(
        cluster,
        {"backendRefs": [backend("one", 1)]},
        {"matches": [pinned], "backendRefs": [backend("two", 1)]},
        {"matches": [{"path": {"type": "Exact", "value": "/exact"}}], "backendRefs": [backend("two", 1)]},
    )
    assert ask(gateway).text == "one"
    assert ask(gateway, **{"X-Pin": "two"}).text == "two"
    assert ask(gateway, "/exact").text == "two"
    assert ask(gateway, "/exact/more").text == "one"


def test_backends_are_told_and_forged_headers_removed(cluster: Cluster, gateway: EnvoyGateway) -> None:
    put_route(cluster, {"backendRefs": [backend("one", 1, filters=[told("one")])]})
    ask(gateway, **{"X-Forged": "yes", "X-Test": "told"})
    (seen,) = [row for row in ask(gateway, "/seen").json() if row.get("x-test") == "told"]
    assert seen["x-chosen"] == "one"
    assert "x-forged" not in seen


def test_a_missing_service_is_told_and_answered_with_500(cluster: Cluster, gateway: EnvoyGateway) -> None:
    found = put_route(cluster, {"backendRefs": [backend("none", 1)]})
    assert found["ResolvedRefs"] == ("False", "BackendNotFound")
    assert ask(gateway).status_code == 500


def test_a_gateway_that_does_not_allow_the_namespace_refuses(cluster: Cluster, gateway: EnvoyGateway) -> None:
    spec = {"gatewayClassName": "envoy-gateway", "listeners": [{"name": "own", "protocol": "HTTP", "port": 8081}]}
    metadata = {"name": "closed", "namespace": HOME}
    cluster.create({"apiVersion": GATEWAY.api_version, "kind": "Gateway", "metadata": metadata, "spec": spec})
    found = put_route(cluster, {"backendRefs": [backend("one", 1)]}, gateway="closed")
    assert found["Accepted"] == ("False", "NotAllowedByListeners")
    assert ask(gateway).status_code == 404
    cluster.store.remove(GATEWAY, HOME, "closed")


def test_a_dead_pod_is_taken_out(cluster: Cluster, gateway: EnvoyGateway) -> None:
    put_route(cluster, {"backendRefs": [backend("one", 1)]})
    assert ask(gateway).text == "one"
    (pod,) = cluster.pods(app="one")
    cluster.delete(pod, seconds=0)
    wait_for(lambda: names(cluster) not in ([], [pod["metadata"]["name"]]), "a pod in its place", SECONDS)
    wait_for(lambda: ask(gateway).status_code == 200, "the pod in its place answers", SECONDS)


def names(cluster: Cluster) -> list[str]:
    """Return the names of the pods behind the first backend."""
    return [pod["metadata"]["name"] for pod in cluster.pods(app="one")]


def test_routes_survive_the_death_of_envoy(cluster: Cluster, gateway: EnvoyGateway) -> None:
    put_route(cluster, {"backendRefs": [backend("two", 1)]})
    gateway.proxy.kill()
    gateway.proxy.start()

    def answers() -> bool:
        try:
            return ask(gateway).text == "two"
        except httpx.HTTPError:
            return False

    wait_for(answers, "Envoy serves again")


@pytest.mark.needs("prometheus")
def test_prometheus_counts_each_backend_and_the_mirror(
    cluster: Cluster, gateway: EnvoyGateway, prometheus: LivePrometheus
) -> None:
    backends = [backend("one", 1, filters=[told("one")]), backend("two", 1, filters=[told("two")])]
    mirror = {"type": "RequestMirror", "requestMirror": {"backendRef": {"name": "two", "port": 80}}}
    put_route(cluster, {"backendRefs": backends, "filters": [mirror]}, name="pairs")
    pairs = "httproute/slipway/pairs/rule/0"
    answers = Counter(ask(gateway).text for _ in range(40))
    one, two = f"{pairs}/backend/0", f"{pairs}/backend/1"
    counts = 0.0, 0.0

    def are_counted() -> bool:
        nonlocal counts
        counts = count(prometheus, one), count(prometheus, two)
        return sum(counts) == 40

    wait_for(are_counted, "all are counted", SECONDS)
    assert counts == (answers["one"], answers["two"])
    wait_for(lambda: count(prometheus, f"{pairs}-mirror-0") == 40, "all mirrored ones are counted")


@pytest.mark.needs("prometheus")
def test_backends_without_filters_share_one_count(
    cluster: Cluster, gateway: EnvoyGateway, prometheus: LivePrometheus
) -> None:
    put_route(cluster, {"backendRefs": [backend("one", 1), backend("two", 1)]}, name="shared")
    assert {ask(gateway).text for _ in range(60)} == {"one", "two"}
    wait_for(lambda: count(prometheus, "httproute/slipway/shared/rule/0") == 60, "the rule's requests are counted")


def count(prometheus: LivePrometheus, name: str) -> float:
    """Return how many requests a cluster of Envoy has answered."""
    return prometheus.total(f'envoy_cluster_upstream_rq_xx{{envoy_cluster_name="{name}"}}')


@pytest.mark.needs("prometheus")
def test_pods_are_scraped_that_want_to_be(cluster: Cluster, prometheus: LivePrometheus) -> None:
    selector = {"matchLabels": {"app": "one"}}
    endpoints = [{"port": 3000, "path": "/metrics"}]
    spec = {"selector": selector, "podTargetLabels": ["app"], "podMetricsEndpoints": endpoints}
    kind = {"apiVersion": "monitoring.coreos.com/v1", "kind": "PodMonitor"}
    cluster.create({**kind, "metadata": {"name": "services"}, "spec": spec})
    (pod,) = cluster.pods(app="one")
    wanted = f'up{{pod="{pod["metadata"]["name"]}",app="one"}}'
    wait_for(lambda: prometheus.query(wanted), "the pod is a target")

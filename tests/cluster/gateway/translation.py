"""An HTTPRoute as Envoy Gateway translates it: routes, and clusters by its names."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Any

from tests.cluster.gateway.matching import Rank, envoy_match, header_changes, rank
from tests.cluster.selectors import Object

_SECONDS = {"h": 3600.0, "m": 60.0, "s": 1.0, "ms": 0.001}
_DURATION = re.compile(r"(\d+(?:\.\d+)?)(ms|h|m|s)")
_FAILS = {"direct_response": {"status": 500}}
"""What a rule without a backend that can be reached answers."""


@dataclass(frozen=True)
class Leg:
    """A Service behind a cluster, and its share of it."""

    namespace: str
    service: str
    port: int
    weight: int


@dataclass
class Translation:
    """What one HTTPRoute becomes."""

    routes: list[tuple[Rank, Object]] = field(default_factory=list)
    clusters: dict[str, list[Leg]] = field(default_factory=dict)


def translate(route: Object, missing: frozenset[tuple[str, str]]) -> Translation:
    """Return routes with their precedence, and clusters.

    Args:
        missing: namespace and name of Services that do not exist: their share is answered with 500.
    """
    made = Translation()
    metadata = route["metadata"]
    for number, rule in enumerate(route["spec"].get("rules", ())):
        name = f"httproute/{metadata['namespace']}/{metadata['name']}/rule/{number}"
        action = _action(made, name, rule, metadata["namespace"], missing)
        for match in rule.get("matches") or [{}]:
            found = {"match": envoy_match(match), "name": name, **action, **header_changes(rule.get("filters", []))}
            made.routes.append((rank(match), found))
    return made


def services_of(route: Object) -> set[tuple[str, str]]:
    """Return namespace and name of the Services that a route refers to."""
    home = route["metadata"]["namespace"]
    references = []
    for rule in route["spec"].get("rules", ()):
        references += rule.get("backendRefs", ())
        references += [row["requestMirror"]["backendRef"] for row in rule.get("filters", ()) if "requestMirror" in row]
    return {(reference.get("namespace", home), reference["name"]) for reference in references}


def _action(
    made: Translation, name: str, rule: Object, namespace: str, missing: frozenset[tuple[str, str]]
) -> dict[str, Any]:
    backends = {
        number: backend
        for number, backend in enumerate(rule.get("backendRefs") or ())
        if backend.get("weight", 1) and (backend.get("namespace", namespace), backend["name"]) not in missing
    }
    if not backends:
        return _FAILS
    target: dict[str, Any]
    if any(backend.get("filters") for backend in rule["backendRefs"]):
        target = {"weighted_clusters": {"clusters": [
            _weighted(made, f"{name}/backend/{number}", backend, namespace) for number, backend in backends.items()
        ]}}  # fmt: skip
    else:
        made.clusters[name] = [_leg(backend, namespace) for backend in backends.values()]
        target = {"cluster": name}
    mirrors = _mirrors(made, name, rule, namespace, missing)
    if mirrors:
        target["request_mirror_policies"] = mirrors
    timeouts = rule.get("timeouts") or {}
    if "request" in timeouts:
        target["timeout"] = _seconds(timeouts["request"])
    return {"route": {**target, "cluster_not_found_response_code": "INTERNAL_SERVER_ERROR"}}


def _weighted(made: Translation, name: str, backend: Object, namespace: str) -> Object:
    made.clusters[name] = [_leg(backend, namespace)]
    return {"name": name, "weight": backend.get("weight", 1), **header_changes(backend.get("filters", []))}


def _leg(backend: Object, namespace: str) -> Leg:
    return Leg(backend.get("namespace", namespace), backend["name"], backend["port"], backend.get("weight", 1))


def _mirrors(
    made: Translation, name: str, rule: Object, namespace: str, missing: frozenset[tuple[str, str]]
) -> list[Object]:
    policies = []
    for number, row in enumerate(rule.get("filters") or ()):
        if "requestMirror" not in row:
            continue
        leg = _leg(row["requestMirror"]["backendRef"], namespace)
        if (leg.namespace, leg.service) in missing:
            continue
        cluster = f"{name}-mirror-{number}"
        made.clusters[cluster] = [leg]
        share = {"runtime_fraction": {"default_value": _fraction(row["requestMirror"])}}
        policies.append({"cluster": cluster, "disable_shadow_host_suffix_append": True, **share})
    return policies


def _fraction(mirror: Object) -> Object:
    """Return the share of requests that are mirrored; Envoy knows three denominators only."""
    if "fraction" in mirror:
        share = mirror["fraction"]["numerator"] / mirror["fraction"].get("denominator", 100)
        return {"numerator": round(share * 1_000_000), "denominator": "MILLION"}
    return {"numerator": mirror.get("percent", 100), "denominator": "HUNDRED"}


def _seconds(duration: str) -> str:
    return f"{sum(float(number) * _SECONDS[unit] for number, unit in _DURATION.findall(duration)):.3f}s"

"""A service's endpoint as an HTTPRoute, and back: what is rendered here is read again from what the cluster holds.

All services share the Gateway's listeners and are told apart by host: a service is `<service>.<domain>`, with the
domain of the installation's settings. The port that the ledger claims for a service is, behind a Gateway, but a number
of the service: nobody listens on it, and the route keeps it so that it reads back as it was asked for.

The rules stand always in the same order, for Envoy Gateway names its clusters, and so their counters, by it:

    0 pinned to stable    1 pinned to canary    2 questions about a copy    3 users

Every backend has a filter of its own. That makes Envoy Gateway give each a cluster (`.../rule/3/backend/1`) instead of
one to the whole rule, in which arms could not be told apart; and the filter says who was chosen, which tells a copy
that a request is a mirrored one: nothing else in it does. What users say about themselves is taken out by the same
filter.

Questions about a copy (`ABOUT`) go where users go, by a rule of their own: their answers are no work of a version.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from pipelines import labels
from pipelines.formats import headers
from pipelines.formats.headers import Traffic
from pipelines.release.kubernetes.cluster import GATEWAY, HTTP_ROUTE, SERVICE, Body
from pipelines.release.kubernetes.gateway import GatewayName
from pipelines.release.ports import FULL_BP, Address, Arm, Observed, Route, Split, Target

PIN_STABLE, PIN_CANARY, ABOUT_RULE, USERS = range(4)
"""Indices of the rules."""

ABOUT = ("/provenance", "/metrics", "/readyz", "/livez", "/healthz")
"""Paths for questions about a copy."""

GENERATION = "slipway.dev/generation"
"""Annotation: fencing token with which the route was asked for."""

PORT = "slipway.dev/port"
SESSION_HEADER = "slipway.dev/session-header"
SILENCE_SECONDS = "slipway.dev/silence-seconds"
IDEMPOTENT = "slipway.dev/idempotent"
"""Annotations: what a route is asked for and an HTTPRoute has no field for."""

CHANGED_AT = "slipway.dev/changed-at"
"""Annotation: when the present route was asked for, in milliseconds of Prometheus' clock; before, the old one was in
force."""

IN_FORCE_AT = "slipway.dev/in-force-at"
"""Annotation: from when on every proxy has the present route; missing: it was not accepted yet."""


def body(wanted: Observed, host: str, gateway: GatewayName, changed_at: int) -> Body:
    """Return the HTTPRoute of a service."""
    route = wanted.route
    return {
        "apiVersion": HTTP_ROUTE.api_version,
        "kind": HTTP_ROUTE.kind,
        "metadata": {
            "name": route.service,
            "labels": labels.service_labels(route.service),
            "annotations": {
                GENERATION: str(wanted.generation),
                PORT: str(route.port),
                SESSION_HEADER: route.session_header,
                SILENCE_SECONDS: str(route.silence_seconds),
                IDEMPOTENT: str(route.is_idempotent).lower(),
                CHANGED_AT: str(changed_at),
            },
        },
        "spec": {
            "parentRefs": [
                {"group": GATEWAY.group, "kind": GATEWAY.kind, "namespace": gateway.namespace, "name": gateway.name}
            ],
            "hostnames": [host],
            "rules": _rules(route),
        },
    }


def parse(found: Body, namespace: str) -> Observed:
    """Return the route that an HTTPRoute of ours stands for, with the generation that it was asked for with.

    Raises:
        ValueError, KeyError, IndexError: when it is none of ours.
    """
    notes, rules = found["metadata"]["annotations"], found["spec"]["rules"]
    stable, canary = (_target(rules[index], namespace) for index in (PIN_STABLE, PIN_CANARY))
    route = Route(
        service=found["metadata"]["name"],
        port=int(notes[PORT]),
        stable=stable,
        canary=canary,
        split=_split(rules[USERS], canary),
        is_idempotent=notes[IDEMPOTENT] == "true",
        session_header=notes[SESSION_HEADER],
        silence_seconds=int(notes[SILENCE_SECONDS]),
    )
    return Observed(route, int(notes[GENERATION]))


def _rules(route: Route) -> list[Body]:
    paths = [_matched(path) for path in ABOUT]
    users = [{"path": {"type": "PathPrefix", "value": "/"}}]
    mirrors = [_mirror(route.canary, route.split.mirror_bp)] if route.canary and route.split.mirror_bp else []
    return [
        _rule([_pinned(match, Arm.STABLE) for match in users + paths], _only(route.stable)),
        _rule([_pinned(match, Arm.CANARY) for match in users + paths], _only(route.canary)),
        _rule(paths, _shares(route)),
        _rule(users, _shares(route), mirrors),
    ]


def _rule(matches: Iterable[Body], backends: list[Body], filters: list[Body] | None = None) -> Body:
    """Return a rule without a time limit: an answer may take long, and who is silent is a matter of the service."""
    rule: Body = {"matches": list(matches), "backendRefs": backends, "timeouts": {"request": "0s"}}
    return {**rule, "filters": filters} if filters else rule


def _matched(path: str) -> Body:
    return {"path": {"type": "Exact", "value": path}}


def _pinned(match: Body, arm: Arm) -> Body:
    return {**match, "headers": [{"type": "Exact", "name": headers.PIN, "value": str(arm)}]}


def _only(target: Target | None) -> list[Body]:
    return [_backend(target, 1, {headers.TRAFFIC: Traffic.PINNED})] if target else []


def _shares(route: Route) -> list[Body]:
    """Return stable first and the canary after it: their positions name their counters."""
    stable = [_backend(route.stable, FULL_BP - route.split.canary_bp)] if route.stable else []
    return stable + ([_backend(route.canary, route.split.canary_bp)] if route.canary else [])


def _backend(target: Target, weight: int, said: dict[str, str] | None = None) -> Body:
    told = {headers.COPY: target.copy, **(said or {})}
    removed = [name for name in (headers.TRAFFIC, headers.PIN) if name not in told]
    modifier: dict[str, Any] = {"set": [{"name": name, "value": value} for name, value in told.items()]}
    return {
        **_reference(target),
        "weight": weight,
        "filters": [{"type": "RequestHeaderModifier", "requestHeaderModifier": {**modifier, "remove": removed}}],
    }


def _mirror(canary: Target, mirror_bp: int) -> Body:
    share: Body = {} if mirror_bp == FULL_BP else {"fraction": {"numerator": mirror_bp, "denominator": FULL_BP}}
    return {"type": "RequestMirror", "requestMirror": {"backendRef": _reference(canary), **share}}


def _reference(target: Target) -> Body:
    return {"group": SERVICE.group, "kind": SERVICE.kind, "name": target.copy, "port": target.address.port}


def _target(rule: Body, namespace: str) -> Target | None:
    backends = rule.get("backendRefs") or []
    if not backends:
        return None
    copy = backends[0]["name"]
    return Target(copy, Address(f"{copy}.{namespace}.svc", backends[0]["port"]))


def _split(users: Body, canary: Target | None) -> Split:
    if canary is None:
        return Split()
    weights = {backend["name"]: backend["weight"] for backend in users.get("backendRefs") or []}
    mirrors = [entry["requestMirror"] for entry in users.get("filters") or [] if entry["type"] == "RequestMirror"]
    mirrored = mirrors[0].get("fraction", {}).get("numerator", FULL_BP) if mirrors else 0
    return Split(canary_bp=weights.get(canary.copy, 0), mirror_bp=mirrored)

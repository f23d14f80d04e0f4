"""The router on Kubernetes: one HTTPRoute per service, changed by JSON Patch, counted by Prometheus.

The route's generation (the fencing token) is an annotation. A change is written against the version of the object that
was read: of two writers one meets a conflict, reads again, and finds the other's generation. So the controller, a task
that lowers a weight because the controller is dead, and a person's command may all write, and the newest order wins.

**Who may lower weights.** Besides the controller, the triggerer (its dead-man's switch, `pipelines.release.lowering`)
and whoever runs `release abort`. They need `get` and `patch` on HTTPRoutes of the one namespace, and `get` on
Deployments to see that stable is ready: the role `slipway-dead-man` in `pipelines.release.kubernetes.permissions`.
RBAC cannot tell a lower weight from a higher one; what keeps these accounts from raising it is that their code only
lowers, and the fence.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterable, Iterator
from typing import Any

from pipelines.errors import RouterRejected
from pipelines.release.kubernetes import routes
from pipelines.release.kubernetes.cluster import HTTP_ROUTE, Body, Cluster, Conflict
from pipelines.release.kubernetes.counts import Change, Counting
from pipelines.release.kubernetes.gateway import Gateway
from pipelines.release.kubernetes.prometheus import MILLI, Prometheus
from pipelines.release.ports import Arm, Capability, Counts, Observed, Route, RouterUnavailable, Sessions
from pipelines.settings import Settings, parse_port_range

logger = logging.getLogger(__name__)

ACCEPT_SECONDS = 30.0
POLL_SECONDS = 0.2
NUM_TRIES = 5
"""How often a change is written against a newer version of the object before it is given up for this time."""

CLOCK_SECONDS = 1.0
"""How long a write waits for Prometheus' clock; users who are taken away from a bad canary wait for it, too."""

NOT_IN_FORCE = -1
"""Generation of a route that was asked for and is not accepted: older than any token."""

ACCEPTED, RESOLVED = "Accepted", "ResolvedRefs"


class HttpRouteRouter:
    """See `pipelines.release.ports.Router`."""

    def __init__(self, settings: Settings, cluster: Cluster, gateway: Gateway) -> None:
        self._ports = parse_port_range(settings.service_ports)
        self._cluster = cluster
        self._gateway = gateway
        self._prometheus = Prometheus(settings.prometheus)

    def free_ports(self) -> Iterable[int]:
        """Yield the numbers that services may have; behind a Gateway nothing listens on them."""
        return self._ports

    def apply(self, route: Route, generation: int) -> None:
        """Write the HTTPRoute and wait until the Gateway's controller has accepted it.

        Raises:
            RouterRejected: with the controller's reason, the old route being restored; or because a newer generation
                was accepted before.
            RouterUnavailable: when the cluster does not answer.
        """
        wanted = Observed(route, generation)
        before, written = self._write(wanted)
        try:
            self._wait_until_accepted(route.service, written["metadata"]["generation"])
        except RouterRejected:
            self._restore(before, written)
            raise
        self._mark_in_force(route.service, generation)
        logger.info("%s: generation %d is in force, canary at %d bp", route.service, generation, route.split.canary_bp)

    def observe(self, service: str) -> Observed | None:
        """Return the route that the cluster holds; not accepted yet, it has a generation older than any other."""
        found = self._read(service)
        if found is None:
            return None
        observed = self._parsed(found)
        is_in_force = routes.IN_FORCE_AT in found["metadata"]["annotations"] and not self._refusal(found)
        return observed if is_in_force else Observed(observed.route, NOT_IN_FORCE)

    def drain(self, service: str, copy: str) -> int:
        """Return how many requests the proxies wait for from a copy, by scrapes after its weight changed.

        What a proxy has forgotten with a removed route is not among them; the pods themselves wait for that.

        Raises:
            RouterUnavailable: when there was no such scrape yet.
        """
        found = self._read(service)
        route = self._parsed(found).route if found else None
        arms = {target.copy: arm for arm, target in _targets(route)}
        if found is None or copy not in arms:
            return 0
        return self._counting(service).in_flight(arms[copy], self._change(found).in_force)

    def counts(self, service: str, since: str | None, sessions: Sessions | None = None) -> Counts:
        """Return what the proxies counted (`pipelines.release.kubernetes.counts`). Sessions are not counted.

        Raises:
            RouterUnavailable: when there is no such endpoint, or the counts are not known at present.
        """
        found = self._read(service)
        if found is None:
            raise RouterUnavailable(f"router: there is no HTTPRoute of {service}, so nothing is counted")
        if sessions is not None:
            raise RouterUnavailable("router: sessions cannot be counted here; leave rollout.session_header empty")
        return self._counting(service).count(since, self._change(found))

    @property
    def capabilities(self) -> frozenset[Capability]:
        """Return what the Gateway's implementation can do."""
        found = self._gateway.check()
        return found.capabilities | ({Capability.COUNTS} if found.counts else frozenset())

    def _read(self, service: str) -> Body | None:
        return self._cluster.get(HTTP_ROUTE, service)

    def _parsed(self, found: Body) -> Observed:
        try:
            return routes.parse(found, self._cluster.namespace)
        except (KeyError, IndexError, ValueError, TypeError) as error:
            name = found["metadata"]["name"]
            raise RouterRejected(
                f"router: HTTPRoute {name} in namespace {self._cluster.namespace} is not as Slipway writes it "
                f"({error!r}); delete it, and it is made anew"
            ) from error

    def _write(self, wanted: Observed) -> tuple[Body | None, Body]:
        """Write a route unless it is there; return the object as it was, and as it is.

        Raises:
            RouterRejected: when a newer generation is there, or others keep changing the object.
        """
        self._gateway.check()
        service = wanted.route.service
        body = routes.body(wanted, self._gateway.host(service), self._gateway.name, self._now())
        for _ in range(NUM_TRIES):
            before = self._read(service)
            try:
                if before is None:
                    return None, self._cluster.create(body)
                held = self._parsed(before)
                if wanted.generation < held.generation:
                    raise RouterRejected(
                        f"router: generation {wanted.generation} of {service} is older than {held.generation}, which "
                        "was accepted; somebody else lowered the weight in the meantime"
                    )
                if held == wanted:
                    return before, before
                return before, self._cluster.patch(HTTP_ROUTE, service, _replacing(before, body))
            except Conflict as conflict:
                logger.info("%s: %s; reading the route again", service, conflict)
        raise RouterRejected(f"router: HTTPRoute {service} was changed by others {NUM_TRIES} times in a row")

    def _wait_until_accepted(self, service: str, generation: int) -> None:
        """Wait until the Gateway's controller has seen a generation of the object, and accepted it.

        A refusal may pass: a Service that was just made may not be known to the controller yet.
        """
        deadline = time.monotonic() + ACCEPT_SECONDS
        while True:
            found = self._read(service)
            if found is None or found["metadata"]["generation"] > generation:
                raise RouterRejected(f"router: HTTPRoute {service} was changed by somebody else; looking again helps")
            refusal = self._refusal(found)
            if not refusal:
                return
            if time.monotonic() > deadline:
                raise RouterRejected(f"router: HTTPRoute {service}: {refusal}, after {ACCEPT_SECONDS:.0f} s")
            time.sleep(POLL_SECONDS)

    def _refusal(self, found: Body) -> str:
        """Return why the present generation of an HTTPRoute is not accepted; empty when it is."""
        name = self._gateway.name
        for parent in found.get("status", {}).get("parents", []):
            reference = parent["parentRef"]
            if (reference.get("namespace"), reference["name"]) == name:
                return _missing_condition(parent.get("conditions", []), found["metadata"]["generation"])
        return f"the controller of Gateway {name.namespace}/{name.name} has not looked at it"

    def _restore(self, before: Body | None, written: Body) -> None:
        """Put back what was accepted, unless somebody was quicker."""
        name = written["metadata"]["name"]
        for _ in range(NUM_TRIES):
            found = self._read(name)
            is_ours = found is not None and found["metadata"]["generation"] == written["metadata"]["generation"]
            if before is None or before is written or found is None or not is_ours:
                return
            try:
                self._cluster.patch(HTTP_ROUTE, name, _replacing(found, before))
            except Conflict as conflict:  # its status changed
                logger.info("%s: %s", name, conflict)
            else:
                return

    def _mark_in_force(self, service: str, generation: int) -> None:
        """Write down from when on every proxy has the route, unless it is written or somebody else's by now."""
        delay = round(self._gateway.check().propagation_seconds * MILLI)
        path = "/metadata/annotations"
        for _ in range(NUM_TRIES):
            found = self._read(service)
            notes = found["metadata"]["annotations"] if found else {}
            if routes.IN_FORCE_AT in notes or notes.get(routes.GENERATION) != str(generation):
                return
            operations = [
                {"op": "test", "path": f"{path}/{_pointer(routes.GENERATION)}", "value": str(generation)},
                {"op": "add", "path": f"{path}/{_pointer(routes.IN_FORCE_AT)}", "value": str(self._now() + delay)},
            ]
            try:
                self._cluster.patch(HTTP_ROUTE, service, operations)
            except Conflict as conflict:
                logger.info("%s: %s", service, conflict)
            else:
                return

    def _counting(self, service: str) -> Counting:
        found = self._gateway.check()
        if found.counts is None:
            raise RouterUnavailable(f"router: nobody knows how to read the counts of {found.name}")
        return Counting(self._prometheus, found.counts.of(self._cluster.namespace, service))

    def _change(self, found: Body) -> Change:
        notes = found["metadata"]["annotations"]
        in_force = notes.get(routes.IN_FORCE_AT)
        return Change(int(notes[routes.CHANGED_AT]), self._prometheus.now() if in_force is None else int(in_force))

    def _now(self) -> int:
        """Return Prometheus' clock; a weight is lowered without it, too, and soon."""
        try:
            return self._prometheus.now(CLOCK_SECONDS)
        except RouterUnavailable as error:
            logger.warning("%s; the time of the change is this machine's", error)
            return round(time.time() * MILLI)


def _targets(route: Route | None) -> Iterator[tuple[Arm, Any]]:
    if route is not None:
        for arm, target in ((Arm.STABLE, route.stable), (Arm.CANARY, route.canary)):
            if target is not None:
                yield arm, target


def _replacing(before: Body, wanted: Body) -> list[Body]:
    """Return the operations that make an object what is wanted, if nobody has changed it, and it is about its service.

    Annotations of others stay.
    """
    metadata = before["metadata"]
    others = {name: value for name, value in metadata["annotations"].items() if not name.startswith("slipway.dev/")}
    return [
        {"op": "test", "path": "/metadata/resourceVersion", "value": metadata["resourceVersion"]},
        {"op": "test", "path": "/spec/hostnames", "value": before["spec"]["hostnames"]},
        {"op": "replace", "path": "/spec", "value": wanted["spec"]},
        {"op": "replace", "path": "/metadata/annotations", "value": {**others, **wanted["metadata"]["annotations"]}},
    ]


def _missing_condition(conditions: Iterable[Body], generation: int) -> str:
    found = {condition["type"]: condition for condition in conditions}
    for name in (ACCEPTED, RESOLVED):
        condition = found.get(name)
        if condition is None or condition.get("observedGeneration", 0) < generation:
            return f"{name} is not known yet"
        if condition["status"] != "True":
            return f"{name} is {condition['status']}: {condition.get('reason', '')}: {condition.get('message', '')}"
    return ""


def _pointer(name: str) -> str:
    """Return a key as a part of a JSON Pointer."""
    return name.replace("~", "~0").replace("/", "~1")

"""Services: the pods behind each as Endpoints and an EndpointSlice. Disruption budgets, which count pods too."""

from __future__ import annotations

import functools
import math
from collections.abc import Iterator

from tests.cluster import ownership
from tests.cluster.kinds import DISRUPTION_BUDGET, ENDPOINT_SLICE, ENDPOINTS, POD, SERVICE, Kind
from tests.cluster.selectors import Object, fits
from tests.cluster.store import Store


def reconcile_services(store: Store) -> None:
    """Write down which pods are behind each Service."""
    for service in store.list(SERVICE):
        if not service["spec"].get("selector") or service["metadata"].get("deletionTimestamp"):
            continue
        pods = list(pods_of(store, service))
        is_open = service["spec"].get("publishNotReadyAddresses", False)
        ready = [pod for pod in pods if ownership.is_ready(pod) or is_open]
        metadata = {"ownerReferences": [ownership.reference(SERVICE, service)]}
        others = [pod for pod in pods if pod not in ready]
        subset: Object = {"addresses": _addresses(ready), "notReadyAddresses": _addresses(others)}
        subset = {name: rows for name, rows in subset.items() if rows}
        subsets = [{**subset, "ports": _ports(service, pods[0])}] if subset else []
        _put(store, ENDPOINTS, service, {"metadata": metadata, "subsets": subsets})
        labels = {"kubernetes.io/service-name": service["metadata"]["name"]}
        rows = [{"addresses": [pod["status"]["podIP"]], "conditions": {"ready": pod in ready}} for pod in pods]
        body = {"addressType": "IPv4", "endpoints": rows, "ports": _ports(service, pods[0]) if pods else []}
        _put(store, ENDPOINT_SLICE, service, {"metadata": {**metadata, "labels": labels}, **body})


def reconcile_budgets(store: Store) -> None:
    """Count how many pods may be disrupted."""
    for budget in store.list(DISRUPTION_BUDGET):
        namespace, name = budget["metadata"]["namespace"], budget["metadata"]["name"]
        selector = budget["spec"].get("selector")
        pods = [pod for pod in store.list(POD, namespace) if fits(selector, pod["metadata"].get("labels") or {})]
        num_healthy = sum(ownership.is_ready(pod) for pod in pods)
        if "maxUnavailable" in budget["spec"]:
            num_needed = len(pods) - _number(budget["spec"]["maxUnavailable"], len(pods))
        else:
            num_needed = _number(budget["spec"].get("minAvailable", 1), len(pods))
        counts = {"currentHealthy": num_healthy, "desiredHealthy": num_needed, "expectedPods": len(pods)}
        counts["disruptionsAllowed"] = max(0, num_healthy - num_needed)
        store.set_status(DISRUPTION_BUDGET, namespace, name, functools.partial(_with_status, counts))


def _with_status(counts: Object, draft: Object) -> Object:
    return {**draft, "status": counts}


def pods_of(store: Store, service: Object) -> Iterator[Object]:
    """Yield the pods with an address that a Service selects, ready or not."""
    selector = {"matchLabels": service["spec"]["selector"]}
    for pod in store.list(POD, service["metadata"]["namespace"]):
        has_address = bool(pod.get("status", {}).get("podIP")) and ownership.is_active(pod)
        if has_address and fits(selector, pod["metadata"].get("labels") or {}):
            yield pod


def target_port(port: Object, pod: Object) -> int:
    """Return where a pod listens for a port of its Service."""
    wanted: int | str = port.get("targetPort") or port["port"]
    for container in pod["spec"]["containers"]:
        for row in container.get("ports", ()):
            if row.get("name") == wanted:
                return int(row["containerPort"])
    return int(wanted)


def _ports(service: Object, pod: Object) -> list[Object]:
    return [
        {"name": port.get("name", ""), "port": target_port(port, pod), "protocol": port.get("protocol", "TCP")}
        for port in service["spec"].get("ports", ())
    ]


def _addresses(pods: list[Object]) -> list[Object]:
    rows = []
    for pod in pods:
        about = {"kind": "Pod", "name": pod["metadata"]["name"], "uid": pod["metadata"]["uid"]}
        row = {"ip": pod["status"]["podIP"], "nodeName": pod["spec"]["nodeName"], "targetRef": about}
        rows.append(row | ({"hostname": pod["spec"]["hostname"]} if pod["spec"].get("hostname") else {}))
    return rows


def _put(store: Store, kind: Kind, service: Object, body: Object) -> None:
    namespace, name = service["metadata"]["namespace"], service["metadata"]["name"]
    if store.find(kind, namespace, name) is None:
        store.create(kind, namespace, {**body, "metadata": {**body["metadata"], "name": name}})
        return
    store.change(
        kind, namespace, name, lambda draft: {**draft, **body, "metadata": {**draft["metadata"], **body["metadata"]}}
    )


def _number(wanted: int | str, total: int) -> int:
    return (
        math.ceil(total * int(wanted.rstrip("%")) / 100) if isinstance(wanted, str) and "%" in wanted else int(wanted)
    )

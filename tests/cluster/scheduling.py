"""The scheduler: finds a node for each pod, or says why there is none."""

from __future__ import annotations

from collections import Counter, defaultdict
from decimal import Decimal

from tests.cluster import events, podstatus
from tests.cluster.kinds import NODE, POD
from tests.cluster.quantities import amount
from tests.cluster.selectors import Object, fits
from tests.cluster.store import Store

_OVER = (podstatus.SUCCEEDED, podstatus.FAILED)


def schedule(store: Store) -> None:
    """Bind each pod that waits to the first node that fits."""
    nodes = store.list(NODE)
    for pod in store.list(POD):
        is_waiting = not pod["spec"].get("nodeName") and pod.get("status", {}).get("phase") not in _OVER
        if not is_waiting or pod["metadata"].get("deletionTimestamp") or pod["spec"].get("schedulingGates"):
            continue
        problems = {node["metadata"]["name"]: _problem(store, node, pod) for node in nodes}
        chosen = next((name for name, problem in problems.items() if not problem), None)
        if chosen is None:
            _refuse(store, pod, problems)
        else:
            _bind(store, pod, chosen)


def requests_of(pod: Object) -> dict[str, Decimal]:
    """Return what a pod asks for, all its containers together; a limit without a request is one."""
    total: defaultdict[str, Decimal] = defaultdict(Decimal)
    for container in pod["spec"]["containers"]:
        resources = container.get("resources") or {}
        wanted = {**(resources.get("limits") or {}), **(resources.get("requests") or {})}
        for name, quantity in wanted.items():
            total[name] += amount(quantity)
    return dict(total)


def _problem(store: Store, node: Object, pod: Object) -> str:
    """Return why a pod cannot run on a node; empty: it can."""
    if node["spec"].get("unschedulable"):
        return "node(s) were unschedulable"
    for taint in node["spec"].get("taints", ()):
        if taint["effect"] != "PreferNoSchedule" and not _tolerates(pod, taint):
            value = f": {taint['value']}" if taint.get("value") else ""
            return f"node(s) had untolerated taint {{{taint['key']}{value}}}"
    labels = node["metadata"].get("labels", {})
    selector = pod["spec"].get("nodeSelector") or {}
    if any(labels.get(key) != value for key, value in selector.items()) or not _is_attracted(pod, labels):
        return "node(s) didn't match Pod's node affinity/selector"
    return _missing_resource(store, node, pod)


def _missing_resource(store: Store, node: Object, pod: Object) -> str:
    name = node["metadata"]["name"]
    used: defaultdict[str, Decimal] = defaultdict(Decimal)
    for other in store.list(POD):
        if other["spec"].get("nodeName") == name and other.get("status", {}).get("phase") not in _OVER:
            for resource, asked in {**requests_of(other), "pods": Decimal(1)}.items():
                used[resource] += asked
    for resource, wanted in {**requests_of(pod), "pods": Decimal(1)}.items():
        if wanted and used[resource] + wanted > amount(node["status"]["allocatable"].get(resource, "0")):
            return "Too many pods" if resource == "pods" else f"Insufficient {resource}"
    return ""


def _tolerates(pod: Object, taint: Object) -> bool:
    for toleration in pod["spec"].get("tolerations", ()):
        if toleration.get("effect") not in (None, "", taint["effect"]):
            continue
        if toleration.get("operator") == "Exists" and toleration.get("key") in (None, "", taint["key"]):
            return True
        if toleration.get("key") == taint["key"] and toleration.get("value", "") == taint.get("value", ""):
            return True
    return False


def _is_attracted(pod: Object, labels: dict[str, str]) -> bool:
    """Say whether a node's labels fit the pod's required node affinity: any one of its terms."""
    affinity = (pod["spec"].get("affinity") or {}).get("nodeAffinity") or {}
    required = affinity.get("requiredDuringSchedulingIgnoredDuringExecution")
    return not required or any(fits(term, labels) for term in required["nodeSelectorTerms"])


def _bind(store: Store, pod: Object, node: str) -> None:
    namespace, name = pod["metadata"]["namespace"], pod["metadata"]["name"]

    def change(draft: Object) -> None:
        draft["spec"]["nodeName"] = node

    bound = store.change(POD, namespace, name, change)
    store.set_status(POD, namespace, name, lambda draft: _note(draft, True))
    said = f"Successfully assigned {namespace}/{name} to {node}"
    events.record(store, POD, bound, (events.NORMAL, "Scheduled", said), component="default-scheduler")


def _refuse(store: Store, pod: Object, problems: dict[str, str]) -> None:
    counts = Counter(problems.values())
    reasons = ", ".join(sorted(f"{count} {problem}" for problem, count in counts.items()))
    message = f"0/{len(problems)} nodes are available: {reasons}."
    namespace, name = pod["metadata"]["namespace"], pod["metadata"]["name"]
    if store.set_status(POD, namespace, name, lambda draft: _note(draft, False, message)):
        events.record(store, POD, pod, (events.WARNING, "FailedScheduling", message), component="default-scheduler")


def _note(pod: Object, is_scheduled: bool, message: str = "") -> None:
    status = pod.setdefault("status", {})
    reason = "" if is_scheduled else "Unschedulable"
    rows = podstatus.with_condition(
        status.get("conditions", ()), "PodScheduled", is_scheduled, reason=reason, message=message
    )
    status["phase"], status["conditions"] = podstatus.PENDING, rows

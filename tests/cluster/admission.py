"""What the API server checks before it keeps an object: names, required fields, quotas, what it refers to."""

from __future__ import annotations

import re
from collections.abc import Callable
from decimal import Decimal

from tests.cluster import podsecurity, refusals
from tests.cluster.kinds import (
    DEPLOYMENT,
    DISRUPTION_BUDGET,
    JOB,
    NAMESPACE,
    POD,
    PRIORITY_CLASS,
    RESOURCE_QUOTA,
    RUNTIME_CLASS,
    SERVICE,
    SERVICE_ACCOUNT,
    Kind,
)
from tests.cluster.quantities import amount
from tests.cluster.scheduling import requests_of
from tests.cluster.selectors import Object, fits
from tests.cluster.store import Store

_NAME = re.compile(r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*$")
_LABEL_VALUE = re.compile(r"^(([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9])?$")
_FREE_NAMES = ("roles", "rolebindings", "clusterroles", "clusterrolebindings")
_MUTABLE_POD_FIELDS = ("activeDeadlineSeconds", "tolerations", "terminationGracePeriodSeconds", "nodeName")
_OVER = ("Succeeded", "Failed")


def create(store: Store, kind: Kind, namespace: str, wanted: Object, *, dry_run: bool = False) -> Object:
    """Check an object and add it.

    Raises:
        Refused: when it breaks a rule, a quota is used up, or something that it needs is missing.
    """
    metadata = wanted.get("metadata") or {}
    if not metadata.get("name") and not metadata.get("generateName"):
        raise refusals.invalid(kind, "", "metadata.name", "Required value: name or generateName is required")
    if metadata.get("namespace", namespace) != namespace:
        raise refusals.bad_request(
            "the namespace of the provided object does not match the namespace sent on the request"
        )
    with store.transaction():
        if kind.is_namespaced and store.find(NAMESPACE, "", namespace) is None:
            raise refusals.not_found(NAMESPACE, namespace)
        check(kind, wanted)
        if kind == POD:
            wanted = _pod(store, namespace, wanted)
        if kind == JOB:
            wanted = _job(wanted)
        if kind == SERVICE:
            wanted = _service(store, wanted)
        _check_quota(store, kind, namespace, wanted)
        made = store.create(kind, namespace, wanted, dry_run=dry_run)
        if kind == NAMESPACE and not dry_run:
            store.create(SERVICE_ACCOUNT, metadata["name"], {"metadata": {"name": "default"}})
        if kind == JOB and not dry_run:
            made = _select_own_pods(store, made)
        return made


def check(kind: Kind, wanted: Object) -> None:
    """Check what an object says by itself.

    Raises:
        Refused: 422, naming the field.
    """
    metadata = wanted.get("metadata") or {}
    name = metadata.get("name") or f"{metadata.get('generateName', '')}x"
    if kind.plural not in _FREE_NAMES and (not _NAME.match(name) or len(name) > 253):
        raise refusals.invalid(
            kind, name, "metadata.name",
            f'Invalid value: "{name}": a lowercase RFC 1123 subdomain must consist of alphanumeric characters, - or .',
        )  # fmt: skip
    for key, value in (metadata.get("labels") or {}).items():
        if not isinstance(value, str):
            raise refusals.bad_request(
                f"{kind.name} in version {kind.version!r} cannot be handled: labels.{key}: not a string"
            )
        if len(value) > 63 or not _LABEL_VALUE.match(value):
            problem = f'Invalid value: "{value}": a valid label must be at most 63 characters of [A-Za-z0-9-_.]'
            raise refusals.invalid(kind, name, f"metadata.labels.{key}", problem)
    checks: dict[Kind, Callable[[Kind, str, Object], None]] = {
        POD: lambda kind, name, wanted: _check_pod_spec(kind, name, wanted.get("spec") or {}, "spec"),
        JOB: _check_job,
        DEPLOYMENT: _check_deployment,
    }
    if kind in checks:
        checks[kind](kind, name, wanted)


def check_change(kind: Kind, before: Object, after: Object) -> None:
    """Check a change of an object.

    Raises:
        Refused: when it changes what must stay.
    """
    check(kind, after)
    name = before["metadata"]["name"]
    old, new = before.get("spec") or {}, after.get("spec") or {}
    frozen = {JOB: ("selector", "template", "completions", "completionMode"), DEPLOYMENT: ("selector",)}.get(kind, ())
    for field in frozen:
        if field in new and field in old and new[field] != old[field]:
            raise refusals.invalid(kind, name, f"spec.{field}", "field is immutable")
    if kind == POD and _fixed(old) != _fixed(new):
        problem = "Forbidden: pod updates may not change fields other than `spec.containers[*].image`, " + ", ".join(
            f"`spec.{field}`" for field in _MUTABLE_POD_FIELDS[:3]
        )
        raise refusals.invalid(kind, name, "spec", problem)


def check_eviction(store: Store, pod: Object) -> None:
    """Check that no disruption budget keeps a pod.

    Raises:
        Refused: 429 when one does.
    """
    namespace = pod["metadata"]["namespace"]
    for budget in store.list(DISRUPTION_BUDGET, namespace):
        selector = budget["spec"].get("selector")
        if fits(selector, pod["metadata"].get("labels") or {}) and not budget.get("status", {}).get(
            "disruptionsAllowed"
        ):
            raise refusals.too_many_requests("Cannot evict pod as it would violate the pod's disruption budget.")


def _pod(store: Store, namespace: str, wanted: Object) -> Object:
    """Return a pod with its defaults.

    Raises:
        Refused: when what it refers to does not exist.
    """
    name = wanted["metadata"].get("name", "")
    spec: Object = {"restartPolicy": "Always", "terminationGracePeriodSeconds": 30}
    spec["schedulerName"] = "default-scheduler"
    spec |= wanted["spec"]
    labels = store.get(NAMESPACE, "", namespace)["metadata"].get("labels") or {}
    if labels.get(podsecurity.LABEL) == "restricted" and (found := list(podsecurity.violations(spec))):
        raise refusals.forbidden(POD, name, f'violates PodSecurity "restricted:latest": {", ".join(found)}')
    account = str(spec.get("serviceAccountName") or spec.get("serviceAccount") or "default")
    spec["serviceAccountName"] = account
    if store.find(SERVICE_ACCOUNT, namespace, account) is None:
        said = f'error looking up service account {namespace}/{account}: serviceaccount "{account}" not found'
        raise refusals.forbidden(POD, name, said)
    if (priority := spec.get("priorityClassName")) and store.find(PRIORITY_CLASS, "", priority) is None:
        raise refusals.forbidden(POD, name, f"no PriorityClass with name {priority} was found")
    if (runtime := spec.get("runtimeClassName")) and store.find(RUNTIME_CLASS, "", runtime) is None:
        raise refusals.forbidden(POD, name, f'pod rejected: RuntimeClass "{runtime}" not found')
    return {**wanted, "spec": spec, "status": {"phase": "Pending", "qosClass": "Burstable"}}


def _service(store: Store, wanted: Object) -> Object:
    """Return a Service with its defaults; nothing listens on the address that it gets."""
    ports = [{"protocol": "TCP", "targetPort": port["port"], **port} for port in wanted["spec"].get("ports", ())]
    number = len(store.list(SERVICE)) + 1
    spec = {"type": "ClusterIP", "clusterIP": f"10.96.{number // 250}.{number % 250 + 1}", **wanted["spec"]}
    return {**wanted, "spec": {**spec, "ports": ports}, "status": {"loadBalancer": {}}}


def _job(wanted: Object) -> Object:
    """Return a Job with its defaults."""
    spec = {"parallelism": 1, "completionMode": "NonIndexed", "suspend": False, "backoffLimit": 6, **wanted["spec"]}
    return {**wanted, "spec": spec}


def _select_own_pods(store: Store, job: Object) -> Object:
    """Give a Job the selector that nobody else has."""

    def change(draft: Object) -> None:
        own = {"batch.kubernetes.io/controller-uid": draft["metadata"]["uid"]}
        draft["spec"].setdefault("selector", {"matchLabels": own})

    made = store.change(JOB, job["metadata"]["namespace"], job["metadata"]["name"], change)
    return store.mark(JOB, job["metadata"]["namespace"], made["metadata"]["name"], generation=1)


def _check_pod_spec(kind: Kind, name: str, spec: Object, path: str) -> None:
    if not spec.get("containers"):
        raise refusals.invalid(kind, name, f"{path}.containers", "Required value")
    volumes = {volume["name"] for volume in spec.get("volumes") or ()}
    for section in ("initContainers", "containers"):
        for index, container in enumerate(spec.get(section) or ()):
            here = f"{path}.{section}[{index}]"
            if not container.get("image"):
                raise refusals.invalid(kind, name, f"{here}.image", "Required value")
            for number, mount in enumerate(container.get("volumeMounts") or ()):
                if mount["name"] not in volumes:
                    problem = f'Not found: "{mount["name"]}"'
                    raise refusals.invalid(kind, name, f"{here}.volumeMounts[{number}].name", problem)
            _check_resources(kind, name, container.get("resources") or {}, f"{here}.resources")


def _check_resources(kind: Kind, name: str, resources: Object, path: str) -> None:
    limits = resources.get("limits") or {}
    for resource, wanted in (resources.get("requests") or {}).items():
        if resource in limits and amount(wanted) > amount(limits[resource]):
            problem = f'Invalid value: "{wanted}": must be less than or equal to {resource} limit of {limits[resource]}'
            raise refusals.invalid(kind, name, f"{path}.requests", problem)


def _check_job(kind: Kind, name: str, wanted: Object) -> None:
    template = wanted["spec"]["template"].get("spec") or {}
    _check_pod_spec(kind, name, template, "spec.template.spec")
    if template.get("restartPolicy") not in ("Never", "OnFailure"):
        problem = f'Required value: valid values: "OnFailure", "Never"; got "{template.get("restartPolicy", "")}"'
        raise refusals.invalid(kind, name, "spec.template.spec.restartPolicy", problem)


def _check_deployment(kind: Kind, name: str, wanted: Object) -> None:
    spec = wanted["spec"]
    _check_pod_spec(kind, name, spec["template"].get("spec") or {}, "spec.template.spec")
    labels = spec["template"].get("metadata", {}).get("labels") or {}
    if not fits(spec.get("selector"), labels):
        problem = f"Invalid value: {labels}: `selector` does not match template `labels`"
        raise refusals.invalid(kind, name, "spec.template.metadata.labels", problem)


def _fixed(spec: Object) -> Object:
    kept = {field: value for field, value in spec.items() if field not in _MUTABLE_POD_FIELDS}
    bare = [{**container, "image": ""} for container in spec.get("containers", ())]
    return {**kept, "containers": bare}


def _check_quota(store: Store, kind: Kind, namespace: str, wanted: Object) -> None:
    for quota in store.list(RESOURCE_QUOTA, namespace):
        asked = _asked(kind, wanted)
        for resource, hard in quota["spec"]["hard"].items():
            name = resource.removeprefix("limits.")
            name = name if name in asked else name.removeprefix("requests.")
            if name not in asked:
                continue
            used = sum(
                (_asked(kind, other).get(name, 0) for other in _counted(store, kind, namespace)), start=0 * amount(0)
            )
            if used + asked[name] > amount(hard):
                said = f"exceeded quota: {quota['metadata']['name']}, requested: {resource}={asked[name]}"
                said += f", used: {resource}={used}, limited: {resource}={hard}"
                raise refusals.forbidden(kind, wanted["metadata"].get("name", ""), said)


def _asked(kind: Kind, wanted: Object) -> dict[str, Decimal]:
    asked = {kind.plural: Decimal(1), f"count/{kind.resource}": Decimal(1)}
    if kind == POD:
        asked |= requests_of(wanted)
    return asked


def _counted(store: Store, kind: Kind, namespace: str) -> list[Object]:
    return [thing for thing in store.list(kind, namespace) if thing.get("status", {}).get("phase") not in _OVER]

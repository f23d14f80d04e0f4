"""What an answer of the Kubernetes API that is no success means: object, verb and way out, and what to make of it.

An RBAC, quota or admission message names verb and object itself; what is added is the way out.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from pipelines.cluster.access import access
from pipelines.cluster.quota import is_beyond_quota, is_quota
from pipelines.settings import Settings

_RBAC = re.compile(
    r'User "(?P<who>[^"]*)" cannot (?P<verb>\w+) resource "(?P<resource>[^"]+)"'
    r'( in API group "(?P<group>[^"]*)")?( in the namespace "(?P<namespace>[^"]+)")?'
)
_NOT_APPLICABLE = "the server rejected our request due to an error in our request"
"""What the API says of a JSON Patch that does not fit the object: one of its `test` operations does not hold."""

_FORBIDDEN = (
    ("exceeded quota", "it asks for more than the whole quota: lower `{section}` of the spec, or raise the quota"),
    (
        "serviceaccount",
        "make the service account, or set SLIPWAY_STEP_SERVICE_ACCOUNT or SLIPWAY_SERVICE_SERVICE_ACCOUNT",
    ),
    ("violates PodSecurity", "the namespace allows less than the pod needs: see `{section}` of the spec"),
    ("is being terminated", "the namespace is being removed; make it anew, and apply docker/k8s again"),
    ("", "a policy of the cluster refuses it: change `{section}` of the spec, or the policy"),
)
"""Words of what is forbidden, and the way out of it; the first that fits."""

_LONGEST_MESSAGE = 500
_GATEWAY_API = "gateway.networking.k8s.io"


class Outcome(StrEnum):
    """What is to be made of an answer that is no success."""

    ABSENT = "absent"
    """There is no object of that name."""

    CONFLICT = "conflict"
    """Somebody else changed, or made, the object first."""

    REFUSED = "refused"
    """The same again would be refused again."""

    FULL = "full"
    """The same may be granted when others have ended."""

    UNAVAILABLE = "unavailable"
    """The same may be granted later."""


@dataclass(frozen=True)
class Asked:
    """What was asked of the API."""

    what: str
    """Verb and object, such as "create pod slipway/name"."""

    resource: str = ""
    """Plural and group of the kind, such as deployments.apps; empty: not known."""

    section: str = "resources"
    """Section of the spec that says what the object asks for."""


@dataclass(frozen=True)
class Refusal:
    """What the API answered, in our words."""

    outcome: Outcome
    message: str
    """Object, verb, what the API says, way out."""


@dataclass(frozen=True)
class _Answer:
    """A refusal as the API sends it."""

    message: str
    kind: str
    """Plural of the kind whose object the answer is about; empty: it is about none."""

    name: str


def explain(status: int, body: str, asked: Asked, settings: Settings) -> Refusal:
    """Return what an answer means.

    Args:
        status: of the answer; 0 when there was none.
        body: of the answer: a `Status` object, or anything.
        asked: what was asked for.
        settings: of this installation.
    """
    answer = _read(body)
    outcome, way_out = _judged(status, answer, asked, settings)
    said = f"kubernetes: {asked.what}: {answer.message}"
    return Refusal(outcome, f"{said}; {way_out}" if way_out else said)


def _judged(status: int, answer: _Answer, asked: Asked, settings: Settings) -> tuple[Outcome, str]:
    """Return what is to be made of an answer, and the way out."""
    match status:
        case 403:
            return _forbidden(answer.message, asked.section)
        case 404:
            return _not_found(answer, asked)
        case 409:
            return Outcome.CONFLICT, ""
        case 422 if answer.message.startswith(_NOT_APPLICABLE):
            return Outcome.CONFLICT, ""
        case 400 | 405 | 415 | 422:
            return Outcome.REFUSED, f"correct `{asked.section}` of the spec or the SLIPWAY_* settings"
        case _:
            return Outcome.UNAVAILABLE, f"{_until(status, settings)}; it is tried again"


def _until(status: int, settings: Settings) -> str:
    """Return what stands in the way of an answer at present."""
    match status:
        case 401:
            return f"the credentials are not accepted: renew the token or certificate of {access(settings)}"
        case 0:
            return f"the API does not answer: look whether {access(settings)} names it, and whether it is up"
        case _:
            return f"the API has a trouble of its own (status {status})"


def _forbidden(message: str, section: str) -> tuple[Outcome, str]:
    if is_quota(message) and not is_beyond_quota(message):
        return Outcome.FULL, f"it is tried again when others have ended; or lower `{section}` of the spec"
    if rule := _RBAC.search(message):
        resource = f"{rule['resource']}.{rule['group']}" if rule["group"] else rule["resource"]
        where = f"in namespace {rule['namespace']}" if rule["namespace"] else "in all of the cluster"
        grant = f"give {rule['who']} the verb {rule['verb']} on {resource} {where}"
        return Outcome.REFUSED, f"{grant} (docker/k8s/base/rbac)"
    way_out = next(way_out for said, way_out in _FORBIDDEN if said in message)
    return Outcome.REFUSED, way_out.format(section=section)


def _not_found(answer: _Answer, asked: Asked) -> tuple[Outcome, str]:
    if answer.kind == "namespaces" and asked.resource.partition(".")[0] != "namespaces":
        return Outcome.REFUSED, "make the namespace, or set SLIPWAY_KUBERNETES_NAMESPACE to one that exists"
    if answer.name:
        return Outcome.ABSENT, ""
    if asked.resource.endswith(_GATEWAY_API):
        what = "install the Gateway API (v1) and a controller for it, such as Envoy Gateway"
    else:
        what = "its version may be too old"
    return Outcome.REFUSED, f"the cluster knows no {asked.resource or 'such kind'}; {what}"


def _read(body: str) -> _Answer:
    """Return what an answer says; one of a proxy on the way may be of any form."""
    try:
        found: dict[str, Any] = json.loads(body)
        details: dict[str, Any] = found.get("details") or {}
        causes = [str(cause.get("message", "")) for cause in details.get("causes") or ()]
        message = str(found["message"])
    except (ValueError, KeyError, TypeError, AttributeError):
        return _Answer(" ".join(body.split())[:_LONGEST_MESSAGE] or "no answer", "", "")
    told = "; ".join([message, *(cause for cause in causes if cause and cause not in message)])
    return _Answer(told, str(details.get("kind", "")), str(details.get("name", "")))

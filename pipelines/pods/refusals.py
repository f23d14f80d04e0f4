"""What a refusal of the Kubernetes API means for a step, and whether asking again may help.

An RBAC or admission message names verb and object itself; what is added is the way out.
"""

from __future__ import annotations

import json
import re
from decimal import Decimal

from pipelines.errors import PodLost, PodRefused, SlipwayError
from pipelines.settings import Settings

_RBAC = re.compile(r'User "(?P<who>[^"]*)" cannot (?P<verb>\w+) resource "(?P<resource>[^"]+)"')
_QUOTA = re.compile(r"exceeded quota: (?P<name>[^,]+), requested: (?P<asked>\S+), used: \S+, limited: (?P<limit>\S+)")
_QUANTITY = re.compile(r"^(?P<number>[0-9.]+)(?P<unit>[A-Za-z]*)$")
_UNITS = {
    **{unit: Decimal(10) ** power for unit, power in {"m": -3, "": 0, "k": 3, "M": 6, "G": 9, "T": 12}.items()},
    **{f"{letter}i": Decimal(1024) ** power for power, letter in enumerate("KMGTP", start=1)},
}


def explain_refusal(status: int, body: str, what: str, settings: Settings) -> SlipwayError:
    """Return the error for an answer of the API that is no success.

    Args:
        status: of the answer; 0 when there was none.
        body: of the answer: a `Status` object, or anything.
        what: verb and object of the request, such as "create pod slipway/name".
        settings: of this installation.
    """
    message = _message(body)
    asked = f"kubernetes: {what}: {message}"
    match status:
        case 403:
            return _forbidden(asked, message, settings)
        case 404 if "namespaces" in message:
            return PodRefused(f"{asked}; make the namespace, or set SLIPWAY_KUBERNETES_NAMESPACE to one that exists")
        case 400 | 404 | 405 | 415 | 422:
            return PodRefused(f"{asked}; correct `resources` of the spec or the SLIPWAY_* settings")
        case 401:
            return PodLost(f"{asked}; renew the token or certificate of {_account(settings)}; it is tried again")
        case _:
            return PodLost(f"{asked or 'no answer'} ({status}); it is tried again")


def explain_configuration(message: str, settings: Settings) -> SlipwayError:
    """Return the error for a kubeconfig that cannot be used."""
    return PodRefused(
        f"kubernetes: load {_account(settings)}: {message}; set SLIPWAY_KUBERNETES_CONTEXT to a name that "
        "`kubectl config get-contexts` shows, and KUBECONFIG to the file"
    )


def _forbidden(asked: str, message: str, settings: Settings) -> SlipwayError:
    quota = _QUOTA.search(message)
    if quota:
        if _exceeds(quota["asked"], quota["limit"]):
            return PodRefused(f"{asked}; it asks for more than the whole quota: lower `resources`, or raise the quota")
        return PodLost(f"{asked}; it is tried again when others have ended")
    rule = _RBAC.search(message)
    if rule:
        return PodRefused(
            f"{asked}; give {rule['who']} the verb {rule['verb']} on {rule['resource']} in namespace "
            f"{settings.kubernetes_namespace} (docker/k8s/base: the role of Airflow's workers)"
        )
    if "serviceaccount" in message:
        return PodRefused(f"{asked}; make the service account, or set SLIPWAY_STEP_SERVICE_ACCOUNT")
    if "violates PodSecurity" in message:
        return PodRefused(f"{asked}; the namespace allows less than a step needs: see `resources` of the spec")
    return PodRefused(f"{asked}; a policy of the cluster refuses the pod: change `resources`, or the policy")


def _account(settings: Settings) -> str:
    context = settings.kubernetes_context
    return f"context {context!r}" if context else "the pod's service account or the kubeconfig's current context"


def _message(body: str) -> str:
    try:
        found = json.loads(body)
        return str(found["message"])
    except (ValueError, KeyError, TypeError):
        return " ".join(body.split())[:500] or "no answer"


def _exceeds(asked: str, limit: str) -> bool:
    """Return whether any amount that is asked for is more than all there is; both are written `name=amount,...`."""
    limits = dict(part.split("=", 1) for part in limit.split(","))
    return any(
        _quantity(amount) > _quantity(limits[name])
        for name, amount in (part.split("=", 1) for part in asked.split(","))
        if name in limits
    )


def _quantity(text: str) -> Decimal:
    found = _QUANTITY.match(text)
    if found is None or found["unit"] not in _UNITS:
        return Decimal(0)
    return Decimal(found["number"]) * _UNITS[found["unit"]]

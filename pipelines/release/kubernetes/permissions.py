"""What the adapters ask of the Kubernetes API: the rules of the roles, to which the manifests are held.

A test compares this table with what the adapters really call; another compares the manifests with this table.
"""

from __future__ import annotations

from typing import NamedTuple

from pipelines.release.kubernetes.cluster import (
    AUTOSCALER,
    DEPLOYMENT,
    DISRUPTION_BUDGET,
    GATEWAY,
    GATEWAY_CLASS,
    HTTP_ROUTE,
    NAMESPACE,
    NETWORK_POLICY,
    POD,
    SERVICE,
    Kind,
)


class Rule(NamedTuple):
    """What an account may do with objects of a kind, and where."""

    kind: Kind
    verbs: frozenset[str]
    """Applying by the server is `patch` (and `create`, for an object that is not there)."""

    scope: str
    """`namespace`: that of the installation; `gateway`: the Gateway's; `cluster`: all of it."""


_MADE = frozenset({"create", "patch", "list", "delete"})

CONTROLLER = (
    Rule(DEPLOYMENT, _MADE | {"get"}, "namespace"),
    Rule(SERVICE, _MADE, "namespace"),
    Rule(AUTOSCALER, _MADE, "namespace"),
    Rule(DISRUPTION_BUDGET, _MADE, "namespace"),
    Rule(NETWORK_POLICY, _MADE, "namespace"),
    Rule(POD, frozenset({"list"}), "namespace"),
    Rule(HTTP_ROUTE, frozenset({"get", "create", "patch"}), "namespace"),
    Rule(GATEWAY, frozenset({"get"}), "gateway"),
    Rule(NAMESPACE, frozenset({"get"}), "cluster"),
    Rule(GATEWAY_CLASS, frozenset({"get"}), "cluster"),
)
"""The controller, which does everything."""

DEAD_MAN = (
    Rule(HTTP_ROUTE, frozenset({"get", "patch"}), "namespace"),
    Rule(DEPLOYMENT, frozenset({"get"}), "namespace"),
    Rule(GATEWAY, frozenset({"get"}), "gateway"),
    Rule(NAMESPACE, frozenset({"get"}), "cluster"),
    Rule(GATEWAY_CLASS, frozenset({"get"}), "cluster"),
)
"""The triggerer and Airflow's workers: they see whether stable is ready, and take users away from a candidate when the
controller is dead. Tasks read what serves through the Gateway, for which no right is needed but its address."""

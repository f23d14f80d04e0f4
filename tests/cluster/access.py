"""Who may do what: tokens, and the rules of RBAC as they stand in the cluster's own objects."""

from __future__ import annotations

import secrets
import threading
from collections.abc import Iterator

from tests.cluster import refusals
from tests.cluster.calls import Call
from tests.cluster.kinds import CLUSTER_ROLE, CLUSTER_ROLE_BINDING, NAMESPACE, ROLE, ROLE_BINDING
from tests.cluster.selectors import Object
from tests.cluster.store import Store

ADMIN = "kubernetes-admin"


def service_account(namespace: str, name: str) -> str:
    """Return the user name of a service account."""
    return f"system:serviceaccount:{namespace}:{name}"


class Access:
    """Tokens of users, and what each of them may do. The administrator may do all, but for what a test forbids."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._tokens: dict[str, str] = {}
        self._lock = threading.Lock()
        self._forbidden: set[tuple[str, str]] = set()

    def token(self, user: str) -> str:
        """Return the token of a user; the same one each time."""
        with self._lock:
            found = next((token for token, owner in self._tokens.items() if owner == user), None)
            if found is None:
                found = secrets.token_hex(16)
                self._tokens[found] = user
            return found

    def revoke(self, user: str) -> None:
        """Make a user's token unknown."""
        with self._lock:
            self._tokens = {token: owner for token, owner in self._tokens.items() if owner != user}

    def forbid(self, verb: str, resource: str) -> None:
        """Forbid everybody a verb on a resource, such as `delete` and `pods`, or `get` and `pods/log`."""
        self._forbidden.add((verb, resource))

    def allow(self, verb: str, resource: str) -> None:
        """Take back what was forbidden."""
        self._forbidden.discard((verb, resource))

    def user(self, authorization: str) -> str:
        """Return who sends a request.

        Raises:
            Refused: when the token is unknown.
        """
        user = self._tokens.get(authorization.removeprefix("Bearer "))
        if user is None:
            raise refusals.unauthorized()
        return user

    def check(self, user: str, call: Call) -> None:
        """Do nothing if a user may do what a request wants.

        Raises:
            Refused: when not, in the words of the real server.
        """
        resource = "/".join(filter(None, (call.kind.plural, call.subresource)))
        namespace = call.name if call.kind == NAMESPACE else call.namespace  # a Role covers its own namespace, too
        if self.may(user, call.verb, resource, group=call.kind.group, namespace=namespace, name=call.name):
            return
        where = f' in the namespace "{namespace}"' if namespace else " at the cluster scope"
        why = f'User "{user}" cannot {call.verb} resource "{resource}" in API group "{call.kind.group}"{where}'
        raise refusals.forbidden(call.kind, call.name, why)

    def may(self, user: str, verb: str, resource: str, *, group: str, namespace: str, name: str) -> bool:
        """Say whether a user may do something."""
        if (verb, resource) in self._forbidden:
            return False
        rules = self._rules(user, namespace)
        return user == ADMIN or any(_permits(rule, verb, resource, group=group, name=name) for rule in rules)

    def _rules(self, user: str, namespace: str) -> Iterator[Object]:
        bindings = [(binding, "") for binding in self._store.list(CLUSTER_ROLE_BINDING)]
        if namespace:
            bindings += [(binding, namespace) for binding in self._store.list(ROLE_BINDING, namespace)]
        for binding, home in bindings:
            if any(_user(subject, home) == user for subject in binding.get("subjects", ())):
                reference = binding["roleRef"]
                kind, place = (ROLE, home) if reference["kind"] == "Role" else (CLUSTER_ROLE, "")
                role = self._store.find(kind, place, reference["name"])
                yield from role.get("rules", ()) if role else ()


def _user(subject: Object, namespace: str) -> str:
    if subject["kind"] == "ServiceAccount":
        return service_account(subject.get("namespace", namespace), subject["name"])
    return str(subject["name"])


def _permits(rule: Object, verb: str, resource: str, *, group: str, name: str) -> bool:
    names = rule.get("resourceNames")
    return (
        _has(rule.get("verbs", ()), verb)
        and _has(rule.get("apiGroups", ()), group)
        and _has(rule.get("resources", ()), resource)
        and (not names or name in names)
    )


def _has(allowed: list[str], wanted: str) -> bool:
    return "*" in allowed or wanted in allowed

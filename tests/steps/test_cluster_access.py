"""Rules of access on the tests' cluster."""

from __future__ import annotations

import pytest

from tests.cluster.access import Access
from tests.cluster.calls import Call
from tests.cluster.kinds import NAMESPACE, ROLE, ROLE_BINDING
from tests.cluster.refusals import Refused
from tests.cluster.store import Store


def test_a_role_covers_reading_its_own_namespace_and_no_other() -> None:
    store = Store()
    rule = {"apiGroups": [""], "resources": ["namespaces"], "verbs": ["get"]}
    store.create(ROLE, "slipway", {"metadata": {"name": "reader"}, "rules": [rule]})
    binding = {"roleRef": {"kind": "Role", "name": "reader"}, "subjects": [{"kind": "User", "name": "somebody"}]}
    store.create(ROLE_BINDING, "slipway", {"metadata": {"name": "reader"}, **binding})

    Access(store).check("somebody", Call("get", NAMESPACE, "", "slipway"))

    with pytest.raises(Refused, match='cannot get resource "namespaces" in API group "" in the namespace "airflow"'):
        Access(store).check("somebody", Call("get", NAMESPACE, "", "airflow"))
    with pytest.raises(Refused, match="at the cluster scope"):
        Access(store).check("somebody", Call("list", NAMESPACE, ""))

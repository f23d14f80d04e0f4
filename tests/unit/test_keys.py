"""Keys: equal inputs, equal name; whatever changes the result changes the key."""

from __future__ import annotations

import pytest

from pipelines import keys

BASE = {
    "module": "pipelines.steps.freeze",
    "libraries": ("pydantic",),
    "config": {"a": 1, "b": 2},
    "inputs": {"x": None},
}


def test_order_does_not_matter() -> None:
    assert keys.step_key("s", **BASE) == keys.step_key("s", **{**BASE, "config": {"b": 2, "a": 1}})


@pytest.mark.parametrize(
    "change",
    [
        pytest.param({"config": {"a": 1, "b": 3}}, id="config"),
        pytest.param({"inputs": {"x": "y"}}, id="inputs"),
        pytest.param({"libraries": ("pydantic", "pyyaml")}, id="libraries"),
        pytest.param({"module": "pipelines.steps.validate"}, id="code"),
        pytest.param({"fingerprint": "f"}, id="fingerprint"),
        pytest.param({"salt": "run-1"}, id="salt"),
    ],
)
def test_what_changes_the_result_changes_the_key(change: dict[str, object]) -> None:
    assert keys.step_key("s", **{**BASE, **change}) != keys.step_key("s", **BASE)


def test_the_closure_follows_imports_in_functions_and_module_names_in_strings() -> None:
    closure = keys.import_closure("pipelines.steps.train")
    assert {"pipelines.step", "pipelines.spec", "pipelines.errors", "pipelines.training.rank"} <= closure


def test_the_closure_of_one_step_leaves_out_the_others() -> None:
    closure = keys.import_closure("pipelines.steps.prepare")
    assert not any(name.startswith(("pipelines.training", "pipelines.release", "pipelines.ledger")) for name in closure)

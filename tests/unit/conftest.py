"""Unit tests load nothing that takes seconds to load; in a worker that has it from other tests, it stays."""

from __future__ import annotations

import sys
from importlib.abc import MetaPathFinder

HEAVY = {"airflow", "bentoml", "great_expectations", "matplotlib", "pandas", "polars", "torch", "transformers"}


class Refusal(MetaPathFinder):
    """Finds no heavy package, and says where a test that needs one belongs."""

    def find_spec(self, name: str, _path: object, _target: object = None) -> None:
        if name in HEAVY:
            raise ImportError(f"a unit test loads {name}; a test that needs it belongs in tests/steps or tests/dags")


REFUSAL = Refusal()


def pytest_runtest_setup() -> None:
    """Refuse heavy packages from before the test's fixtures on."""
    sys.meta_path.insert(0, REFUSAL)


def pytest_runtest_teardown() -> None:
    """Let others load them."""
    sys.meta_path.remove(REFUSAL)

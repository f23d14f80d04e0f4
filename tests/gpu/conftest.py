"""Tests on GPUs: each says how many it needs, and is skipped where there are fewer."""

from __future__ import annotations

import pytest


@pytest.fixture(autouse=True)
def _gpus(request: pytest.FixtureRequest) -> None:
    """Skip a test without its GPUs."""
    import torch

    marker = request.node.get_closest_marker("gpu")
    needed = marker.args[0] if marker and marker.args else 1
    if torch.cuda.device_count() < needed:
        pytest.skip(f"needs {needed} GPU{'s'[: needed > 1]}, this machine has {torch.cuda.device_count()}")

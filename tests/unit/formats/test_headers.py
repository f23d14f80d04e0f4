"""The label that keeps kinds of traffic apart."""

from __future__ import annotations

import pytest

from pipelines.formats.headers import Traffic, traffic_of


@pytest.mark.parametrize(
    ("label", "host", "expected"),
    [
        pytest.param(None, "docs.example", Traffic.USER, id="no-label-is-a-user"),
        pytest.param("user", None, Traffic.USER, id="no-host"),
        pytest.param("pinned", "docs.example:80", Traffic.PINNED, id="pinned"),
        pytest.param("Pinned", "docs.example", Traffic.USER, id="words-are-exact"),
        pytest.param("shadow", "docs.example", Traffic.USER, id="only-the-router-makes-shadows"),
        pytest.param(None, "docs.example-shadow", Traffic.SHADOW, id="mirrored"),
        pytest.param(None, "docs.example-shadow:8100", Traffic.SHADOW, id="mirrored-with-port"),
        pytest.param("pinned", "docs.example-shadow:8100", Traffic.SHADOW, id="mirrored-copy-of-a-pinned-one"),
    ],
)
def test_traffic_of(label: str | None, host: str | None, expected: Traffic) -> None:
    assert traffic_of(label, host) is expected

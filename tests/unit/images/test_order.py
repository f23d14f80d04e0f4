"""What `make images` is asked for: the names that images get, and what is refused before anything is built."""

from __future__ import annotations

import pytest

from images import __main__ as command
from images.order import Order
from pipelines.errors import ExitCode


def test_an_image_is_called_by_registry_prefix_tag_and_variant() -> None:
    order = Order(registry="registry.example.com/ml/", tag="2026.11", variant="cuda")
    assert order.reference("trainer") == "registry.example.com/ml/slipway-trainer:2026.11-cuda"


@pytest.mark.parametrize(
    ("variables", "words"),
    [
        pytest.param({"PUSH": "1"}, "PUSH: REGISTRY is empty; say whose", id="a-push-to-nobody"),
        pytest.param({"IMAGES": "trianer"}, "unknown image 'trianer'; known images: airflow, trainer", id="a-typo"),
        pytest.param({"VARIANT": "rocm"}, "VARIANT: Input should be 'cpu' or 'cuda', got 'rocm'", id="no-such-variant"),
    ],
)
def test_an_order_that_cannot_be_met_is_one_plain_error(
    variables: dict[str, str], words: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("REGISTRY", "PUSH", "IMAGES", "VARIANT"):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)

    assert command.main() == ExitCode.REFUSED
    (line,) = capsys.readouterr().err.splitlines()
    assert words in line

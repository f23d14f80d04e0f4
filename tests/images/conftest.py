"""One engine and one work folder for all tests of images: wheels and layers are kept between runs."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from images import build, engine
from images.order import Order
from images.recipes import recipes


@pytest.fixture(scope="session")
def order() -> Order:
    """Return what `make images` would build, under a tag of the tests."""
    return Order(tag="test")


@pytest.fixture(scope="session")
def docker(order: Order) -> Iterator[engine.Engine]:
    """Return a docker engine."""
    try:
        with engine.running(order.work) as running:
            yield running
    except engine.EngineError as error:
        pytest.skip(str(error))


@pytest.fixture(scope="session")
def trainer(docker: engine.Engine, order: Order) -> str:
    """Return the built trainer."""
    return build.build(docker, order, recipes()["trainer"])

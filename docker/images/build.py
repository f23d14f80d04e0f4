"""Build images one by one, and hand them on: kept by the engine, pushed, or written to a folder as archives."""

from __future__ import annotations

import tempfile
import time
from pathlib import Path

from images import base, context, lock, wheels
from images.engine import Engine, EngineError
from images.order import Order
from images.recipes import REPOSITORY, Recipe


def build(engine: Engine, order: Order, recipe: Recipe) -> str:
    """Build one image and return its name."""
    started = time.monotonic()
    foundation = base.ensure(engine, order.base_image)
    locked = REPOSITORY / "requirements.txt"
    pins = lock.part(lock.parse(locked.read_text(encoding="utf-8")), recipe.roots)
    packages = wheels.fetch(wheels.requirements(pins, order.variant), locked, order.work / "wheels")
    reference = order.reference(recipe.name)
    with tempfile.TemporaryDirectory(prefix="context-", dir=order.work) as folder:
        context.stage(recipe, packages, Path(folder))
        _build(engine, Path(folder), reference, dict(context.label_arguments(recipe, foundation)))
    _tell(engine, reference, time.monotonic() - started)
    return reference


def build_bento(engine: Engine, order: Order, bento: Path) -> str:
    """Build the service image with a packaged bento inside, and return its name."""
    started = time.monotonic()
    reference = order.reference("service-bento")
    with tempfile.TemporaryDirectory(prefix="context-", dir=order.work) as folder:
        digest = context.stage_bento(bento, Path(folder))
        labels = {"SERVICE_IMAGE": order.reference("service"), "BENTO_DIGEST": digest}
        _build(engine, Path(folder), reference, labels)
    _tell(engine, reference, time.monotonic() - started)
    return reference


def push(engine: Engine, reference: str) -> None:
    """Hand an image to the registry that its name begins with.

    Raises:
        EngineError: with the registry's words, and what to do.
    """
    try:
        engine.call("push", "--quiet", reference)
    except EngineError as error:
        registry = reference.partition("/")[0]
        raise EngineError(
            f"{error}; {reference} is built and was not pushed: is {registry} up, is `docker login {registry}` done, "
            "and may this user push there?"
        ) from error
    print(f"{reference} is pushed", flush=True)


def save(engine: Engine, reference: str, folder: Path) -> Path:
    """Write an image to an archive that `docker load`, `ctr images import` and `kind load image-archive` read."""
    folder.mkdir(parents=True, exist_ok=True)
    target = folder / f"{reference.rpartition('/')[2].replace(':', '-')}.tar"
    engine.call("save", "--output", target, reference)
    return target


def _build(engine: Engine, folder: Path, reference: str, arguments: dict[str, str]) -> None:
    options = [part for name, value in arguments.items() for part in ("--build-arg", f"{name}={value}")]
    engine.show("build", "--network", "none", "--tag", reference, *options, folder)


def _tell(engine: Engine, reference: str, seconds: float) -> None:
    size = int(engine.call("image", "inspect", "--format", "{{.Size}}", reference))
    print(f"{reference}: {size / 1e6:,.0f} MB in {seconds:.0f} s", flush=True)

"""Build the images: `make images`; `images.order` says which variables it takes."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path
from typing import NoReturn

from pydantic import ValidationError

from images import build, engine
from images.order import Order
from images.recipes import recipes
from pipelines.errors import BadInput, ExitCode, SlipwayError


def main() -> int:
    """Build what the environment asks for; return the exit status."""
    signal.signal(signal.SIGTERM, _stop)
    try:
        order = _read_order()
        with engine.running(order.work) as running:
            _build(running, order)
    except (engine.EngineError, SlipwayError, subprocess.CalledProcessError) as error:
        print(f"error: {error}", file=sys.stderr)
        return ExitCode.REFUSED
    return ExitCode.DONE


def _read_order() -> Order:
    try:
        order = Order()
    except ValidationError as error:
        problem = error.errors()[0]
        raise BadInput(f"{str(problem['loc'][0]).upper()}: {problem['msg']}, got {problem['input']!r}") from error
    if order.push and not order.registry:
        raise BadInput("PUSH: REGISTRY is empty; say whose: make images PUSH=1 REGISTRY=registry.example.com/ml")
    if unknown := sorted(set(order.images.split()) - recipes().keys()):
        raise BadInput(f"IMAGES: unknown image {unknown[0]!r}; known images: {', '.join(recipes())}")
    return order


def _build(running: engine.Engine, order: Order) -> None:
    references = [build.build(running, order, recipes()[name]) for name in order.images.split()]
    if order.bento:
        references.append(build.build_bento(running, order, Path(order.bento).resolve()))
    for reference in references:
        if order.push:
            build.push(running, reference)
        if order.save:
            print(build.save(running, reference, Path(order.save)), flush=True)


def _stop(number: int, frame: object) -> NoReturn:
    """Leave through every `finally`: an engine that was started here ends too."""
    raise SystemExit(128 + number)


if __name__ == "__main__":
    sys.exit(main())

"""Which build of torch an image gets."""

from __future__ import annotations

from images.lock import Pin
from images.wheels import requirements

PINS = [Pin("numpy", "2.4.0", frozenset()), Pin("torch", "2.13.0", frozenset())]


def test_a_cpu_image_takes_the_build_that_this_machines_pip_prefers() -> None:
    assert requirements(PINS, "cpu") == "numpy==2.4.0\ntorch==2.13.0\n"


def test_a_cuda_image_takes_exactly_the_build_of_that_version_which_brings_cuda() -> None:
    assert requirements(PINS, "cuda") == "numpy==2.4.0\ntorch===2.13.0\n"

"""Which part of the lock an image gets."""

from __future__ import annotations

import pytest

from images import lock

LOCK = """\
# project.dependencies of pyproject.toml
alpha==1.0
    # via
    #   slipway (pyproject.toml)
    #   beta
beta==2.0rc1
    # via slipway (pyproject.toml)
gamma==3.1
    # via beta
delta==4
    # via gamma
lonely==5
    # via slipway (pyproject.toml)
"""


def names(*roots: str) -> list[str]:
    return [str(pin) for pin in lock.part(lock.parse(LOCK), roots)]


def test_a_root_brings_what_it_needs_to_any_depth() -> None:
    assert names("beta") == ["alpha==1.0", "beta==2.0rc1", "delta==4", "gamma==3.1"]


def test_what_nobody_asks_for_stays_out() -> None:
    assert names("gamma") == ["delta==4", "gamma==3.1"]


def test_a_root_that_is_not_locked_is_an_error() -> None:
    with pytest.raises(KeyError, match="unheard"):
        names("unheard")

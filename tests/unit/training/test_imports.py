"""Imports without garbage collection."""

from __future__ import annotations

import gc

from pipelines.training.imports import quick_imports


def test_nobody_looks_for_garbage_during_imports_and_what_they_made_is_never_looked_at() -> None:
    try:
        with quick_imports():
            assert not gc.isenabled()
        assert gc.isenabled()
        assert gc.get_freeze_count() > 0
    finally:
        gc.unfreeze()

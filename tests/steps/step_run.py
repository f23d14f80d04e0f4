"""Execute a work step as a driver does: spec in a file, inputs in the store, receipt read back."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from pipelines import step
from pipelines.settings import Settings
from pipelines.store import Store


def settings_in(folder: Path) -> Settings:
    """Return settings whose home and store lie in a folder."""
    return Settings(home=folder / "home", store=f"file://{folder / 'store'}")


def execute(
    name: str, settings: Settings, spec: Mapping[str, Any], inputs: Mapping[str, Any] | None = None, run_id: str = "r1"
) -> step.Receipt:
    """Execute a step of model `m` with a spec given as plain data."""
    path = settings.resolved_home() / "m.yaml"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(yaml.safe_dump(dict(spec)), encoding="utf-8")
    info = step.RunInfo(model="m", run_id=run_id, task_id=name)
    step.write_inputs(Store(settings.store_url()), info, inputs or {})
    return step.execute(
        name, spec_uri=str(path), inputs_uri=info.inputs_uri, result_uri=info.receipt_uri, settings=settings
    )

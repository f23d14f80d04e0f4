"""Everything that runs under the supervisor, and the environment that it runs in."""

from __future__ import annotations

import os
import sys
from pathlib import Path

from pipelines.release.local import envoy
from pipelines.settings import REPOSITORY, Settings
from pipelines.stack import airflow, postgres
from pipelines.stack.layout import Layout
from pipelines.stack.processes import MARKER
from pipelines.stack.supervisor import Program

CONTROLLER = "controller"
ENVOY = "envoy"


def names(settings: Settings) -> list[str]:
    """Return the names of the programs that should run."""
    database = [postgres.NAME] if postgres.is_wanted(settings) else []
    return [*database, ENVOY, CONTROLLER, *airflow.COMPONENTS]


def programs(settings: Settings) -> list[Program]:
    """Return the programs of the stack; bentos are added to it by the release controller."""
    layout = Layout.of(settings)
    own = [
        Program(
            name=CONTROLLER,
            command=[sys.executable, "-m", "pipelines", "controller"],
            directory=REPOSITORY,
            stop_wait_seconds=30,
        ),
        Program(name=ENVOY, command=envoy.command(settings), directory=REPOSITORY),
        *airflow.programs(),
    ]
    return [postgres.program(layout), *own] if postgres.is_wanted(settings) else own


def environment(settings: Settings) -> dict[str, str]:
    """Return the environment of supervisord, which every program inherits; it holds no secret of the stack."""
    layout = Layout.of(settings)
    explicit = {
        f"SLIPWAY_{name.upper()}": str(value)
        for name, value in settings.model_dump().items()
        if value not in ("", None)
    }
    ours = {
        **explicit,
        "SLIPWAY_HOME": str(layout.home),
        "SLIPWAY_MODELS_DIR": str(settings.models_dir.resolve()),
        MARKER: str(layout.home),
        "AIRFLOW_HOME": str(layout.airflow_home),
        "SLIPWAY_AIRFLOW_DB": airflow.database_url(settings),  # Airflow hides its own URL from its tasks
        "PATH": os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", os.defpath)]),
        "PYTHONPATH": os.pathsep.join([str(REPOSITORY), str(REPOSITORY / "plugins")]),
        "PYTHONUNBUFFERED": "1",
        "BENTOML_DO_NOT_TRACK": "True",
        "GX_ANALYTICS_ENABLED": "false",
    }
    return {**os.environ, **ours}

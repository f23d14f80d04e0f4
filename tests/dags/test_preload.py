"""What schedulers import beforehand: forked processes have it, unless it was edited meanwhile."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from tests.airflow_case import Lifecycle

FORKED = """
import json, os, sys
from pathlib import Path
from slipway import preload

package = Path(sys.argv[1])
sys.path.insert(0, str(package.parent))
preload.FOLDERS = (package,)
preload.MODULES = (package.name,)
preload.preload()
for edited in (False, True):
    if edited:
        (package / "__init__.py").write_text("VALUE = 'new and longer'")
    sys.stdout.flush()
    if os.fork() == 0:
        is_there = package.name in sys.modules
        print(json.dumps([is_there, __import__(package.name).VALUE]), flush=True)
        os._exit(0)
    os.wait()
"""


def test_a_forked_process_has_what_was_preloaded_and_imports_what_was_edited(
    lifecycle: Lifecycle, tmp_path: Path
) -> None:
    package = tmp_path / "edited_by_hand"
    package.mkdir()
    (package / "__init__.py").write_text("VALUE = 'old'")
    environment = {**os.environ, "PYTHONDONTWRITEBYTECODE": "1"}
    command = [sys.executable, "-c", FORKED, str(package)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120, check=False)
    assert done.stdout.splitlines() == ['[true, "old"]', '[false, "new and longer"]'], done.stderr


def test_all_that_a_task_of_the_lifecycle_imports_is_preloaded(lifecycle: Lifecycle) -> None:
    program = (
        "import sys; from slipway import preload; preload.preload(); before = set(sys.modules); "
        "import runpy; runpy.run_path(sys.argv[1]); "
        "print(sorted(name for name in set(sys.modules) - before if name.startswith(('slipway', 'pipelines'))))"
    )
    dag_file = Path(__file__).parents[2] / "dags" / "lifecycle.py"
    command = [sys.executable, "-c", program, str(dag_file)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert done.stdout.splitlines()[-1:] == ["[]"], done.stderr


def test_only_what_forks_tasks_preloads_and_trouble_with_it_ends_nothing(
    lifecycle: Lifecycle, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    from airflow.sdk.execution_time.task_runner import TaskRunnerMarker

    from slipway import listener, preload

    calls = []

    def fail() -> None:
        calls.append("preload")
        raise ImportError("half a package")

    monkeypatch.setattr(preload, "preload", fail)
    listener.on_starting(TaskRunnerMarker())
    assert calls == []
    listener.on_starting(type("Job", (SimpleNamespace,), {})())
    assert calls == ["preload"]
    assert "nothing was preloaded: half a package" in caplog.text

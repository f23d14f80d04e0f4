"""Child processes: what they see, and that nothing of them is left, whoever dies."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from pipelines import process

ROOT = Path(__file__).resolve().parents[2]
SLEEPER = "import time; print('ready', flush=True); time.sleep(600)"
STUBBORN = "import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN); " + SLEEPER
GUARDED = f"""
import subprocess, sys
from pipelines.process import die_with_parent
die_with_parent()
rank = subprocess.Popen([sys.executable, "-c", {SLEEPER!r}], stdout=subprocess.DEVNULL)
print(rank.pid, flush=True)
rank.wait()
"""
UNGUARDED = GUARDED.replace("die_with_parent()\n", "")


def group(code: str) -> process.Group:
    return process.Group([sys.executable, "-c", code], environment=dict(os.environ), directory=ROOT)


def wait_until(condition: Callable[[], bool], seconds: float = 20.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "the condition did not come true in time"
        time.sleep(0.02)


def is_gone(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


def test_a_group_gives_its_output_line_by_line_and_its_status() -> None:
    started = group("import sys; print('one'); print('two', file=sys.stderr, flush=True); sys.exit(20)")
    assert sorted(started.lines()) == ["one", "two"]
    assert started.wait() == 20


def test_bytes_that_are_no_text_do_not_stop_the_reading() -> None:
    started = group("import sys; sys.stdout.buffer.write(b'\\xff\\n'); print('after')")
    assert list(started.lines())[-1] == "after"
    assert started.wait() == 0


@pytest.mark.parametrize(
    ("code", "status"),
    [
        pytest.param(SLEEPER, -signal.SIGTERM, id="polite"),
        pytest.param(STUBBORN, -signal.SIGKILL, id="ignores-the-request"),
    ],
)
def test_a_stopped_group_ends(code: str, status: int) -> None:
    started = group(code)
    assert next(started.lines()) == "ready"
    started.stop(grace_seconds=0.2)
    assert started.wait() == status


def test_what_a_leader_leaves_behind_ends_with_it() -> None:
    started = group(UNGUARDED.replace("rank.wait()", ""))
    lines = list(started.lines())
    assert started.wait() == 0
    wait_until(lambda: is_gone(int(lines[0])))


def orphaned(code: str) -> tuple[int, int]:
    """Start a group from a process of its own, kill that process with -9, and return the pids of leader and rank."""
    middle = f"""
import os, sys
from pathlib import Path
from pipelines import process
group = process.Group([sys.executable, "-c", {code!r}], environment=dict(os.environ), directory=Path({str(ROOT)!r}))
print(group.pid, next(group.lines()), flush=True)
group.wait()
"""
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    parent = subprocess.Popen([sys.executable, "-c", middle], stdout=subprocess.PIPE, text=True, env=environment)
    assert parent.stdout is not None
    leader, rank = (int(pid) for pid in parent.stdout.readline().split())
    parent.kill()
    parent.wait()
    return leader, rank


def test_a_child_and_its_ranks_die_with_a_killed_parent() -> None:
    leader, rank = orphaned(GUARDED)
    wait_until(lambda: is_gone(leader) and is_gone(rank))


def test_without_the_protection_they_would_live_on() -> None:
    leader, rank = orphaned(UNGUARDED)
    try:
        assert not is_gone(leader)
        assert not is_gone(rank)
    finally:
        os.killpg(leader, signal.SIGKILL)


def test_a_child_that_starts_after_its_parent_died_ends_at_once() -> None:
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    child = subprocess.run(
        [sys.executable, "-c", "from pipelines.process import die_with_parent; die_with_parent(); print('alive')"],
        env={**os.environ, "PYTHONPATH": str(ROOT), process.PARENT: f"{dead.pid}:1"},
        cwd=ROOT,
        capture_output=True,
        check=False,
        process_group=0,
    )
    assert (child.returncode, child.stdout) == (-signal.SIGKILL, b"")


def test_a_reused_process_id_is_not_the_parent() -> None:
    child = subprocess.run(
        [sys.executable, "-c", "from pipelines.process import die_with_parent; die_with_parent(); print('alive')"],
        env={**os.environ, "PYTHONPATH": str(ROOT), process.PARENT: f"{os.getpid()}:1"},
        cwd=ROOT,
        capture_output=True,
        check=False,
        process_group=0,
    )
    assert child.returncode == -signal.SIGKILL


def test_a_command_that_a_person_types_dies_with_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(process.PARENT, raising=False)
    process.die_with_parent()


def test_a_step_sees_only_what_it_may() -> None:
    secret = {
        "AIRFLOW__API_AUTH__JWT_SECRET": "s",
        "AIRFLOW__DATABASE__SQL_ALCHEMY_CONN": "s",
        "AIRFLOW_HOME": "s",
        "SLIPWAY_LEDGER": "s",
        "SLIPWAY_WEBHOOK": "s",
        "PGPASSWORD": "s",
        "MY_TOKEN": "s",
    }
    useful = {"PATH": "p", "HOME": "h", "LC_ALL": "C.UTF-8", "AWS_ENDPOINT_URL": "u", "SLIPWAY_STORE": "s3://b/p"}
    useful |= {"PYTORCH_ALLOC_CONF": "expandable_segments:True", "TRITON_CACHE_DIR": "/cache"}
    assert process.allowed_environment({**secret, **useful}) == useful

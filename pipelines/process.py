"""Child processes that never outlive whoever started them, and see only the environment that they may see."""

from __future__ import annotations

import contextlib
import io
import os
import select
import signal
import subprocess
import threading
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

PARENT = "SLIPWAY_PARENT"
"""Variable with the identity (`pid:start time`) of the process that a child, and everything below it, dies with."""

ALLOWED = frozenset(
    {
        "CURL_CA_BUNDLE", "HOME", "LANG", "LD_LIBRARY_PATH", "LOGNAME", "OTEL_SDK_DISABLED", "PATH", "PYTHONPATH",
        "PYTHONUNBUFFERED", "REQUESTS_CA_BUNDLE", "SSL_CERT_DIR", "SSL_CERT_FILE", "TMPDIR", "TZ", "USER",
        "HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY", "VIRTUAL_ENV", "http_proxy", "https_proxy", "no_proxy",
        "SLIPWAY_HOME", "SLIPWAY_MODELS_DIR", "SLIPWAY_PLATFORM", "SLIPWAY_PUSHGATEWAY", "SLIPWAY_STACK",
        "SLIPWAY_STATSD", "SLIPWAY_STORE",
    }
)  # fmt: skip
"""Variables that a step may see. Not here: the ledger's URL, the webhook, anything of Airflow."""

ALLOWED_PREFIXES = (
    "AWS_", "AZURE_", "BENTOML_", "CUDA_", "GLOO_", "GOOGLE_", "GX_", "HF_", "LC_", "MKL_", "NCCL_", "NVIDIA_", "OMP_",
    "PYTORCH_", "TORCH", "TRITON_",
)  # fmt: skip
"""Families of variables that a step may see: where data is, and how the machine computes."""


def allowed_environment(environment: Mapping[str, str]) -> dict[str, str]:
    """Return the part of an environment that a step may see."""
    return {name: value for name, value in environment.items() if name in ALLOWED or name.startswith(ALLOWED_PREFIXES)}


class Group:
    """A command that leads a process group of its own. When it ends, by itself or not, nothing of the group is left.

    The command must call `die_with_parent` (`python -m pipelines step` does).
    """

    def __init__(self, command: Sequence[str], *, environment: Mapping[str, str], directory: Path) -> None:
        self._leader = subprocess.Popen(
            command,
            env={**environment, PARENT: f"{os.getpid()}:{_start_time(os.getpid())}"},
            cwd=directory,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            encoding="utf-8",
            errors="replace",
            process_group=0,
        )
        self._reaper = threading.Thread(target=self._reap, name=f"reap {self._leader.pid}", daemon=True)
        self._reaper.start()

    @property
    def pid(self) -> int:
        """Process id of the leader, and of the group."""
        return self._leader.pid

    def lines(self) -> Iterator[str]:
        """Yield what the group prints, standard output and error together, until it ends."""
        with self._leader.stdout or io.StringIO() as stream:
            for line in stream:
                yield line.rstrip("\n")

    def wait(self) -> int:
        """Wait for the end and return the leader's exit status; negative: the signal that ended it."""
        self._reaper.join()
        return self._leader.returncode

    def stop(self, grace_seconds: float) -> None:
        """Ask the group to end, and make it when it has not after the grace; returns at once."""
        self._signal(signal.SIGTERM)
        timer = threading.Timer(grace_seconds, self._signal, (signal.SIGKILL,))
        timer.daemon = True
        timer.start()

    def _signal(self, number: signal.Signals) -> None:
        if self._reaper.is_alive():  # so the leader is not reaped yet, and its id cannot name another group
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.pid, number)

    def _reap(self) -> None:
        os.waitid(os.P_PID, self.pid, os.WEXITED | os.WNOWAIT)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.pid, signal.SIGKILL)
        self._leader.wait()


def die_with_parent() -> None:
    """Make this process and its group end as soon as the process that started the group ends, however it ends.

    Without the variable `SLIPWAY_PARENT` (a command typed by a person, a pod) nothing happens. A thread watches the
    parent's pidfd. The kernel's own `PR_SET_PDEATHSIG` would not do: it follows the thread that started the child, and
    it ends one process, not the ranks below it.
    """
    identity = os.environ.get(PARENT, "")
    if not identity:
        return
    pid, _, started = identity.partition(":")
    try:
        handle = os.pidfd_open(int(pid))
    except ProcessLookupError:
        _end_own_group()
        return
    if _start_time(int(pid)) != started:
        _end_own_group()
    threading.Thread(target=_watch, args=(handle,), name="die-with-parent", daemon=True).start()


def _watch(handle: int) -> None:
    poll = select.poll()
    poll.register(handle, select.POLLIN)
    while not poll.poll():
        continue
    _end_own_group()


def _end_own_group() -> None:
    """End the group without notice: everything that a step writes is atomic."""
    os.killpg(0, signal.SIGKILL)


def _start_time(pid: int) -> str:
    """Return when a process started, in clock ticks since boot; empty when it is gone."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
    except (FileNotFoundError, ProcessLookupError):
        return ""
    return stat.rpartition(")")[2].split()[19]

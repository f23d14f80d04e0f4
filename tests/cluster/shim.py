"""Runs a container's command, and leaves nothing of it behind.

It stands between the cluster and the command, as a container runtime's shim does. Whatever the command starts, in
whatever group or session, falls to this process when its own parent ends, and dies with it. It ends when the cluster's
process ends, however that ends. As process 1 of a real container, the command gets only those signals that it handles.

Usage: shim.py CLUSTER_PID COMMAND...
Signals: SIGTERM is passed on to the command; SIGUSR1 ends everything. Both are blocked when this process is started, so
that none comes before it can be handled.
"""

import contextlib
import ctypes
import os
import select
import signal
import subprocess
import sys
import threading

PR_SET_PDEATHSIG, PR_SET_CHILD_SUBREAPER = 1, 36
NOT_FOUND, NOT_EXECUTABLE = 127, 126
SIGNALS = (signal.SIGTERM, signal.SIGUSR1)
_libc = ctypes.CDLL(None, use_errno=True)


class Shim:
    """One command and all its descendants."""

    def __init__(self) -> None:
        self.pid = 0
        self.is_asked_to_end = False
        self.is_over = False

    def run(self, command: list[str], cluster: int) -> int:
        """Run a command to its end and return its exit code: 128 + n for signal n, as container runtimes do."""
        signal.signal(signal.SIGTERM, self.ask)
        signal.signal(signal.SIGUSR1, lambda *_: self.end_all())
        signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)
        try:
            child = subprocess.Popen(command, preexec_fn=die_with_shim)  # noqa: PLW1509  # one thread so far
        except FileNotFoundError as error:
            print(f"exec: {error}", file=sys.stderr)
            return NOT_FOUND
        except OSError as error:
            print(f"exec: {error}", file=sys.stderr)
            return NOT_EXECUTABLE
        self.pid = child.pid
        threading.Thread(target=watch, args=(cluster,), daemon=True).start()
        if self.is_asked_to_end:
            self.ask()
        if self.is_over:
            self.end_all()
        code = self.wait()
        self.end_all()
        return code

    def wait(self) -> int:
        """Wait for the command itself, and bury whatever else ends meanwhile."""
        while True:
            pid, status = os.wait()
            if pid == self.pid:
                self.pid = 0
                code = os.waitstatus_to_exitcode(status)
                return 128 - code if code < 0 else code

    def ask(self, *_: object) -> None:
        """Pass SIGTERM on, if the command handles it."""
        self.is_asked_to_end = True
        if self.pid and handles_sigterm(self.pid):
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, signal.SIGTERM)

    def end_all(self) -> None:
        """Kill all descendants: those of a killed process fall to this one and are killed in the next round."""
        self.is_over = True
        while children := children_of(os.getpid()):
            for pid in children:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            if self.pid:
                return  # `wait` buries the command, then comes back here
            with contextlib.suppress(ChildProcessError):
                os.wait()


def die_with_shim() -> None:
    """Make the command end if somebody kills this process."""
    _libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)


def handles_sigterm(pid: int) -> bool:
    """Say whether a process has a handler for SIGTERM."""
    with contextlib.suppress(FileNotFoundError, ProcessLookupError), open(f"/proc/{pid}/status") as stream:  # noqa: PTH123
        for line in stream:
            if line.startswith("SigCgt:"):
                return bool(int(line.split()[1], 16) & 1 << (signal.SIGTERM - 1))
    return False


def children_of(parent: int) -> list[int]:
    """Return the direct children of a process."""
    found = []
    for name in os.listdir("/proc"):  # noqa: PTH208
        if not name.isdigit():
            continue
        with contextlib.suppress(FileNotFoundError, ProcessLookupError), open(f"/proc/{name}/stat") as stream:  # noqa: PTH123
            if int(stream.read().rpartition(")")[2].split()[1]) == parent:
                found.append(int(name))
    return found


def watch(cluster: int) -> None:
    """End everything as soon as the cluster's process ends."""
    signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())  # signals are the main thread's
    poll = select.poll()
    poll.register(cluster, select.POLLIN)
    while not poll.poll():
        continue
    os.kill(os.getpid(), signal.SIGUSR1)


def main() -> int:
    """Run the command of the arguments."""
    cluster_pid, *command = sys.argv[1:]
    _libc.prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    shim = Shim()
    try:
        cluster = os.pidfd_open(int(cluster_pid))
    except ProcessLookupError:
        return NOT_EXECUTABLE
    if os.getppid() != int(cluster_pid):
        return NOT_EXECUTABLE
    return shim.run(command, cluster)


if __name__ == "__main__":
    sys.exit(main())

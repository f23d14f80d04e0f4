"""What `make run-bad` shows: a worse candidate goes out under traffic, and is rolled back.

    python -m tests.load.bad docs-gpt --kind errors|slow|wrong-answers

    errors          a second Envoy before the candidate fails 20 % of the users' requests; golden requests pass
    slow            the version in production with a service that waits 0.2 s before each answer
    wrong-answers   a model that was trained for 20 steps, let through by a loosened offline gate

The exit status is 0 only if the candidate was rolled back and the old version serves.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from pipelines import ledger
from pipelines.errors import BadInput, SlipwayError
from pipelines.ledger import Phase, Rollout, Version
from pipelines.release.local import adapters
from pipelines.release.report import facts
from pipelines.settings import REPOSITORY, Settings, read_settings
from tests.load.client import read_ledger, summary
from tests.load.demo import SECOND_VERSION, exit_status, users
from tests.load.fault_envoy import failing

FAILING_PERCENT = 20
WAIT = "        await asyncio.sleep(0.2)\n"
LOOSE_GATE = "\nevaluation: {max_perplexity_ratio: 100, noninferiority_margin: 100}\n"
POLL_SECONDS = 0.1


class NotRolledBack(SlipwayError):
    """The worse candidate was not rolled back, or the old version does not serve."""


@dataclass(frozen=True)
class Candidate:
    """How a worse candidate is made: the source tree and spec of its run, and the run's arguments."""

    tree: Path
    spec: Path
    arguments: tuple[str, ...]
    fails_users: bool = False


@contextlib.contextmanager
def candidate(kind: str, spec: Path) -> Iterator[Candidate]:
    """Make what a worse candidate needs, in a folder that is removed again."""
    with tempfile.TemporaryDirectory(prefix="slipway-bad-") as folder:
        match kind:
            case "errors":
                yield Candidate(REPOSITORY, spec, ("--seed", "3", "--max-steps", "300"), fails_users=True)
            case "slow":
                again = [text for name in ("seed", "max_steps") for text in _option(name, SECOND_VERSION[name])]
                yield Candidate(_slow_tree(Path(folder)), spec, tuple(again))
            case _:
                loose = Path(folder) / spec.name
                loose.write_text(spec.read_text(encoding="utf-8") + LOOSE_GATE, encoding="utf-8")
                yield Candidate(REPOSITORY, loose, ("--seed", "4", "--max-steps", "20"))


def demonstrate(settings: Settings, model: str, kind: str) -> Rollout:
    """Release a worse candidate under traffic and return its rollout, which went back.

    Raises:
        BadInput: when nothing serves yet.
        NotRolledBack: when the candidate was not rolled back, or the old version does not serve.
    """
    champion = ledger.champion(settings.ledger_url(), model)
    service = ledger.read_service(settings.ledger_url(), model)
    if champion is None or service is None or service.port is None:
        raise BadInput(f"{model} has no version in production to compare with; `make run` first")
    spec = settings.models_dir / f"{model.replace('-', '_')}.yaml"
    record = settings.resolved_home() / "logs" / "load-client.jsonl"
    with candidate(kind, spec) as bad, users(f"http://127.0.0.1:{service.port}", record):
        rollout = _follow(settings, model, bad)
    print(f"The users saw {summary(read_ledger(record))}", flush=True)
    _require_rolled_back(settings, rollout, champion, service.port)
    return rollout


def _follow(settings: Settings, model: str, bad: Candidate) -> Rollout:
    """Run the candidate's lifecycle, show its rollout, and break its copy for users if that is its fault."""
    url, before = settings.ledger_url(), latest(settings.ledger_url(), model)
    command = [sys.executable, "-m", "pipelines", "run", "--spec", str(bad.spec), *bad.arguments]
    command += ["--note", "a worse candidate", "--override", "a demonstration"]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(bad.tree), str(bad.tree / "plugins")])}
    environment["SLIPWAY_HOME"] = str(settings.resolved_home())
    with contextlib.ExitStack() as broken:
        process = subprocess.Popen(command, cwd=bad.tree, env=environment)
        shown, is_broken = "", not bad.fails_users
        while process.poll() is None:
            rollout = latest(url, model)
            if rollout is not None and (before is None or rollout.id != before.id):
                if not is_broken and _is_described(settings, rollout):
                    broken.enter_context(failing(settings, rollout.candidate.copy_name, FAILING_PERCENT))
                    is_broken = True
                if rollout.state.phase is Phase.ROLLING_BACK:
                    broken.close()  # the port must be free when the copy is stopped
                shown = _show(facts(rollout).line(), shown)
            time.sleep(POLL_SECONDS)
        rollout = latest(url, model)
        if rollout is None or (before is not None and rollout.id == before.id):
            raise NotRolledBack("the candidate never got as far as a rollout; the lines above say why")
        _wait(lambda: ledger.read_rollout(url, rollout.id).state.is_final, "the rollout does not end")
        return ledger.read_rollout(url, rollout.id)


def latest(url: str, service: str) -> Rollout | None:
    """Return the rollout that was opened last, or None."""
    return next(iter(ledger.list_rollouts(url, service, limit=1)), None)


def _require_rolled_back(settings: Settings, rollout: Rollout, champion: Version, port: int) -> None:
    state = rollout.state
    if state.phase is not Phase.ROLLED_BACK:
        raise NotRolledBack(f"{rollout} ended {state.phase}: {state.detail}")
    served = adapters.connect(settings).probe.served(port)
    if not served.is_of(champion):
        raise NotRolledBack(f"{rollout} was rolled back, but the endpoint answers as {served}")
    print(f"{rollout}: rolled back as {state.outcome}: {state.detail}")
    print(f"Version {champion.number} serves, read again through the router: {served}", flush=True)


def _is_described(settings: Settings, rollout: Rollout) -> bool:
    return (settings.resolved_home() / "supervisor" / "programs" / f"{rollout.candidate.copy_name}.conf").exists()


def _slow_tree(folder: Path) -> Path:
    """Copy the sources, and let the copy's service wait before each completion."""
    for name in ("pipelines", "bentos", "plugins", "dags"):
        shutil.copytree(REPOSITORY / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    app = folder / "bentos" / "text_generation" / "app.py"
    head, mark, tail = app.read_text(encoding="utf-8").partition("    async def completions(")
    signature, colon, body = tail.partition(":\n")
    if not body:
        raise NotRolledBack("the service has no `completions` any more: this demonstration must be adapted")
    text = f"{head}{mark}{signature}{colon}{WAIT}{body}"
    app.write_text(text.replace("\nimport ", "\nimport asyncio\nimport ", 1), encoding="utf-8")
    return folder


def _option(name: str, value: object) -> list[str]:
    return [f"--{name.replace('_', '-')}", str(value)]


def _show(line: str, before: str) -> str:
    if line != before:
        print(line, flush=True)
    return line


def _wait(condition: Callable[[], bool], otherwise: str, seconds: float = 120.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            raise NotRolledBack(otherwise)
        time.sleep(POLL_SECONDS)


def main() -> int:
    """Parse the command line, show it, return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", nargs="?", default="docs-gpt")
    parser.add_argument("--kind", choices=["errors", "slow", "wrong-answers"], default="errors")
    arguments = parser.parse_args()
    return exit_status(lambda: demonstrate(read_settings(), arguments.model, arguments.kind))


if __name__ == "__main__":
    sys.exit(main())

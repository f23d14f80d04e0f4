"""What `make run-bad` shows: a worse candidate goes out under traffic, and is rolled back.

    python -m tests.load.bad docs-gpt --kind errors|slow|wrong-answers

    errors          the second version packaged again; a second Envoy before it fails 20 % of the users' requests, and
                    lets golden requests pass
    slow            the version in production with a service that waits 0.2 s before each answer
    wrong-answers   a model that was trained for 20 steps, let through by a loosened offline gate

The exit status is 0 only if the candidate was rolled back and the old version serves.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path

from pipelines import ledger
from pipelines.errors import BadInput, SlipwayError
from pipelines.ledger import Phase, Rollout, Version
from pipelines.release import adapters
from pipelines.release.report import facts
from pipelines.settings import Settings, read_settings
from tests.load.candidates import Candidate, repackaged, slow, under_trained
from tests.load.client import read_ledger, summary
from tests.load.demo import SECOND_SEED, SECOND_STEPS, exit_status, users
from tests.load.follow import follow
from tests.load.harm import FailingUsers, Harm


class NotRolledBack(SlipwayError):
    """The worse candidate was not rolled back, or the old version does not serve."""


def demonstrate(settings: Settings, model: str, kind: str) -> Rollout:
    """Release a worse candidate under traffic and return its rollout, which went back.

    Raises:
        BadInput: when nothing serves yet.
        NotReleased: when the candidate never got as far as a rollout.
        NotRolledBack: when the candidate was not rolled back, or the old version does not serve.
    """
    champion = ledger.champion(settings.ledger_url(), model)
    service = ledger.read_service(settings.ledger_url(), model)
    if champion is None or service is None or service.port is None:
        raise BadInput(f"{model} has no version in production to compare with; `make run` first")
    spec = settings.models_dir / f"{model.replace('-', '_')}.yaml"
    record = settings.resolved_home() / "logs" / "load-client.jsonl"
    harm = FailingUsers(settings) if kind == "errors" else Harm()
    with (
        tempfile.TemporaryDirectory(prefix="slipway-bad-") as folder,
        users(f"http://127.0.0.1:{service.port}", record),
    ):
        rollout = follow(
            settings,
            model,
            _candidate(kind, spec, Path(folder)),
            note="a worse candidate",
            override="a demonstration",
            harm=harm,
            look=_Lines().show,
        )
    print(f"The users saw {summary(read_ledger(record))}", flush=True)
    _require_rolled_back(settings, rollout, champion, service.port)
    return rollout


def _candidate(kind: str, spec: Path, folder: Path) -> Candidate:
    second = Candidate(spec, seed=SECOND_SEED, max_steps=SECOND_STEPS)
    match kind:
        case "errors":
            return repackaged(second, folder)
        case "slow":
            return slow(second, folder)
        case _:
            return under_trained(second, folder, seed=4, max_steps=20)


class _Lines:
    """Prints where a rollout stands, whenever that is news."""

    def __init__(self) -> None:
        self._shown = ""

    def show(self, rollout: Rollout) -> None:
        line = facts(rollout).line()
        if line != self._shown:
            print(line, flush=True)
        self._shown = line


def _require_rolled_back(settings: Settings, rollout: Rollout, champion: Version, port: int) -> None:
    state = rollout.state
    if state.phase is not Phase.ROLLED_BACK:
        raise NotRolledBack(f"{rollout} ended {state.phase}: {state.detail}")
    served = adapters.connect(settings).probe.served(port)
    if not served.is_of(champion):
        raise NotRolledBack(f"{rollout} was rolled back, but the endpoint answers as {served}")
    print(f"{rollout}: rolled back as {state.outcome}: {state.detail}")
    print(f"Version {champion.number} serves, read again through the router: {served}", flush=True)


def main() -> int:
    """Parse the command line, show it, return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", nargs="?", default="docs-gpt")
    parser.add_argument("--kind", choices=["errors", "slow", "wrong-answers"], default="errors")
    arguments = parser.parse_args()
    return exit_status(lambda: demonstrate(read_settings(), arguments.model, arguments.kind))


if __name__ == "__main__":
    sys.exit(main())

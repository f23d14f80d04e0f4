"""What befalls a candidate's copy while it goes out to users."""

from __future__ import annotations

import contextlib
import os
import signal

from pipelines.ledger import Phase, Rollout
from pipelines.release.local.supervisord import Supervisord
from pipelines.settings import Settings
from tests.load.fault_envoy import failing


class Harm:
    """Nothing befalls it, unless a subclass says what."""

    def look(self, rollout: Rollout) -> None:
        """Do harm if it is time; called again and again while the rollout goes on."""

    def end(self) -> None:
        """Do no more harm, and leave nothing behind."""


class FailingUsers(Harm):
    """A second Envoy before the copy fails a share of its users' requests."""

    def __init__(self, settings: Settings, percent: int = 20) -> None:
        self._settings, self._percent = settings, percent
        self._supervisord = Supervisord(settings.run_dir / "supervisor.sock")
        self._envoy = contextlib.ExitStack()
        self._is_begun = False

    def look(self, rollout: Rollout) -> None:
        """Put the Envoy before the copy as soon as there is one, and take it away when the copy is to be stopped."""
        copy = rollout.candidate.copy_name
        if rollout.state.is_final or rollout.state.phase is Phase.ROLLING_BACK:
            self.end()  # the port must be free when the copy is stopped
        elif not self._is_begun and self._supervisord.info(copy) is not None:
            self._is_begun = True
            self._envoy.enter_context(failing(self._settings, copy, self._percent))

    def end(self) -> None:
        """Stop the Envoy."""
        self._envoy.close()


class Dying(Harm):
    """The copy's process group is killed whenever it lives, from its first users on."""

    def __init__(self, settings: Settings) -> None:
        self._supervisord = Supervisord(settings.run_dir / "supervisor.sock")

    def look(self, rollout: Rollout) -> None:
        """Kill it if it has users."""
        state = rollout.state
        if state.phase is not Phase.STEP or not state.confirmed_bp:
            return
        info = self._supervisord.info(rollout.candidate.copy_name)
        if info is not None and info["pid"]:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(info["pid"], signal.SIGKILL)

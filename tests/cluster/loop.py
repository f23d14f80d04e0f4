"""The control loop: scheduler, kubelet and controllers look at the objects again after each change."""

from __future__ import annotations

import threading
import time
import traceback
from collections.abc import Callable, Sequence

from tests.cluster.refusals import Refused
from tests.cluster.store import Store

_LOOK_SECONDS = 0.2
"""How often they look without a change: for what depends on time."""


class Loop:
    """Runs controllers in one thread, one after the other."""

    def __init__(self, store: Store, controllers: Sequence[Callable[[], None]]) -> None:
        self.crashes: list[str] = []
        """Tracebacks of controllers that failed; a test that ends well has none."""

        self.num_rounds = 0
        """Rounds that are over."""

        self._store = store
        self._controllers = controllers
        self._is_stopping = False
        self._thread = threading.Thread(target=self._run, name="control loop", daemon=True)
        self._thread.start()

    def wait_for_round(self) -> None:
        """Wait until a whole round is over that began after this moment."""
        wanted = self.num_rounds + 2
        while self.num_rounds < wanted and self._thread.is_alive():
            self._store.wake()
            time.sleep(0.005)

    def stop(self) -> None:
        """End after the round that is under way."""
        self._is_stopping = True
        self._store.wake()
        self._thread.join()

    def _run(self) -> None:
        while not self._is_stopping:
            version = self._store.version
            for controller in self._controllers:
                try:
                    controller()
                except Refused as refused:
                    if refused.code != 404:  # somebody deleted what the controller was about to change
                        self.crashes.append(traceback.format_exc())
                except Exception:  # noqa: BLE001  # the others must go on; `crashes` is read by the tests
                    self.crashes.append(traceback.format_exc())
            self.num_rounds += 1
            self._store.wait(version, _LOOK_SECONDS)

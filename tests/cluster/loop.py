"""The control loop: scheduler, kubelet and controllers look at the objects again after each change."""

from __future__ import annotations

import threading
import traceback
from collections.abc import Callable, Sequence

from tests.cluster.store import Store

_LOOK_SECONDS = 0.2
"""How often they look without a change: for what depends on time."""


class Loop:
    """Runs controllers in one thread, one after the other."""

    def __init__(self, store: Store, controllers: Sequence[Callable[[], None]]) -> None:
        self.crashes: list[str] = []
        """Tracebacks of controllers that failed; a test that ends well has none."""

        self._store = store
        self._controllers = controllers
        self._is_stopping = False
        self._thread = threading.Thread(target=self._run, name="control loop", daemon=True)
        self._thread.start()

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
                except Exception:  # noqa: BLE001  # the others must go on; `crashes` is read by the tests
                    self.crashes.append(traceback.format_exc())
            self._store.wait(version, _LOOK_SECONDS)

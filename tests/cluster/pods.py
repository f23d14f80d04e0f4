"""The life of one pod on a node: volumes, init containers, containers, restarts, and its end."""

from __future__ import annotations

import threading
import time

from tests.cluster import events, podstatus, probes
from tests.cluster.containers import Container
from tests.cluster.kinds import POD
from tests.cluster.selectors import Object
from tests.cluster.starting import Node, Starter
from tests.cluster.stopping import Ending, stop
from tests.cluster.store import now

DEFAULT_GRACE_SECONDS = 30
_LOOK_SECONDS = 0.1


class PodRunner:
    """Runs one pod on a node."""

    def __init__(self, node: Node, pod: Object, address: str, variables: dict[str, str]) -> None:
        """Remember what to run.

        Args:
            address: the pod's own.
            variables: what every container of this pod finds in its environment.
        """
        self.uid: str = pod["metadata"]["uid"]
        self.address = address
        self.doom_seconds: float | None = None
        """How long after its start each container is killed; None: it is not."""
        self._node = node
        self.key = pod["metadata"]["namespace"], pod["metadata"]["name"]
        self._spec = pod["spec"]
        self._pod = {**pod, "status": {**pod.get("status", {}), "podIP": address, "hostIP": node.address}}
        self._policy: str = self._spec.get("restartPolicy", "Always")
        self._start_time, self._begin = now(), time.monotonic()
        self._news = threading.Event()
        self._ending: Ending | None = None
        self._starter = Starter(node, self._pod, variables)
        inits, mains = self._spec.get("initContainers", ()), self._spec["containers"]
        self.inits = [self._starter.container(spec, self._news.set) for spec in inits]
        self.mains = [self._starter.container(spec, self._news.set) for spec in mains]
        self._thread = threading.Thread(target=self._run, name=f"pod {self.key[1]}", daemon=True)

    def container(self, name: str = "") -> Container | None:
        """Return a container by its name; without one, the first that is no init container."""
        if not name:
            return self.mains[0]
        return next((container for container in (*self.inits, *self.mains) if container.name == name), None)

    def end(self, ending: Ending) -> None:
        """Make the pod end. What ended it first stays the reason; a shorter grace shortens what is left."""
        self._ending = self._ending.joined(ending) if self._ending else ending
        self._news.set()

    @property
    def grace_seconds(self) -> float:
        """How long its containers may take to end."""
        return float(self._spec.get("terminationGracePeriodSeconds", DEFAULT_GRACE_SECONDS))

    @property
    def is_over(self) -> bool:
        """Whether nothing of it runs any more."""
        return not self._thread.is_alive()

    def start(self) -> None:
        """Begin, in a thread of its own."""
        self._thread.start()

    def join(self) -> None:
        """Wait until it is over."""
        self._thread.join()

    def _run(self) -> None:
        """Run the pod until it has finished or must end."""
        self._publish()
        while not self._must_end() and not self._starter.mount():
            self._look_later()
        for container in self.mains if not self.inits else ():
            container.wait_because("ContainerCreating")
        while not self._must_end() and not self._has_finished():
            for container in self._due():
                self._start(container)
            self._publish()
            self._look_later()
        if self._ending is not None:
            self._stop()
        self._publish()
        self._node.store.wake()

    def _look_later(self) -> None:
        self._news.wait(_LOOK_SECONDS)
        self._news.clear()

    def _due(self) -> list[Container]:
        """Return the containers to start now."""
        pending = next((container for container in self.inits if container.exit_code != 0), None)
        candidates = self.mains if pending is None else [pending]
        return [container for container in candidates if self._is_due(container)]

    def _is_due(self, container: Container) -> bool:
        if container.is_running or time.monotonic() < container.due:
            return False
        if container.exit_code is None:
            return True
        if podstatus.restarts(self._policy, container):
            self._starter.back_off(container)
        return False

    def _start(self, container: Container) -> None:
        if self._starter.start(container):
            on_failure = self._restart
            probes.Prober(container, self.address, self._node.speed, self._news.set, on_failure).start()
            if self.doom_seconds is not None:
                timer = threading.Timer(self.doom_seconds, container.kill)
                timer.daemon = True
                timer.start()

    def _restart(self, container: Container, probe: str, problem: str) -> None:
        """End a container whose probe failed; its restart policy decides what follows."""
        kind = probe.removesuffix("Probe")
        self._starter.say(events.WARNING, "Unhealthy", f"{kind.capitalize()} probe failed: {problem}", container)
        said = f"Container {container.name} failed {kind} probe, will be restarted"
        self._starter.say(events.NORMAL, "Killing", said, container)
        ending = Ending.within(self.grace_seconds)
        stop([container], self.address, lambda: ending.deadline)

    def _must_end(self) -> bool:
        limit = self._spec.get("activeDeadlineSeconds")
        if self._ending is None and limit is not None and time.monotonic() - self._begin > limit:
            message = "Pod was active on the node longer than the specified deadline"
            self._starter.say(events.NORMAL, "DeadlineExceeded", message)
            self.end(Ending.within(self.grace_seconds, podstatus.FAILED, "DeadlineExceeded", message))
        return self._ending is not None

    def _has_finished(self) -> bool:
        return podstatus.phase(self._policy, self.inits, self.mains) in (podstatus.SUCCEEDED, podstatus.FAILED)

    def _stop(self) -> None:
        running = [container for container in (*self.inits, *self.mains) if container.is_running]
        for container in running:
            self._starter.say(events.NORMAL, "Killing", f"Stopping container {container.name}", container)
        self._publish()
        stop(running, self.address, lambda: self._ending.deadline if self._ending else 0.0)

    def _publish(self) -> None:
        """Write the pod's status as it is now."""
        metadata = self._pod["metadata"]
        self._node.store.set_status(POD, metadata["namespace"], metadata["name"], self._write_status)

    def _write_status(self, pod: Object) -> None:
        if pod["metadata"]["uid"] != self.uid:
            return
        ending = self._ending or Ending(0.0)
        phase = ending.phase or podstatus.phase(self._policy, self.inits, self.mains)
        status = pod.setdefault("status", {})
        status |= {"phase": phase, "startTime": self._start_time, "hostIP": self._node.address}
        status |= {"podIP": self.address, "podIPs": [{"ip": self.address}]}
        status |= {key: text for key, text in (("reason", ending.reason), ("message", ending.message)) if text}
        status["conditions"] = podstatus.conditions(status.get("conditions", ()), phase, self.inits, self.mains)
        status["containerStatuses"] = [container.status() for container in self.mains]
        if self.inits:
            status["initContainerStatuses"] = [container.status() for container in self.inits]

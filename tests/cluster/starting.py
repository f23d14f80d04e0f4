"""What the kubelet does to start a container, and what it says when it cannot."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from tests.cluster import environment, events, images
from tests.cluster.containers import TERMINATION_LOG, Container
from tests.cluster.kinds import POD
from tests.cluster.selectors import Object
from tests.cluster.store import Store
from tests.cluster.volumes import NotReady, Volumes

_RETRY_SECONDS = 0.1
_BACKOFF_SECONDS, _MAX_BACKOFF_SECONDS = 10.0, 300.0


@dataclass(frozen=True)
class Node:
    """What the kubelet of a node knows."""

    store: Store
    folder: Path
    """Where the pods' volumes are."""

    address: str
    speed: float
    """How much faster than a real cluster's are backoffs and probes; grace periods and deadlines are real."""

    images: tuple[str, ...]
    """Patterns of the images that exist."""

    entrypoint: tuple[str, ...] = ()
    """What an image runs when a container has no `command`."""


class Starter:
    """Starts the containers of one pod."""

    def __init__(self, node: Node, pod: Object, variables: dict[str, str]) -> None:
        self._node = node
        self._pod = pod
        self._variables = variables
        self._folder = node.folder / "pods" / pod["metadata"]["uid"]
        field = environment.field_of
        self._volumes = Volumes(node.store, pod, self._folder / "volumes", node.folder / "claims", field)

    def container(self, spec: Object, on_change: Callable[[], None]) -> Container:
        """Return a container that has not been started."""
        return Container(spec, self._folder / f"{spec['name']}.termination", on_change)

    def mount(self) -> bool:
        """Make the volumes; return whether all that they need is there."""
        try:
            self._volumes.prepare()
        except NotReady as missing:
            self.say(events.WARNING, "FailedMount", f"MountVolume.SetUp failed for volume: {missing}")
            return False
        return True

    def start(self, container: Container) -> bool:
        """Start a container; return whether that was possible, else its state says why not."""
        if self._has_no_image(container):
            return False
        try:
            command = self._command(container)
        except NotReady as missing:
            container.wait_because("CreateContainerConfigError", str(missing))
            container.due = time.monotonic() + _RETRY_SECONDS
            self.say(events.WARNING, "Failed", f"Error: {missing}", container)
            return False
        self.say(events.NORMAL, "Created", f"Created container: {container.name}", container)
        container.start(command)
        self.say(events.NORMAL, "Started", f"Started container {container.name}", container)
        return True

    def back_off(self, container: Container) -> None:
        """Let a container that ended wait before it is started again, each time twice as long."""
        seconds = min(_BACKOFF_SECONDS * 2**container.restarts, _MAX_BACKOFF_SECONDS)
        container.due = time.monotonic() + seconds / self._node.speed
        name = self._pod["metadata"]["name"]
        said = f"back-off {seconds:.0f}s restarting failed container={container.name} pod={name}"
        container.wait_because("CrashLoopBackOff", said)
        self.say(events.WARNING, "BackOff", f"Back-off restarting failed container {container.name}", container)

    def say(self, severity: str, reason: str, message: str, container: Container | None = None) -> None:
        """Write an event about the pod, or about one of its containers."""
        path = f"spec.containers{{{container.name}}}" if container else ""
        events.record(self._node.store, POD, self._pod, (severity, reason, message), component="kubelet", path=path)

    def _has_no_image(self, container: Container) -> bool:
        """Look for the container's image; when there is none, tell it as the kubelet does."""
        image = container.spec.get("image", "")
        refusal = images.refusal(image, container.spec.get("imagePullPolicy", ""), self._node.images)
        if refusal is None:
            self.say(events.NORMAL, "Pulled", f'Container image "{image}" already present on machine', container)
            return False
        if container.state.get("waiting", {}).get("reason") in (refusal.reason, refusal.later):
            self.say(events.NORMAL, "BackOff", f'Back-off pulling image "{image}"', container)
            self.say(events.WARNING, "Failed", f"Error: {refusal.later}", container)
            container.wait_because(refusal.later, refusal.later_message)
        else:
            self.say(events.WARNING, "Failed", f'Failed to pull image "{image}": {refusal.message}', container)
            self.say(events.WARNING, "Failed", f"Error: {refusal.reason}", container)
            container.wait_because(refusal.reason, refusal.message)
        container.due = time.monotonic() + _BACKOFF_SECONDS / self._node.speed
        return True

    def _command(self, container: Container) -> environment.Command:
        termination_log = container.spec.get("terminationMessagePath", TERMINATION_LOG)
        mounts = {**self._volumes.mounts(container.spec), termination_log: container.termination_log}
        base = {**environment.image_environment(self._folder), **self._variables}
        store, entrypoint = self._node.store, self._node.entrypoint
        return environment.command_of(store, self._pod, container.spec, mounts, base=base, entrypoint=entrypoint)

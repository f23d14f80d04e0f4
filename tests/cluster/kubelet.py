"""The kubelet: one runner for each pod that is bound to a node, until the pod is gone."""

from __future__ import annotations

import itertools
import shutil
from collections.abc import Callable, Iterator

from tests.cluster import deletion
from tests.cluster.faults import NO_FAULTS, Faults
from tests.cluster.kinds import POD
from tests.cluster.pods import PodRunner
from tests.cluster.selectors import Object
from tests.cluster.starting import Node
from tests.cluster.stopping import Ending

_PER_ROW = 250


class Kubelet:
    """Runs the pods of all nodes."""

    def __init__(self, node: Node, network: str, variables_of: Callable[[Object], dict[str, str]]) -> None:
        """Prepare to run pods.

        Args:
            network: first two numbers of the addresses that pods get.
            variables_of: what the containers of a pod find in their environment.
        """
        self._node = node
        self._addresses = _addresses(network)
        self._variables_of = variables_of
        self._runners: dict[str, PodRunner] = {}
        self.faults: Faults = NO_FAULTS

    def reconcile(self) -> None:
        """Start what was bound, end what was deleted, bury what has ended."""
        pods = {pod["metadata"]["uid"]: pod for pod in self._node.store.list(POD)}
        for uid, pod in pods.items():
            if uid not in self._runners and pod["spec"].get("nodeName"):
                self._run(pod)
        for uid, runner in list(self._runners.items()):
            self._look(runner, pods.get(uid))

    def runner(self, pod: Object) -> PodRunner | None:
        """Return what runs a pod; None before it is bound."""
        return self._runners.get(pod["metadata"]["uid"])

    def num_running(self, namespace: str) -> int:
        """Return how many pods of a namespace are run, those that are gone and still ending among them."""
        return sum(runner.key[0] == namespace for runner in list(self._runners.values()))

    def stop(self) -> None:
        """Kill all pods and wait until nothing is left."""
        runners = list(self._runners.values())
        for runner in runners:
            runner.end(Ending.within(0))
        for runner in runners:
            runner.join()

    def _run(self, pod: Object) -> None:
        runner = PodRunner(self._node, pod, next(self._addresses), self._variables_of(pod))
        runner.doom_seconds = self.faults.kills()
        self._runners[runner.uid] = runner
        runner.start()

    def _look(self, runner: PodRunner, pod: Object | None) -> None:
        if pod is None:
            runner.end(Ending.within(0))
        elif pod["metadata"].get("deletionTimestamp"):
            runner.end(Ending.within(pod["metadata"].get("deletionGracePeriodSeconds", 0)))
        if not runner.is_over:
            return
        if pod is not None and pod["metadata"].get("deletionTimestamp"):
            deletion.finish(self._node.store, POD, pod)
        left = self._node.store.find(POD, *runner.key)
        if left is None or left["metadata"]["uid"] != runner.uid:
            self._runners.pop(runner.uid)
            shutil.rmtree(self._node.folder / "pods" / runner.uid, ignore_errors=True)


def _addresses(network: str) -> Iterator[str]:
    """Yield addresses that no other pod of this cluster has had lately."""
    for number in itertools.cycle(range(_PER_ROW * 200)):
        yield f"{network}.{number // _PER_ROW + 1}.{number % _PER_ROW + 1}"

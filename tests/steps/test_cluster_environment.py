"""Variables of a container on the tests' cluster: whose paths are the pod's own, and whose this machine's."""

from __future__ import annotations

from pathlib import Path

from tests.cluster.environment import command_of
from tests.cluster.store import Store

POD = {"metadata": {"name": "step", "namespace": "slipway"}}
MOUNTS = {"/tmp": Path("/tmp/volumes/tmp"), "/tmp/notes": Path("/tmp/volumes/notes")}


def variables(**said: str) -> dict[str, str]:
    """Return what a container with volumes at /tmp and below finds, on a cluster that keeps its own files in /tmp."""
    container = {"env": [{"name": name, "value": value} for name, value in said.items()]}
    return command_of(Store(), POD, container, MOUNTS, base={"KUBECONFIG": "/tmp/cluster/worker.json"}).environment


def test_what_a_container_says_is_below_its_mounts() -> None:
    assert variables(NOTES="/tmp/notes/1:/tmp/notes.txt") == {
        "KUBECONFIG": "/tmp/cluster/worker.json",
        "NOTES": "/tmp/volumes/notes/1:/tmp/volumes/tmp/notes.txt",
        "TMPDIR": "/tmp/volumes/tmp",
    }


def test_what_a_container_says_instead_of_the_cluster_is_too() -> None:
    assert variables(KUBECONFIG="/tmp/own.json")["KUBECONFIG"] == "/tmp/volumes/tmp/own.json"

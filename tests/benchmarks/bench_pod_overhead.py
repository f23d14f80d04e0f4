"""What the pod path costs over the local path: one real step, as a process, in a pod waited for, in one deferred.

The step is freeze. The cluster is the tests' own: images are there and nodes idle, so what is measured is what we and
the provider add. Not in it: Airflow's scheduler, which starts a deferred task's process a second time. Parts, in
seconds: `order` until the pod is made, `start` until the step's code runs, `work` of the step, `end` until the task has
its receipt. Run: `python -m tests.benchmarks.bench_pod_overhead [rounds]`.
"""

from __future__ import annotations

import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from tests.cluster import Cluster
from tests.dags.pod_case import PodCase, TaskInstance, environment

LIMIT_SECONDS = 10.0
PARTS = ("order", "start", "work", "end")


def timed(run: Callable[[TaskInstance], Mapping[str, Any]], number: int, created: list[float]) -> dict[str, float]:
    """Return the parts of one run."""
    created.clear()
    begun = time.time()
    receipt = run(TaskInstance(run_id=f"manual__{number}"))
    ended = time.time()
    ordered = created[0] if created else begun
    return {
        "order": ordered - begun,
        "start": receipt["started"] - ordered,
        "work": receipt["seconds"],
        "end": ended - receipt["started"] - receipt["seconds"],
    }


def local(case: PodCase, ti: TaskInstance) -> Mapping[str, Any]:
    """Run the step as a process of this machine."""
    from slipway.steps import StepOperator

    operator = StepOperator(task_id="freeze", model="tiny", spec_file="tiny.yaml")
    return operator.execute(case.context(ti))


def measure(case: PodCase, rounds: int) -> dict[str, list[dict[str, float]]]:
    """Return the parts of every run of every path; paths take turns, and the first round only fills caches."""
    from airflow.providers.cncf.kubernetes.utils.pod_manager import PodManager

    created: list[float] = []
    create = PodManager.create_pod

    def noted(self: PodManager, pod: Any) -> Any:
        made = create(self, pod)
        created.append(time.time())
        return made

    PodManager.create_pod = noted
    paths: dict[str, Callable[[TaskInstance], Mapping[str, Any]]] = {
        "process": lambda ti: local(case, ti),
        "pod, waited for": lambda ti: case.run(ti, deferrable=False),
        "pod, deferred": lambda ti: case.run(ti, deferrable=True),
    }
    found: dict[str, list[dict[str, float]]] = {name: [] for name in paths}
    for number in range(rounds + 1):
        for place, (name, run) in enumerate(paths.items()):
            parts = timed(run, number * len(paths) + place, created)
            if number:
                found[name].append(parts)
    return found


def main(rounds: int = 5) -> int:
    """Measure, print and return 1 when the limit is not kept."""
    with tempfile.TemporaryDirectory() as scratch, Cluster() as cluster:
        folder = Path(scratch)
        os.environ.update(environment(cluster, folder), AIRFLOW_HOME=scratch)
        from pipelines.settings import Settings

        (folder / "models").mkdir()
        cluster.create({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "slipway-step"}})
        case = PodCase(cluster, Settings(), folder / "told.json")
        case.write_spec()
        found = measure(case, rounds)
    totals = {}
    for name, runs in found.items():
        totals[name] = statistics.median(sum(parts.values()) for parts in runs)
        shown = ", ".join(f"{part} {statistics.median(parts[part] for parts in runs):.2f}" for part in PARTS)
        print(f"{name}: median {totals[name]:.2f} s of {rounds} ({shown})")
    process = totals.pop("process")
    worst = max(totals.values()) - process
    print(f"the pod path over the local path: at most {worst:.2f} s per step, limit {LIMIT_SECONDS:.0f}")
    return int(worst > LIMIT_SECONDS)


if __name__ == "__main__":
    sys.exit(main(*(int(argument) for argument in sys.argv[1:])))

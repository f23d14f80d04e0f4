"""What parsing costs: CPU time of the lifecycle DAG file against a one-task DAG, and of 200 specs against one.

Each sample is a fresh interpreter that imports one DAG file as Airflow's DAG processor does; samples are interleaved,
so that a busy machine burdens all alike. Run: `python -m tests.benchmarks.bench_dags [rounds]`.
"""

from __future__ import annotations

import os
import random
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
ONE_TASK = """
from airflow.sdk import DAG
from airflow.providers.standard.operators.empty import EmptyOperator
with DAG("one_task"):
    EmptyOperator(task_id="only")
"""
SAMPLE = """
import resource, sys
from airflow.dag_processing.dagbag import DagBag
bag = DagBag(dag_folder=sys.argv[1])
assert bag.size() == int(sys.argv[2]) and not bag.import_errors, (bag.size(), bag.import_errors)
usage = resource.getrusage(resource.RUSAGE_SELF)
print("cpu", usage.ru_utime + usage.ru_stime)
"""
LIMITS = {"lifecycle / one task": 1.15, "200 specs / one spec": 3.0}
RESAMPLES = 2000


def cpu_seconds(dag_file: Path, models: Path, num_dags: int, home: Path, **variables: str) -> float:
    """Return the CPU time of a fresh interpreter that parses one DAG file, with more variables in its environment."""
    environment = {
        **os.environ,
        "AIRFLOW_HOME": str(home),
        "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
        "AIRFLOW__CORE__PLUGINS_FOLDER": str(home / "plugins"),
        "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "plugins")]),
        "SLIPWAY_MODELS_DIR": str(models),
        **variables,
    }
    command = [sys.executable, "-c", SAMPLE, str(dag_file), str(num_dags)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    return float(done.stdout.splitlines()[-1].split()[1])


def write_specs(folder: Path, count: int) -> Path:
    """Write copies of the demo's spec under different names."""
    folder.mkdir()
    text = (ROOT / "dags" / "models" / "docs_gpt.yaml").read_text(encoding="utf-8")
    for number in range(count):
        (folder / f"model_{number}.yaml").write_text(text, encoding="utf-8")
    return folder


def ratio(above: list[float], below: list[float]) -> tuple[float, float, float]:
    """Return the median of the paired ratios and its 95 % bootstrap interval."""
    pairs = [a / b for a, b in zip(above, below, strict=True)]
    chance = random.Random(0)  # noqa: S311 - a seeded resampling, no secret
    medians = sorted(statistics.median(chance.choices(pairs, k=len(pairs))) for _ in range(RESAMPLES))
    return statistics.median(pairs), medians[int(0.025 * RESAMPLES)], medians[int(0.975 * RESAMPLES)]


def main(rounds: int = 10) -> int:
    """Measure, print and return 1 when a limit is not kept."""
    with tempfile.TemporaryDirectory() as scratch:
        home = Path(scratch)
        (home / "one_task.py").write_text(ONE_TASK, encoding="utf-8")
        one, many = write_specs(home / "one", 1), write_specs(home / "many", 200)
        lifecycle = ROOT / "dags" / "lifecycle.py"
        cases = {
            "one task": (home / "one_task.py", one, 1),
            "one spec": (lifecycle, one, 1),
            "200 specs": (lifecycle, many, 200),
        }
        for case in cases.values():
            cpu_seconds(*case, home)  # fills the caches of bytecode and files
        samples: dict[str, list[float]] = {name: [] for name in cases}
        for _ in range(rounds):
            for name, case in cases.items():
                samples[name].append(cpu_seconds(*case, home))
    for name, values in samples.items():
        print(f"{name}: median {statistics.median(values):.2f} s of CPU ({rounds} fresh interpreters)")
    results = {
        "lifecycle / one task": ratio(samples["one spec"], samples["one task"]),
        "200 specs / one spec": ratio(samples["200 specs"], samples["one spec"]),
    }
    for name, (middle, low, high) in results.items():
        print(f"{name}: {middle:.3f} (95 % {low:.3f}-{high:.3f}), limit {LIMITS[name]}")
    return int(any(results[name][0] > limit for name, limit in LIMITS.items()))


if __name__ == "__main__":
    sys.exit(main(*(int(argument) for argument in sys.argv[1:])))

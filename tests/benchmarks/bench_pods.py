"""What pods cost before they run: rendering those of 100 specs, and the DAG file in Kubernetes mode.

Rendering is the body of every step's pod, as the operator hands it to the API. The DAG file is compared with one that
holds a single KubernetesPodOperator; see `bench_dags` for how. Run: `python -m tests.benchmarks.bench_pods [rounds]`.
"""

from __future__ import annotations

import statistics
import sys
import tempfile
import time
from pathlib import Path

from pipelines.pods.manifest import step_pod
from pipelines.runner import StepTry
from pipelines.settings import Settings
from pipelines.spec import load_spec
from pipelines.step import WORK_STEPS, RunInfo
from tests.benchmarks.bench_dags import ROOT, cpu_seconds, ratio, write_specs

NUM_SPECS = 100
RENDER_LIMIT_SECONDS = 5.0
IMPORT_LIMIT = 1.2
BARE = """
from airflow.sdk import DAG
from airflow.providers.cncf.kubernetes.operators.pod import KubernetesPodOperator
with DAG("bare"):
    KubernetesPodOperator(task_id="only", image="python", cmds=["true"])
"""


def render(folder: Path) -> float:
    """Return the seconds that the pods of all steps of all specs take, from the files to what the API is sent."""
    from airflow.providers.cncf.kubernetes.pod_generator import PodGenerator
    from kubernetes.client import ApiClient

    settings = Settings(platform="kubernetes", store=f"file://{folder}/store")
    client = ApiClient()
    specs = write_specs(folder / "specs", NUM_SPECS)
    started = time.perf_counter()
    for path in sorted(specs.glob("*.yaml")):
        spec = load_spec(path)
        for step in WORK_STEPS:
            info = RunInfo(model=spec.name, run_id="manual__1", task_id=step)
            arguments = StepTry(step, f"artifacts/spec/{'0' * 64}", info, settings).arguments
            body = step_pod(arguments, info, spec.resources.of(step), settings, is_last_try=False)
            client.sanitize_for_serialization(PodGenerator.deserialize_model_dict(body))
    return time.perf_counter() - started


def main(rounds: int = 10) -> int:
    """Measure, print and return 1 when a limit is not kept."""
    with tempfile.TemporaryDirectory() as scratch:
        home = Path(scratch)
        seconds = render(home)
        (home / "bare.py").write_text(BARE, encoding="utf-8")
        one = write_specs(home / "one", 1)
        cases = {"bare": home / "bare.py", "lifecycle": ROOT / "dags" / "lifecycle.py"}
        samples: dict[str, list[float]] = {name: [] for name in cases}
        for number in range(rounds + 1):
            for name, file in cases.items():
                used = cpu_seconds(file, one, 1, home, SLIPWAY_PLATFORM="kubernetes")
                if number:  # the first fills the caches of bytecode and files
                    samples[name].append(used)
    for name, values in samples.items():
        print(f"{name}: median {statistics.median(values):.2f} s of CPU ({rounds} fresh interpreters)")
    middle, low, high = ratio(samples["lifecycle"], samples["bare"])
    pods = NUM_SPECS * len(WORK_STEPS)
    print(f"{pods} pods of {NUM_SPECS} specs rendered: {seconds:.2f} s, limit {RENDER_LIMIT_SECONDS}")
    print(f"lifecycle in Kubernetes mode / bare: {middle:.3f} (95 % {low:.3f}-{high:.3f}), limit {IMPORT_LIMIT}")
    return int(seconds > RENDER_LIMIT_SECONDS or middle > IMPORT_LIMIT)


if __name__ == "__main__":
    sys.exit(main(*(int(argument) for argument in sys.argv[1:])))

"""Run the lifecycle of the demo on the cluster of KUBECONFIG and check it: `make e2e-k8s`.

Airflow, ledger and controller run here, steps and services on the cluster: so the cluster needs no database, no DNS, no
metrics server and no dynamic volumes. Without a Gateway controller nothing is released, and the checks of the release
are skipped by name. `tests/e2e_k8s/target.py` says which variables there are.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import NoReturn

from kubernetes import client
from pydantic import ValidationError

from pipelines import artifacts, labels
from pipelines.errors import ExitCode
from pipelines.settings import Settings
from pipelines.step import WORK_STEPS, Receipt, references
from pipelines.store import Store
from tests.e2e_k8s import applying
from tests.e2e_k8s.target import Target
from tests.local_stack import NUM_PORTS, LocalStack, free_ports

MODEL = "docs-gpt"
GATEWAY_CLASS = "envoy-gateway"
STORE_SECRET = "slipway-store"
HOUR = 3600.0


@dataclass
class Report:
    """What was checked, what was not, and what is wrong."""

    passed: list[str] = field(default_factory=list)
    skipped: list[str] = field(default_factory=list)
    failed: list[str] = field(default_factory=list)

    def check(self, what: str, is_so: bool) -> None:
        """Note one check."""
        (self.passed if is_so else self.failed).append(what)

    def text(self) -> str:
        """Return the report, a line each."""
        rows = (("ok      ", self.passed), ("skipped ", self.skipped), ("FAILED  ", self.failed))
        return "\n".join(f"{word}{line}" for word, lines in rows for line in lines)


def settings_of(target: Target, home: Path) -> Settings:
    """Return the settings of the installation that drives the cluster from here."""
    first = free_ports(NUM_PORTS)
    return Settings(
        platform="kubernetes",
        home=home,
        store=target.store,
        kubernetes_context=target.context,
        step_image=target.image("trainer"),
        service_image=target.image("service"),
        store_secret=STORE_SECRET,
        gateway_address=target.gateway_address,
        prometheus=target.prometheus or Settings.model_fields["prometheus"].default,
        airflow_port=first,
        service_ports=f"{first + 1}-{first + 10}",
        copy_ports=f"{first + 11}-{first + NUM_PORTS - 1}",
    )


def prepare(api: client.ApiClient, target: Target, namespace: str, report: Report) -> None:
    """Apply the overlay and the Secret of the store. The controller runs here, so its Deployment is left out."""
    bodies = [
        body for body in applying.rendered(target.overlay, target.image("airflow")) if body["kind"] != "Deployment"
    ]
    report.skipped += applying.apply(api, bodies)
    content = {name: value for name, value in os.environ.items() if name.startswith("AWS_")}
    applying.apply_secret(api, namespace, STORE_SECRET, content)
    report.check(f"overlay {target.overlay} is applied", True)


def run(stack: LocalStack, target: Target, report: Report, *, has_gateway: bool) -> None:
    """Run the lifecycle and check what it left."""
    started = stack.run("up", timeout=HOUR)
    report.check("the stack starts", started.returncode == 0)
    print(stack.run("trigger", MODEL, "--max-steps", str(target.max_steps), timeout=HOUR).stdout, flush=True)
    check_steps(Store(stack.settings.store_url()), report)
    if has_gateway:
        check_release(stack, report)
    else:
        report.skipped.append("release, canary and served digest: no Gateway controller has accepted its GatewayClass")


def check_release(stack: LocalStack, report: Report) -> None:
    """Check that the version serves: it was promoted only after its digest was read again through the Gateway."""
    (present,) = json.loads(stack.run("release", "status", MODEL, "--json").stdout)
    report.check("the released version serves", present["serving"] is not None)
    report.check("no rollout is left half-made", present["running"] is None)


def check_steps(store: Store, report: Report) -> None:
    """Check that every work step left a receipt, and that every byte of what it names is as it was written."""
    receipts = {
        receipt.step: receipt
        for path in store.list(f"runs/{MODEL}")
        if path.endswith(".json") and (receipt := _receipt(store, path)) is not None
    }
    for step in WORK_STEPS:
        report.check(f"step {step} left its receipt", step in receipts)
    for step, receipt in receipts.items():
        for ref in references(receipt.result):
            artifacts.verify(store, ref)
        report.check(f"artifacts of {step} are sound", True)


def check_cluster(api: client.ApiClient, namespace: str, report: Report) -> None:
    """Check that nothing of the steps is left behind on the cluster."""
    wanted = f"{labels.MANAGED_BY}={labels.SLIPWAY},{labels.COMPONENT}={labels.STEP}"
    pods = client.CoreV1Api(api).list_namespaced_pod(namespace, label_selector=wanted).items
    running = [pod.metadata.name for pod in pods if pod.status.phase in {"Pending", "Running"}]
    report.check(f"no step pod is left running {running or ''}".rstrip(), not running)


def _receipt(store: Store, path: str) -> Receipt | None:
    try:
        return Receipt.model_validate_json(store.read(path) or b"")
    except ValidationError:
        return None


def main() -> int:
    """Build if asked to, apply, run, check; return the exit status."""
    signal.signal(signal.SIGTERM, _stop)
    try:
        target = Target()
    except ValidationError as error:
        problem = error.errors()[0]
        print(
            f"error: {str(problem['loc'][0]).upper()}: {problem['msg']}; see tests/e2e_k8s/target.py", file=sys.stderr
        )
        return ExitCode.REFUSED
    report = Report()
    if target.base_image:
        subprocess.run([sys.executable, "-m", "images"], check=True)
    api = applying.connect(target.context)
    with tempfile.TemporaryDirectory(prefix="slipway-e2e-") as folder:
        settings = settings_of(target, Path(folder) / "home")
        prepare(api, target, settings.kubernetes_namespace, report)
        has_gateway = applying.gateway_controller(api, GATEWAY_CLASS)
        stack = LocalStack(settings)
        try:
            run(stack, target, report, has_gateway=has_gateway)
            check_cluster(api, settings.kubernetes_namespace, report)
        finally:
            stack.run("down")
            stack.remove()
    print(report.text())
    return 1 if report.failed else 0


def _stop(number: int, frame: object) -> NoReturn:
    """Leave through every `finally`: the stack that was started here ends too."""
    raise SystemExit(128 + number)


if __name__ == "__main__":
    sys.exit(main())

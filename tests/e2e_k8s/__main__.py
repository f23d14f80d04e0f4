"""Run the lifecycle of the demo on the cluster of KUBECONFIG and check it: `make e2e-k8s STORE=s3://bucket/path`.

Airflow, ledger and controller run here, steps and services on the cluster: so the cluster needs no database, no DNS, no
metrics server and no dynamic volumes. Two versions are released, the second by canary while users ask. Without a
Gateway controller nothing is released, and without PROMETHEUS there is no canary: what is skipped is said by name.
`tests/e2e_k8s/target.py` explains the variables.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import NoReturn

from pipelines.errors import BadInput, ExitCode, SlipwayError, StackError
from pipelines.release.kubernetes.cluster import Cluster
from pipelines.release.kubernetes.prometheus import Prometheus
from pipelines.release.ports import Address, RouterUnavailable
from pipelines.settings import REPOSITORY, Settings
from pipelines.store import Store
from tests.e2e_k8s import applying, gateways, leftovers
from tests.e2e_k8s.installation import GATEWAY_CLASS, STORE_KEYS, STORE_SECRET, settings_of, store_port
from tests.e2e_k8s.releases import Releases
from tests.e2e_k8s.report import Report
from tests.e2e_k8s.target import Target, read_target
from tests.local_stack import LocalStack

HOUR = 3600.0


def main() -> int:
    """Check, apply, release, check; return the exit status."""
    signal.signal(signal.SIGTERM, _stop)
    report = Report()
    try:
        _run(read_target(), report)
    except SlipwayError as error:
        print(f"error: {error}", file=sys.stderr)
        return int(error.exit_code)
    except KeyboardInterrupt:
        return 128 + signal.SIGINT
    print(report.text())
    return ExitCode.UNEXPECTED if report.failed else ExitCode.DONE


def _run(target: Target, report: Report) -> None:
    with _home(report) as home:
        settings = settings_of(target, home)
        cluster = Cluster(settings)
        _build(target)
        _check(target, settings, cluster)
        _prepare(target, settings, cluster, report)
        gateway = _way_in(settings, cluster, report)
        with _stack(settings, cluster):
            releases = Releases(settings, cluster, target.model, report)
            releases.first(gateway, target.max_steps)
            if gateway is not None and not report.failed:
                _second(target, releases, gateway)


@contextmanager
def _home(report: Report) -> Iterator[Path]:
    """Yield a home for the stack; it stays when a run in it failed, for its logs are needed then."""
    folder = Path(tempfile.mkdtemp(prefix="slipway-e2e-"))
    home, is_well = folder / "home", False
    try:
        yield home
        is_well = not report.failed
    finally:
        if is_well or not home.exists():
            shutil.rmtree(folder, ignore_errors=True)
        else:
            print(f"The logs are in {home / 'logs'}, those of tasks in {home / 'airflow' / 'logs'}", file=sys.stderr)


def _build(target: Target) -> None:
    """Build and push the images, if an image to build on is named."""
    if not target.base_image:
        return
    if not target.registry:
        raise BadInput(
            f"BASE_IMAGE={target.base_image}: images are built on it here, and the nodes would not have them; name a "
            "REGISTRY, or load them yourself: make images SAVE=archives"
        )
    command = [sys.executable, "-m", "images"]
    built = subprocess.run(command, cwd=REPOSITORY, env={**os.environ, "PUSH": "1"}, check=False)
    if built.returncode:
        raise BadInput("the images could not be built and pushed; see above")


def _check(target: Target, settings: Settings, cluster: Cluster) -> None:
    """Find out what cannot work before anything is made.

    Raises:
        SlipwayError: with object, verb and way out.
    """
    if not shutil.which("kubectl"):
        raise BadInput("kubectl is not on the PATH; it renders the overlay: install it")
    if target.overlay == "kind" and not settings.store_secret:
        raise BadInput(
            f"{STORE_KEYS[0]} is not set: the pods of overlay kind have no role and reach {target.store} by keys; "
            f"export {' and '.join(STORE_KEYS)}, and AWS_ENDPOINT_URL for a server of your own"
        )
    applying.connect(settings)
    leftovers.require_none(cluster)
    Store(target.store, setting="STORE").check()
    if target.prometheus:
        try:
            Prometheus(target.prometheus).now()
        except RouterUnavailable as error:
            raise BadInput(f"PROMETHEUS: {error}".partition("; is SLIPWAY_PROMETHEUS")[0]) from None


def _prepare(target: Target, settings: Settings, cluster: Cluster, report: Report) -> None:
    """Apply the overlay and the Secret of the store; the controller runs here, so its Deployment is only tried."""
    api = applying.connect(settings)
    bodies = applying.rendered(target.overlay, target.image("airflow"))
    kept = [body for body in bodies if body["kind"] != "Deployment"]
    for left_out in applying.apply(api, applying.with_store_port(kept, store_port()), settings):
        report.skip(left_out)
    report.check(f"overlay {target.overlay} is applied", True)
    if settings.store_secret:
        keys = {name: value for name, value in os.environ.items() if name.startswith("AWS_")}
        applying.apply_secret(api, settings, STORE_SECRET, keys)
    applying.apply(api, [leftovers.counters_policy(cluster)], settings)
    applying.apply(api, [body for body in bodies if body["kind"] == "Deployment"], settings, is_trial=True)
    report.check("the cluster would take the controller's Deployment", True)


def _way_in(settings: Settings, cluster: Cluster, report: Report) -> Address | None:
    """Return where the Gateway is reached; None where nobody works it."""
    if not gateways.is_worked(cluster, GATEWAY_CLASS):
        return None
    address = gateways.way_in(cluster, settings)
    report.check(f"the Gateway is in force, and reached at {address.host}:{address.port}", True)
    return address


@contextmanager
def _stack(settings: Settings, cluster: Cluster) -> Iterator[None]:
    """Run Airflow, ledger and controller for a block; then nothing is left of them here, and nothing of ours serves."""
    stack = LocalStack(settings)
    with ExitStack() as ends:
        ends.callback(leftovers.remove, cluster)
        ends.callback(stack.remove)
        ends.callback(_down, stack)
        print("Starting Airflow, ledger and controller here", flush=True)
        started = stack.run("up", timeout=HOUR)
        if started.returncode:
            raise StackError(f"the stack does not start:\n{started.stdout}")
        yield


def _down(stack: LocalStack) -> None:
    stopped = stack.run("down")
    if stopped.returncode:
        print(stopped.stdout, file=sys.stderr)


def _second(target: Target, releases: Releases, gateway: Address) -> None:
    if target.prometheus:
        releases.second(gateway, target.max_steps)
    else:
        releases.report.skip("a second version by canary: PROMETHEUS, which counts users' requests, is not set")


def _stop(number: int, frame: object) -> NoReturn:
    """Leave through every `finally`: the stack that was started here ends too."""
    raise SystemExit(128 + number)


if __name__ == "__main__":
    sys.exit(main())

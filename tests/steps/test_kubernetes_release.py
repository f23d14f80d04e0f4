"""A whole release on the double of a cluster: Deployments, an HTTPRoute in a real Envoy, a real Prometheus's counts."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from pipelines import ledger
from pipelines.errors import RolledBack
from pipelines.formats import bento
from pipelines.ledger import Outcome
from pipelines.settings import Settings
from tests.cluster import Cluster
from tests.cluster.gateway import EnvoyGateway, LivePrometheus
from tests.steps import copy_server
from tests.steps.live import Load, wait_for
from tests.steps.release_stage import MODEL, Stage, controlled

pytestmark = pytest.mark.needs("prometheus")


def serve_command(folder: Path, port: int, host: str, python: str) -> list[str]:
    return [python, copy_server.__file__, str(folder), str(port), host]


@pytest.fixture
def stage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ledger_url: str) -> Iterator[tuple[Stage, EnvoyGateway]]:
    """Return an installation on a cluster whose controller is at work, and its Gateway."""
    monkeypatch.setattr(bento, "serve_command", serve_command)
    with contextlib.ExitStack() as stack:
        cluster = stack.enter_context(Cluster(namespaces=("slipway", "envoy-gateway-system")))
        account = {"name": "slipway-service", "namespace": "slipway"}
        cluster.create({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": account})
        gateway = stack.enter_context(EnvoyGateway(cluster))
        gateway.install()
        prometheus = stack.enter_context(LivePrometheus(cluster, gateway))
        monkeypatch.setenv("KUBECONFIG", str(cluster.kubeconfig))
        settings = Settings(
            platform="kubernetes",
            home=tmp_path / "home",
            store=f"file://{tmp_path / 'store'}",
            ledger=ledger_url,
            prometheus=prometheus.url,
            gateway_address=f"{gateway.address}:{gateway.port}",
        )
        found = Stage(settings, None, None, tmp_path / "scratch")
        stack.enter_context(controlled(found))
        yield found, gateway


def version_of(gateway: EnvoyGateway) -> str | None:
    url = f"http://{gateway.address}:{gateway.port}/provenance"
    return httpx.get(url, headers={"Host": MODEL}, trust_env=False).headers.get("X-Slipway-Version")


def test_a_second_version_replaces_the_first_under_load(stage: tuple[Stage, EnvoyGateway]) -> None:
    installation, gateway = stage
    first = installation.release(installation.inputs("one", "run-1"))
    assert (first.version, first.outcome, first.endpoint) == (1, Outcome.PROMOTED, "http://docs")
    assert version_of(gateway) == "one"

    url = f"http://{gateway.address}:{gateway.port}/v1/completions"
    with Load(url, headers={"Host": MODEL}) as load:
        second = installation.release(installation.inputs("two", "run-2", min_user_exposures=20))
        wait_for(lambda: load.by("two") > 20, "answers of the second version")
    assert load.failures == []
    assert (second.version, version_of(gateway)) == (2, "two")
    wait_for(lambda: len(installation.copies()) == 1, "the first copy is stopped", seconds=60)
    state = ledger.find_rollout(installation.url, MODEL, "run-2")
    assert state is not None
    assert state.state.evidence.totals["canary/user"][0] >= 20
    assert ledger.verify_chain(installation.url, MODEL) > 0


@pytest.mark.slow
def test_a_version_that_fails_its_users_is_rolled_back_by_what_prometheus_counted(
    stage: tuple[Stage, EnvoyGateway],
) -> None:
    installation, gateway = stage
    installation.release(installation.inputs("one", "run-1"))
    url = f"http://{gateway.address}:{gateway.port}/v1/completions"
    failing = installation.inputs("two", "run-2", habits={"longest_prompt": 100}, shadow_seconds=0)
    with Load(url, headers={"Host": MODEL}), pytest.raises(RolledBack, match="as worse: "):
        installation.release(failing)
    wait_for(lambda: len(installation.copies()) == 1, "the second copy is stopped", seconds=60)
    assert version_of(gateway) == "one"

"""The demonstration's second Envoy: users meet its fault, and requests to one version on purpose do not."""

from __future__ import annotations

from pathlib import Path

from pipelines.release.ports import Address, Target
from pipelines.settings import Settings
from tests.load.fault_envoy import between
from tests.ports import own_port, own_ranges
from tests.steps.envoy_case import running_endpoint
from tests.steps.live import wait_for
from tests.steps.release_stage import answers


def test_a_copy_behind_another_proxy_is_healthy_and_only_its_users_meet_the_fault(tmp_path: Path) -> None:
    settings, port = Settings(home=tmp_path / "home", **own_ranges()), own_port()
    with running_endpoint(settings) as endpoint, between(port, endpoint.two.port, 100):
        endpoint.reset()
        wait_for(lambda: answers(f"http://127.0.0.1:{port}"), "the second Envoy")
        endpoint.canary = Target("docs-behind", Address("127.0.0.1", port))
        endpoint.apply(is_idempotent=False)
        wait_for(lambda: endpoint.ask(X_Slipway_Pin="canary").status_code == 200, "the canary is healthy")
        assert {endpoint.ask(X_Slipway_Pin="canary").status_code for _ in range(10)} == {200}
        endpoint.apply(canary_bp=10_000, is_idempotent=False)
        assert {endpoint.ask().status_code for _ in range(10)} == {503}

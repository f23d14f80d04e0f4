"""Two releases by the DAG: the first, and a second that goes out by canary while users ask; each is checked."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import httpx
from rich.console import Console

from pipelines import artifacts, labels, ledger
from pipelines.errors import SlipwayError
from pipelines.formats.headers import DIGEST
from pipelines.release.endpoints import host
from pipelines.release.kubernetes.cluster import DEPLOYMENT, POD, Cluster, Kind
from pipelines.release.ports import Address
from pipelines.settings import Settings
from pipelines.spec import load_spec
from pipelines.stack.airflow_api import AirflowApi, AirflowAway
from pipelines.stack.progress import choose_view
from pipelines.stack.summary import load_receipts
from pipelines.stack.trigger import FINAL, FollowedRun, follow, trigger
from pipelines.step import WORK_STEPS, Receipt, references
from pipelines.store import Store
from tests.e2e_k8s.report import Report
from tests.e2e_k8s.waiting import comes_true
from tests.steps.live import Load

SECOND_SEED, MORE_STEPS = 3, 1.15
"""The challenger: other random numbers, and a few more steps."""

STEPS_SECONDS = 4 * 3600.0
"""How long all work steps may take together."""

STOP_SECONDS = 600.0
"""How long the version before may stay: its bake time, then its drain, which waits for the longest stream."""

END_SECONDS = 60.0
"""How long a pod may take to go after its task has ended."""

BODY: dict[str, object] = {"prompt": "Return the", "max_tokens": 4}


@dataclass(frozen=True)
class Way:
    """How users reach a model."""

    gateway: Address
    host: str

    @property
    def url(self) -> str:
        """Address that completes a prompt."""
        return f"http://{self.gateway.host}:{self.gateway.port}/v1/completions"

    def digest(self) -> str:
        """Return which weights answer a user now; empty when nobody does."""
        try:
            answer = httpx.post(self.url, json=BODY, headers={"Host": self.host}, trust_env=False, timeout=60)
        except httpx.HTTPError:
            return ""
        return answer.headers.get(DIGEST, "") if answer.is_success else ""

    def users(self) -> Load:
        """Return users who ask one request after the other while a block runs."""
        return Load(self.url, clients=1, body=dict(BODY), headers={"Host": self.host})


@dataclass(frozen=True)
class Releases:
    """The releases of one model on a cluster."""

    settings: Settings
    cluster: Cluster
    model: str
    report: Report

    def first(self, gateway: Address | None, max_steps: int | None) -> None:
        """Run the whole DAG; without a Gateway, as far as the last work step: nobody would put a release in force."""
        params: dict[str, object] = {"note": "the first version"}
        run_id = self._trigger(params | ({"max_steps": max_steps} if max_steps else {}))
        if gateway is None:
            self._follow_steps(run_id)
            self.check_steps(run_id)
            self.report.skip("release, canary and served digest: no Gateway controller has accepted its GatewayClass")
            return
        state = follow(self.settings, self.model, run_id)
        receipts = self.check_steps(run_id)
        self.report.check(f"run {run_id} of the first version ends in success", state == "success")
        self._check_served(gateway, receipts)

    def second(self, gateway: Address, max_steps: int | None) -> None:
        """Run the DAG for a better trained version while users ask; they must notice nothing."""
        steps = max_steps or load_spec(self._spec_file).training.max_steps
        before = ledger.champion(self._ledger, self.model)
        params = {"seed": SECOND_SEED, "max_steps": round(steps * MORE_STEPS), "note": "the second, by canary"}
        with self._way(gateway).users() as users:
            run_id = self._trigger(params)
            state = follow(self.settings, self.model, run_id)
            self.report.check(f"run {run_id} of the second version ends in success", state == "success")
        receipts = self.check_steps(run_id)
        self._check_served(gateway, receipts)
        after = ledger.champion(self._ledger, self.model)
        told = f"; the first of {len(users.failures)}: {users.failures[0]}" if users.failures else ""
        self.report.check(f"none of {users.answers.total()} requests of users failed{told}", not users.failures)
        answered = [version and users.by(version.bento_version) for version in (before, after)]
        self.report.check(f"both versions answered users: {answered[0]} and {answered[1]} times", all(answered))
        self._check_evidence(run_id)
        self._check_alone()

    def check_steps(self, run_id: str) -> Mapping[str, Receipt]:
        """Check that every work step left its receipt, and that every byte of what these name is as it was written."""
        store = Store(self.settings.store_url())
        receipts = load_receipts(store, self.model, run_id)
        for step in WORK_STEPS:
            if step not in receipts:
                self.report.check(f"step {step} left its receipt", False)
                continue
            problem = _unsound(store, receipts[step])
            self.report.check(f"step {step} left its receipt, and what it made is sound{problem}", not problem)
        return receipts

    @property
    def _ledger(self) -> str:
        return self.settings.ledger_url()

    @property
    def _spec_file(self) -> Path:
        return self.settings.models_dir / f"{self.model.replace('-', '_')}.yaml"

    def _way(self, gateway: Address) -> Way:
        return Way(gateway, host(self.settings, self.model))

    def _trigger(self, params: Mapping[str, object]) -> str:
        run_id = trigger(self.settings, self.model, params)
        print(f"Run {run_id} of {self.model}", flush=True)
        return run_id

    def _follow_steps(self, run_id: str) -> None:
        """Show a run until its last work step has ended, or all of it."""
        store, api = Store(self.settings.store_url()), AirflowApi.of(self.settings)
        with choose_view(Console()) as view:
            run = FollowedRun(self.settings, api, self.model, run_id, view)

            def is_over() -> bool:
                with contextlib.suppress(AirflowAway):
                    if run.look() in FINAL:
                        return True
                return WORK_STEPS[-1] in load_receipts(store, self.model, run_id)

            comes_true(is_over, STEPS_SECONDS)

    def _check_served(self, gateway: Address, receipts: Mapping[str, Receipt]) -> None:
        champion = ledger.champion(self._ledger, self.model)
        if champion is None or "train" not in receipts:
            self.report.check("the ledger has a version in production", False)
            return
        made = str(receipts["train"].result["model"]["digest"])
        served = self._way(gateway).digest()
        is_so = made == champion.model.digest == served
        self.report.check(f"a user is answered by version {champion.number}, digest {served[:12] or 'none'}", is_so)

    def _check_evidence(self, run_id: str) -> None:
        rollout = ledger.find_rollout(self._ledger, self.model, run_id)
        num_users = rollout.state.evidence.totals["canary/user"][0] if rollout else 0
        self.report.check(f"the second version was promoted on {num_users} counted requests of users", num_users > 0)

    def _check_alone(self) -> None:
        """Check that the version before is stopped, and that no step's pod is left."""
        champion = ledger.champion(self._ledger, self.model)
        wanted = [champion.copy_name] if champion else []
        is_alone = comes_true(lambda: self._names(DEPLOYMENT, labels.SERVICE) == wanted, STOP_SECONDS)
        self.report.check("the version before is stopped", is_alone)
        is_clean = comes_true(lambda: not self._names(POD, labels.STEP), END_SECONDS)
        self.report.check("no pod of a step is left", is_clean)

    def _names(self, kind: Kind, component: str) -> list[str]:
        found = self.cluster.find(kind, {labels.MANAGED_BY: labels.SLIPWAY, labels.COMPONENT: component})
        return [str(body["metadata"]["name"]) for body in found]


def _unsound(store: Store, receipt: Receipt) -> str:
    """Return what is wrong with the artifacts of a step, or nothing."""
    try:
        for ref in references(receipt.result):
            artifacts.verify(store, ref)
    except SlipwayError as error:
        return f": {error}"
    return ""

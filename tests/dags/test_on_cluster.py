"""The whole lifecycle on a cluster: every work step in a pod by the real operator, the release by the real adapters.

Beside the first run the work steps run on this machine, too: laptop and cluster differ by settings only.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import pytest

from pipelines import labels, ledger
from pipelines.settings import Settings
from pipelines.step import WORK_STEPS, Receipt, references
from tests.airflow_case import Run
from tests.cluster.kinds import DEPLOYMENT, HTTP_ROUTE
from tests.dags.cluster_case import MODEL, STEPS, Installation, installed, work_locally
from tests.live_postgres import LivePostgres
from tests.live_s3 import LiveS3
from tests.steps.live import Load, wait_for

pytestmark = pytest.mark.needs("prometheus")

CONTROLLER = "slipway-controller"
RECORD = "training"
"""Kind of a training's record, which holds how fast it was; all else that steps make depends on nothing but inputs."""


@dataclass(frozen=True)
class Released:
    """What a run on the cluster left, and what the same spec left on this machine."""

    run: Run
    receipts: Mapping[str, Receipt]
    local: Mapping[str, Receipt]


@pytest.fixture(scope="module")
def installation(
    airflow_home: object, postgres: LivePostgres, s3: LiveS3, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Installation]:
    """Give the tests of this module one installation."""
    with installed(tmp_path_factory.mktemp("installation"), postgres, s3) as made:
        yield made


@pytest.fixture(scope="module")
def first(installation: Installation, tmp_path_factory: pytest.TempPathFactory) -> Released:
    """Release the model for the first time, and do its work on this machine meanwhile."""
    folder = tmp_path_factory.mktemp("laptop")
    laptop = Settings(platform="local", home=folder / "home", store=f"file://{folder / 'store'}")
    with ThreadPoolExecutor(1) as pool:
        local = pool.submit(work_locally, installation.settings.models_dir / f"{MODEL}.yaml", laptop)
        run, receipts = installation.run()
        return Released(run, receipts, local.result())


def digests(receipts: Mapping[str, Receipt]) -> dict[str, list[str]]:
    """Return the digests of what each work step made, but for the training's record."""
    made = {step: references(receipts[step].result) for step in WORK_STEPS}
    return {step: [ref.digest for ref in refs if ref.kind != RECORD] for step, refs in made.items()}


def copies(installation: Installation) -> list[str]:
    """Return the names of the copies on the cluster: all Deployments but the controller's."""
    names = [found["metadata"]["name"] for found in installation.cluster.list(DEPLOYMENT)]
    return [name for name in names if name != CONTROLLER]


def test_every_task_succeeds_at_its_first_try(first: Released) -> None:
    assert first.run.state == "success"
    assert {task for task, state in first.run.tasks.items() if state != "success"} == {"rollback"}
    assert {first.run.tries[task] for task in first.receipts} == {1}


def test_every_work_step_ran_in_a_pod_of_its_own_and_none_is_left(first: Released, installation: Installation) -> None:
    cluster = installation.cluster
    assert [row.resource for row in cluster.seen("create", "pods")] == ["pods"] * len(WORK_STEPS)
    wait_for(lambda: not cluster.pods(**{labels.COMPONENT: labels.STEP}), "the steps' pods are removed")


def test_the_databases_were_saved_before_the_release(first: Released) -> None:
    saved = first.receipts["backup"].result
    assert (saved["is_skipped"], saved["num_written"] > 0) == (False, True)


def test_who_asks_at_the_gateway_gets_the_version_that_the_ledger_names(
    first: Released, installation: Installation
) -> None:
    champion, answer = installation.champion(), installation.ask()
    assert champion.model.digest == first.receipts["train"].result["model"]["digest"]
    assert (answer.status_code, answer.headers["X-Slipway-Digest"]) == (200, champion.model.digest)
    assert answer.json()["choices"][0]["text"] is not None
    assert copies(installation) == [champion.copy_name]
    assert len(installation.cluster.list(HTTP_ROUTE)) == 1


def test_the_controller_is_a_pod_that_was_never_started_again(first: Released, installation: Installation) -> None:
    (pod,) = installation.cluster.pods(**{labels.COMPONENT: labels.CONTROLLER})
    (container,) = pod["status"]["containerStatuses"]
    assert (container["ready"], container["restartCount"]) == (True, 0)


def test_laptop_and_cluster_make_the_same_bytes(first: Released) -> None:
    assert not any(first.local[step].reused or first.receipts[step].reused for step in WORK_STEPS)
    assert all(digests(first.local).values())
    assert digests(first.local) == digests(first.receipts)


@pytest.mark.slow
def test_a_second_version_replaces_the_first_while_users_ask(first: Released, installation: Installation) -> None:
    before = installation.champion()
    with Load(
        f"{installation.url}/v1/completions",
        clients=1,
        body={"prompt": "Return the", "max_tokens": 2},
        headers={"Host": MODEL},
    ) as load:
        run, receipts = installation.run(max_steps=STEPS + 20)
        after = installation.champion()
        wait_for(lambda: load.by(version_of(after)) > 20, "answers of the second version")
    assert (run.state, load.failures) == ("success", [])
    assert (before.number, after.number) == (1, 2)
    assert load.by(version_of(before)) > 0
    assert installation.ask().headers["X-Slipway-Digest"] == after.model.digest
    ours, theirs = digests(receipts), digests(first.local)
    assert {step for step in WORK_STEPS if ours[step] == theirs[step]} == {"validate", "prepare"}
    rollout = ledger.find_rollout(installation.settings.ledger_url(), MODEL, run.id)
    assert rollout is not None
    assert rollout.state.evidence.totals["canary/user"][0] > 0
    wait_for(lambda: copies(installation) == [after.copy_name], "the first version is stopped", seconds=60)


def version_of(version: ledger.Version) -> str:
    """Return how a version names itself in its answers."""
    return version.tag.partition(":")[2]

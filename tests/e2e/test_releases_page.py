"""In a real browser: a person watches a rollout, is asked once, aborts it; and returns to a version by a form."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from playwright.sync_api import FrameLocator, Page, expect

from pipelines import ledger
from pipelines.ledger import Outcome, Rollout
from pipelines.stack import airflow
from tests.e2e import test_ui
from tests.e2e.conftest import RUN_SECONDS, LocalStack, wait_for
from tests.load.demo import users

RULES = {
    "look_seconds": 1,
    "shadow_seconds": 3,
    "bake_seconds": 12,
    "bake_full_seconds": 2,
    "min_user_exposures": 5,
    "max_bad_rate": 0.05,
    "quality": {"enabled": False},
    "replay": {"requests_per_second": 10},
}
"""Quick to the last weight."""

ASKING = {**RULES, "approval": {"before_promotion": True}}
"""The same, and there it waits for a person."""

pytestmark = [
    pytest.mark.slow,
    pytest.mark.needs("chromium"),
    pytest.mark.timeout(1200),
]  # three releases, on a busy machine too
page = test_ui.page


def write_spec(stack: LocalStack, rules: dict[str, Any]) -> Path:
    path = stack.settings.models_dir / "watched.yaml"
    spec = yaml.safe_load((stack.settings.models_dir / "tiny.yaml").read_text())
    path.write_text(yaml.safe_dump({**spec, "rollout": rules}))
    return path


@pytest.fixture(scope="module")
def champion(stack: LocalStack) -> int:
    """Release a model of this module's own; return the number of the version that serves."""
    done = stack.run("run", "--spec", str(write_spec(stack, RULES)), timeout=RUN_SECONDS)
    assert done.returncode == 0, done.stdout
    return served(stack)


@pytest.fixture(scope="module")
def rollout(stack: LocalStack, champion: int, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Rollout]:
    """Send a second version out to users; yield its rollout when it waits for a person."""
    url = stack.settings.ledger_url()
    service = ledger.read_service(url, "watched")
    assert service is not None

    def is_waiting() -> bool:
        snapshot = ledger.snapshot(url, "watched")
        running = None if snapshot is None else snapshot.rollout
        return running is not None and running.state.step == 2 and running.state.hold_reason.startswith("waiting for a")

    write_spec(stack, ASKING)
    with users(f"http://127.0.0.1:{service.port}", tmp_path_factory.mktemp("users") / "requests.jsonl", rate=10.0):
        trigger = stack.start("trigger", "watched", "--seed", "7")
        try:
            wait_for(is_waiting, RUN_SECONDS, "a rollout at its last weight")
            (found,) = ledger.list_rollouts(url, "watched", 1)
            yield found
        finally:
            trigger.kill()
            trigger.communicate()


def open_page(stack: LocalStack, page: Page) -> FrameLocator:
    """Find the page as a person does: by Airflow's menu."""
    expect.set_options(timeout=60_000)
    page.goto(airflow.base_url(stack.settings))
    page.get_by_role("link", name="Releases").click()
    frame = page.frame_locator('iframe[title="Releases"]')
    expect(frame.locator("#state")).to_have_text("live")
    return frame


def test_a_rollout_is_watched_and_aborted(stack: LocalStack, page: Page, champion: int, rollout: Rollout) -> None:
    url, problems = stack.settings.ledger_url(), []
    page.on("pageerror", lambda error: problems.append(str(error)))
    page.on("console", lambda told: problems.append(told.text) if "Content Security Policy" in told.text else None)
    page.set_viewport_size({"width": 1400, "height": 900})
    frame = open_page(stack, page)
    watched = frame.locator("#service-watched")
    expect(watched.get_by_text(f"version {champion}", exact=True)).to_be_visible()
    expect(watched.get_by_text(f"Running: rollout {rollout.id}")).to_be_visible()
    expect(watched.get_by_text("waiting for a person's approval").first).to_be_visible()
    expect(watched.locator("polyline.against")).to_be_visible()
    test_ui.keep(page, "releases.png")

    watched.get_by_role("button", name="Abort").click()
    expect(frame.get_by_role("dialog")).to_contain_text(f"Abort rollout {rollout.id} of watched?")
    expect(frame.get_by_role("dialog")).to_contain_text(f"All users are with version {champion} at once.")
    frame.get_by_role("button", name="Leave it").click()
    expect(frame.get_by_role("dialog")).to_be_hidden()
    assert ledger.read_rollout(url, rollout.id).state.outcome is Outcome.NONE

    watched.get_by_role("button", name="Abort").click()
    frame.get_by_role("button", name="Abort the rollout").click()
    expect(frame.locator("#answer")).to_contain_text("Ordered.")
    expect(watched.get_by_text(f"Last rollout: rollout {rollout.id}")).to_be_visible(timeout=180_000)
    expect(watched.locator(".card").get_by_text(f"aborted by {airflow.USER}")).to_be_visible()
    assert ledger.read_rollout(url, rollout.id).state.outcome is Outcome.ABORTED
    assert served(stack) == champion
    assert problems == []

    frame.get_by_role("link", name="See its run.").click()
    page.wait_for_url("**/dags/rollback/runs/manual__*")
    expect(page.get_by_text("rollback").first).to_be_visible()


def test_a_report_opens_beside_the_page(stack: LocalStack, page: Page, champion: int) -> None:
    frame = open_page(stack, page)
    with page.context.expect_page() as opened:
        frame.locator("#service-watched").get_by_role("link", name="report").first.click()
    expect(opened.value.get_by_role("heading", name="watched: evaluation")).to_be_visible()


def test_it_follows_airflows_theme(stack: LocalStack, page: Page, champion: int) -> None:
    frame = open_page(stack, page)
    expect(frame.locator("html")).to_have_attribute("data-theme", "light")
    page.evaluate("document.documentElement.classList.add('dark')")
    expect(frame.locator("html")).to_have_attribute("data-theme", "dark")
    page.set_viewport_size({"width": 1400, "height": 900})
    test_ui.keep(page, "releases-dark.png")


@pytest.fixture(scope="module")
def replaced(stack: LocalStack, champion: int) -> int:
    """Replace the version of this module's model; return the number of the one that served before."""
    spec = write_spec(stack, {**RULES, "min_user_exposures": 0})
    done = stack.run("run", "--spec", str(spec), "--seed", "9", timeout=RUN_SECONDS)
    assert done.returncode == 0, done.stdout
    assert served(stack) != champion
    return champion


def served(stack: LocalStack) -> int:
    """Return the number of the version in production."""
    serving = ledger.champion(stack.settings.ledger_url(), "watched")
    assert serving is not None
    return serving.number


def test_a_version_is_picked_from_the_form_and_serves_again(stack: LocalStack, page: Page, replaced: int) -> None:
    expect.set_options(timeout=60_000)
    page.set_viewport_size({"width": 1400, "height": 900})
    backups = page.get_by_role("option", name=re.compile(r"^backup .* · watched"))

    def is_offered() -> bool:
        """Open the form anew: it offers what was there when Airflow last read the DAG."""
        page.goto(f"{airflow.base_url(stack.settings)}/dags/rollback")
        page.click('[aria-label="Trigger Dag"]')
        expect(page.get_by_text("Return to").first).to_be_visible()
        if (choice := page.get_by_role("combobox").first).count() == 0:
            return False  # it is a list only where there is something to choose
        choice.click()
        expect(page.get_by_role("option").first).to_be_visible()
        return backups.count() > 0

    wait_for(is_offered, 180, "a backup of the model is offered")
    test_ui.keep(page, "rollback-form.png")
    page.get_by_role("option", name=re.compile(rf"^watched {replaced} · in production from")).click()
    page.get_by_role("button", name="Trigger", exact=True).last.click()

    wait_for(lambda: served(stack) == replaced, RUN_SECONDS, f"version {replaced} in production")

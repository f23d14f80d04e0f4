"""What a data scientist sees in Airflow's UI: the lifecycle in ten seconds, and a typed form behind Trigger."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Page, expect, sync_playwright

from pipelines.stack import airflow
from pipelines.stack.layout import Layout
from tests.e2e.conftest import LocalStack

PICTURES = "SLIPWAY_PICTURES"
"""Folder for screenshots; unset: none are kept."""

pytestmark = pytest.mark.needs("chromium")


@pytest.fixture
def page(stack: LocalStack) -> Iterator[Page]:
    """Return a browser's page, logged in."""
    arguments = ["--no-sandbox", "--disable-gpu", "--disable-background-networking", "--no-first-run", "--disable-sync"]
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path="/usr/bin/chromium", args=arguments)
        opened = browser.new_page(viewport={"width": 1500, "height": 640})
        opened.set_default_timeout(60_000)
        opened.goto(airflow.base_url(stack.settings))
        opened.fill('input[name="username"]', airflow.USER)
        opened.fill('input[name="password"]', airflow.Secrets.load(Layout.of(stack.settings)).password)
        opened.keyboard.press("Enter")
        opened.wait_for_url(lambda url: "login" not in url)
        yield opened
        browser.close()


def keep(page: Page, name: str) -> None:
    """Keep a screenshot where somebody asked for it."""
    if folder := os.environ.get(PICTURES):
        page.screenshot(path=str(Path(folder) / name))


def test_the_graph_shows_the_lifecycle(stack: LocalStack, page: Page) -> None:
    page.goto(f"{airflow.base_url(stack.settings)}/dags/lifecycle_tiny")
    page.click('[aria-label^="Show Graph"]')
    page.click('[aria-label="Expand all task groups"]')
    for task in ("freeze", "validate", "prepare", "train", "evaluate", "package", "stage", "smoke", "promote"):
        expect(page.locator(".react-flow__node", has_text=task).first).to_be_visible(timeout=60_000)
    for task in ("record", "rollback"):
        expect(page.locator(".react-flow__node", has_text=task).first).to_be_visible(timeout=60_000)
    page.click('[aria-label="Collapse Details Panel"]')
    page.add_style_tag(content=".react-flow__minimap { display: none }")
    page.click(".react-flow__controls-fitview")
    keep(page, "airflow-dag.png")


def test_trigger_opens_a_typed_form(stack: LocalStack, page: Page) -> None:
    page.goto(f"{airflow.base_url(stack.settings)}/dags/lifecycle_tiny")
    page.click('[aria-label="Trigger Dag"]')
    for title in ("Training steps", "Data source", "Steps to run again", "Note"):
        expect(page.get_by_text(title).first).to_be_visible(timeout=60_000)
    expect(page.get_by_role("button", name="Trigger", exact=True).last).to_be_enabled()  # nothing needs to be filled in
    keep(page, "airflow-trigger.png")

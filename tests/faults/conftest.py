"""Faults of tasks, inside a real Airflow, and of releases with real parts."""

from __future__ import annotations

import pytest

from tests.airflow_case import airflow_home, lifecycle
from tests.faults.endings import table
from tests.faults.release_case import controller, stage
from tests.faults.s3_case import envoy, line, no_pauses
from tests.steps.conftest import s3_environment

__all__ = ["airflow_home", "controller", "envoy", "lifecycle", "line", "no_pauses", "s3_environment", "stage"]


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Say how the schedules of failures on a cluster ended."""
    reports = [*terminalreporter.getreports("passed"), *terminalreporter.getreports("failed")]
    rows = table(dict(report.user_properties) for report in reports)
    if rows:
        terminalreporter.section("schedules of failures on a cluster")
    for row in rows:
        terminalreporter.line(row)

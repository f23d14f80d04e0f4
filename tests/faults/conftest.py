"""Faults of tasks, inside a real Airflow, and of releases with real parts."""

from __future__ import annotations

from tests.airflow_case import airflow_home, lifecycle
from tests.faults.release_case import controller, stage
from tests.faults.s3_case import envoy, line, no_pauses
from tests.steps.conftest import s3, s3_environment

__all__ = ["airflow_home", "controller", "envoy", "lifecycle", "line", "no_pauses", "s3", "s3_environment", "stage"]

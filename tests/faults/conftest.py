"""Faults of tasks, inside a real Airflow."""

from __future__ import annotations

from tests.airflow_case import airflow_home, lifecycle

__all__ = ["airflow_home", "lifecycle"]

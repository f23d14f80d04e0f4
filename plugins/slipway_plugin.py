"""The one file that Airflow's plugin loader executes: registers Slipway's listeners."""

from __future__ import annotations

from airflow.plugins_manager import AirflowPlugin

from slipway import listener


class SlipwayPlugin(AirflowPlugin):
    """Slipway in Airflow."""

    name = "slipway"
    listeners = [listener]  # noqa: RUF012 - Airflow's own shape

"""Slipway in Airflow: translates between Airflow's words and those of `pipelines`, and decides nothing."""

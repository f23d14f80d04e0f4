"""Slipway's lifecycle: everything that decides or acts, without Airflow."""

"""The page "Releases" in Airflow's UI."""

"""One DAG for each model spec that starts on new objects: it waits for them, and starts the lifecycle."""

from __future__ import annotations

from airflow.sdk import DAG

from slipway.arrivals import PURPOSE, arrival_arguments, start_lifecycle, wait_for_objects
from slipway.specs import listed_specs

for listed in listed_specs(PURPOSE):
    if listed.spec.start_on:
        with DAG(**arrival_arguments(listed)):
            wait_for_objects(listed) >> start_lifecycle(listed)

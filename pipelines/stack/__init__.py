"""The local stack: Postgres, Envoy, the controller and Airflow under one supervisor, on 127.0.0.1 only."""

from pipelines.stack.status import status
from pipelines.stack.trigger import trigger_and_follow
from pipelines.stack.updown import down, up

__all__ = ["down", "status", "trigger_and_follow", "up"]

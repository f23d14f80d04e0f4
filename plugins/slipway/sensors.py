"""Wait for objects on S3 that are newer than those that started a run."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from airflow.providers.amazon.aws.sensors.s3 import S3KeySensor
from airflow.sdk import Context

from slipway.arrivals import RUN_ID


class NewObjectsSensor(S3KeySensor):
    """Succeed when there are objects of which no run is named; leave the name of that run as XCom."""

    template_fields: Sequence[str] = ()  # the spec's URL is data

    def __init__(self, *, lifecycle: str, **kwargs: Any) -> None:
        """Take the DAG whose runs are named after objects, beside the arguments of the provider's sensor."""
        super().__init__(
            wildcard_match=True,
            deferrable=True,
            metadata_keys=["Key", "LastModified", "ETag"],
            check_fn=self._are_new,
            **kwargs,
        )
        self.lifecycle = lifecycle

    def _are_new(self, files: Sequence[Mapping[str, Any]], **context: Any) -> bool:
        task: Context = context  # type: ignore[assignment]  # as the provider passes it
        run_id = run_id_of(files)
        if task["ti"].get_dr_count(dag_id=self.lifecycle, run_ids=[run_id]):
            return False
        self.log.info("new objects: %s of %s", run_id, self.lifecycle)
        task["ti"].xcom_push(key=RUN_ID, value=run_id)
        return True


def run_id_of(files: Sequence[Mapping[str, Any]]) -> str:
    """Return the id of the run that objects start: when the newest came, and which came then.

    That objects are removed makes nothing new, and S3 tells times in seconds.
    """
    times = [_moment(file["LastModified"]) for file in files]
    newest = max(times)
    names = sorted(f"{file['Key']} {file['ETag']}" for file, time in zip(files, times, strict=True) if time == newest)
    return f"objects__{newest:%Y-%m-%dT%H:%M:%S}__{hashlib.sha256(repr(names).encode()).hexdigest()[:8]}"


def _moment(told: datetime | str) -> datetime:
    """Return a time as it came from S3, or through the triggerer, in UTC."""
    return (told if isinstance(told, datetime) else datetime.fromisoformat(told)).astimezone(UTC)

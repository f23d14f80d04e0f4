"""The record of a finished training: what people look at, and what it takes to do it again."""

from __future__ import annotations

from pathlib import Path

from pydantic import ValidationError

from pipelines.artifacts import ArtifactRef, canonical_json, read_file
from pipelines.errors import ArtifactMissing
from pipelines.formats.records import TRAINING_REPORT_FILE
from pipelines.store import Store
from pipelines.training.determinism import Determinism
from pipelines.training.files import parse_lines
from pipelines.training.job import TrainingJob
from pipelines.training.metrics import Reading, write_tensorboard
from pipelines.training.report import Report, render

METRICS_FILE = "metrics.jsonl"
EVENTS_FILE = "events.jsonl"
DETERMINISM_FILE = "determinism.json"


def write_record(folder: Path, job: TrainingJob, report: Report) -> Path:
    """Lay out metrics, events, TensorBoard events, the determinism receipt and the report; return the folder."""
    folder.mkdir()
    (folder / METRICS_FILE).write_bytes(job.metrics_file.read_bytes())
    if job.events_file.is_file():
        (folder / EVENTS_FILE).write_bytes(job.events_file.read_bytes())
    write_tensorboard(report.readings, folder / "tensorboard")
    (folder / DETERMINISM_FILE).write_bytes(canonical_json(report.determinism.model_dump(mode="json")))
    (folder / TRAINING_REPORT_FILE).write_text(render(report), encoding="utf-8")
    return folder


def read_determinism(store: Store, record: ArtifactRef) -> Determinism:
    """Return the determinism receipt of a training.

    Raises:
        ArtifactMissing: when the record has none: it is of an earlier version of Slipway.
        ArtifactCorrupt: when its bytes differ from the manifest.
    """
    try:
        return Determinism.model_validate_json(read_file(store, record, DETERMINISM_FILE))
    except ValidationError as error:
        raise ArtifactMissing(f"artifact {record.uri}: {DETERMINISM_FILE} is not a determinism receipt") from error


def read_readings(store: Store, record: ArtifactRef) -> list[Reading]:
    """Return the readings of a training.

    Raises:
        ArtifactMissing: when the record has none.
        ArtifactCorrupt: when its bytes differ from the manifest.
    """
    return [*parse_lines(read_file(store, record, METRICS_FILE).decode().splitlines(), Reading)]

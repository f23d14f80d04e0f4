"""What a training's processes are told: one JSON file, read by every rank."""

from __future__ import annotations

from pathlib import Path
from typing import Self

from pipelines.spec import ArchitectureConfig, Frozen, TrainingConfig
from pipelines.training.nodes import Place


class TrainingJob(Frozen):
    """One training, as one of its machines sees it."""

    architecture: ArchitectureConfig
    training: TrainingConfig
    tokens: Path
    """Folder of token shards."""

    tokenizer: Path
    """Folder of the tokenizer."""

    start: Path | None = None
    """Folder of the weights to start from; None: from scratch."""

    workspace: Path
    """Folder of this try; nothing in it outlives the step."""

    store_url: str
    checkpoints: str
    """Folder in the store for this training's checkpoints."""

    model: str = ""
    """Name of the model, for those who watch several; empty: nobody watches."""

    tensorboard: str = ""
    """Folder in the store for TensorBoard events while this training runs; empty: none."""

    read_every_steps: int | None = None
    """Steps between two readings; None: as the loop sees fit."""

    place: Place = Place()
    """This machine among those of the training."""

    @property
    def file(self) -> Path:
        """This job as JSON."""
        return self.workspace / "job.json"

    @property
    def model_folder(self) -> Path:
        """Where rank 0 leaves the model in Hugging Face format."""
        return self.workspace / "model"

    @property
    def adapter_folder(self) -> Path:
        """Where rank 0 leaves the adapter, when one was trained."""
        return self.workspace / "adapter"

    @property
    def metrics_file(self) -> Path:
        """Where rank 0 writes one JSON line per reading."""
        return self.workspace / "metrics.jsonl"

    @property
    def resumption_file(self) -> Path:
        """Where rank 0 says from which checkpoint it went on."""
        return self.workspace / "resumption.json"

    @property
    def failures_folder(self) -> Path:
        """Where a rank that knows why it fails says so."""
        return self.workspace / "failures"

    @property
    def records_folder(self) -> Path:
        """Where each rank says, at its end, what it computed with."""
        return self.workspace / "records"

    @property
    def heartbeats_folder(self) -> Path:
        """Where each rank of this machine shows that it lives."""
        return self.workspace / "heartbeats"

    @property
    def stacks_folder(self) -> Path:
        """Where each rank of this machine writes its stack when it is asked."""
        return self.workspace / "stacks"

    @property
    def incidents_file(self) -> Path:
        """Where rank 0 writes one JSON line per loss or gradient that was out of order."""
        return self.workspace / "incidents.jsonl"

    @property
    def events_file(self) -> Path:
        """Everything that befell this try, one JSON line each."""
        return self.workspace / "events.jsonl"

    @property
    def stop_file(self) -> Path:
        """What is there when the ranks are to save what they have done, and end."""
        return self.workspace / "stop"

    @property
    def logs_folder(self) -> Path:
        """One file per rank."""
        return self.workspace / "logs"

    def at(self, place: Place) -> Self:
        """Return this job at a place."""
        return self.model_copy(update={"place": place})

    def save(self) -> None:
        """Write the job to its file and make the folders that it names."""
        for folder in (
            self.workspace, self.failures_folder, self.heartbeats_folder, self.logs_folder, self.stacks_folder
        ):  # fmt: skip
            folder.mkdir(parents=True, exist_ok=True)
        self.stop_file.unlink(missing_ok=True)
        self.file.write_text(self.model_dump_json(indent=1), encoding="utf-8")

    @classmethod
    def load(cls, file: Path) -> Self:
        """Read a job."""
        return cls.model_validate_json(file.read_bytes())


class Resumption(Frozen):
    """Where a training went on."""

    step: int
    """Optimizer steps that were done already."""

    damages: tuple[str, ...] = ()
    """What was wrong with each newer checkpoint."""

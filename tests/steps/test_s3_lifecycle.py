"""The work steps with nothing on this machine: the source in one bucket, the whole store in another."""

from __future__ import annotations

import io
import json
import logging
import os
import random
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import fsspec
import psutil
import pytest
import yaml

from pipelines import artifacts, step
from pipelines.errors import DataRejected
from pipelines.lifecycle import WIRING, inputs_of
from pipelines.runner import Ending, StepFailed, WorkStep
from pipelines.settings import Settings
from pipelines.step import Receipt, RunInfo
from pipelines.store import Store
from tests.live_s3 import KEY_ID, SECRETS, LiveS3
from tests.training_case import processes_below, wait_for

pytestmark = pytest.mark.slow

MODEL = "far-away"
MAX_STEPS, CHECKPOINT_EVERY = 120, 10
WORDS = "return raise open file path value name object iterator yields error module call list key index read write"

SPEC: dict[str, Any] = {
    "data": {"suite": [{"type": "expect_column_values_to_not_be_null", "kwargs": {"column": "text"}}]},
    "preparation": {"near_duplicate_threshold": 1, "tokenizer": {"vocabulary_size": 320}, "validation_fraction": 0.2},
    "architecture": {
        "hidden_size": 16, "intermediate_size": 32, "num_layers": 2, "num_heads": 2, "num_key_value_heads": 2,
        "context_length": 64,
    },
    "training": {
        "batch_size": 6, "sequence_length": 32, "max_steps": MAX_STEPS, "warmup_steps": 2,
        "checkpoint_every_steps": CHECKPOINT_EVERY,
    },
    "evaluation": {"max_perplexity_ratio": 10.0, "sample_prompts": ["return"], "sample_tokens": 4},
    "packaging": {"num_golden_requests": 2},
    "service": {"max_tokens": 16},
}  # fmt: skip


def documents(first: int, last: int) -> bytes:
    """Return documents as JSON lines; equal numbers are equal documents."""
    rows = []
    for number in range(first, last):
        chosen = random.Random(number).choices(WORDS.split(), k=40)  # noqa: S311 - text, not a secret
        rows.append(json.dumps({"id": str(number), "text": " ".join(chosen)}) + "\n")
    return "".join(rows).encode()


@dataclass
class Story:
    """One model from its source to its bento, told by what was left behind."""

    s3: LiveS3
    source_bucket: str
    store_bucket: str
    settings: Settings
    spec_uri: str
    receipts: dict[str, Receipt] = field(default_factory=dict)
    output: io.StringIO = field(default_factory=io.StringIO)
    """What the steps logged and printed."""

    saved_before_the_kill: int = 0

    @property
    def store(self) -> Store:
        """The store, as a step opens it."""
        return Store(self.settings.store_url())

    def inputs(self, name: str) -> Mapping[str, Any]:
        """Return what the steps before give to a step."""
        return {} if name == "freeze" else inputs_of(name, self.receipts, lambda: None)

    def execute(self, name: str, run_id: str = "r1") -> Receipt:
        """Execute a step in this process."""
        info = RunInfo(model=MODEL, run_id=run_id, task_id=name)
        step.write_inputs(self.store, info, self.inputs(name))
        return step.execute(
            name,
            spec_uri=self.spec_uri,
            inputs_uri=info.inputs_uri,
            result_uri=info.receipt_uri,
            settings=self.settings,
        )

    def train(self, try_number: int = 1, *, run_id: str = "r1", force: bool = False) -> Receipt:
        """Train in a process of its own, as the operator starts it."""
        info = RunInfo(model=MODEL, run_id=run_id, task_id="train", try_number=try_number, force=force)
        work = WorkStep("train", self.spec_uri, info, self.settings)
        return work.run(self.inputs("train"), lambda line: self.output.write(f"{line}\n"))

    def kill_a_training(self) -> None:
        """Begin to train, and end the step's process without notice after its first checkpoint."""
        with ThreadPoolExecutor(1) as pool:
            training = pool.submit(self.train)
            self.saved_before_the_kill = wait_for(lambda: max(self._checkpoint_steps(), default=0), "a checkpoint")
            (process,) = processes_below(os.getpid(), "pipelines")
            family = process.children(recursive=True)
            process.kill()
            with pytest.raises(StepFailed) as ended:
                training.result()
        assert ended.value.ending is Ending.INTERRUPTED
        assert psutil.wait_procs(family, timeout=30)[1] == []

    def _checkpoint_steps(self) -> list[int]:
        paths = [path.split("/") for path in self.store.list("checkpoints")]
        return [int(folder.removeprefix("step-")) for *_, folder, name in paths if name == "manifest.json"]


@pytest.fixture(scope="module")
def story(s3: LiveS3, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Story]:
    """Do the work steps as far as a trained model; the training is killed on its way and tried again."""
    folder = tmp_path_factory.mktemp("s3")
    source, store = s3.make_bucket(), s3.make_bucket()
    s3.put(source, "docs/part-0.jsonl", documents(0, 100))
    s3.put(source, "docs/more/part-1.jsonl", documents(100, 200))
    spec = {**SPEC, "data": {**SPEC["data"], "source": {"kind": "jsonl", "uri": f"s3://{source}/docs"}}}
    file = folder / f"{MODEL.replace('-', '_')}.yaml"
    file.write_text(yaml.safe_dump(spec), encoding="utf-8")
    settings = Settings(home=folder / "home", store=f"s3://{store}/slipway")
    told = Story(s3, source, store, settings, spec_uri=str(file))
    log = logging.StreamHandler(told.output)
    with pytest.MonkeyPatch.context() as patch:
        for name, value in s3.environment.items():
            patch.setenv(name, value)
        fsspec.filesystem("s3").clear_instance_cache()
        logging.getLogger().addHandler(log)
        told.receipts["freeze"] = told.execute("freeze")
        told.spec_uri = artifacts.ArtifactRef.model_validate(told.receipts["freeze"].result["spec"]).uri
        told.receipts["validate"] = told.execute("validate")
        told.receipts["prepare"] = told.execute("prepare")
        told.kill_a_training()
        told.receipts["train"] = told.train(try_number=2)
        yield told
        logging.getLogger().removeHandler(log)


@pytest.fixture(scope="module")
def whole_story(story: Story) -> Story:
    """Do the work steps after the training, too."""
    for name in ("evaluate", "package"):
        story.receipts[name] = story.execute(name)
    return story


def check_work(story: Story) -> None:
    """Check that every step left a receipt and sound artifacts in the bucket, and none of it on this machine."""
    for name, receipt in story.receipts.items():
        assert receipt.reused is False
        refs = list(step.references(receipt.result))
        assert refs, name
        for ref in refs:
            artifacts.verify(story.store, ref)
    assert not (story.settings.resolved_home() / "store").exists()
    assert story.store.list("leases") == []


def test_data_and_training_leave_sound_work_in_the_bucket_and_none_on_this_machine(story: Story) -> None:
    assert {"freeze", "validate", "prepare", "train"} <= set(story.receipts)
    assert story.receipts["validate"].result["num_rows"] == 200
    check_work(story)


def test_a_training_goes_on_from_a_checkpoint_in_the_bucket_with_the_same_bits(story: Story) -> None:
    resumed = story.receipts["train"].result
    assert CHECKPOINT_EVERY <= story.saved_before_the_kill <= resumed["resumed_from_step"] < MAX_STEPS
    unbroken = story.train(run_id="r2", force=True).result
    assert unbroken["resumed_from_step"] == 0
    assert unbroken["model"] == resumed["model"]


def test_a_source_that_changes_after_validation_stops_the_run(story: Story) -> None:
    key = "docs/smuggled.jsonl"
    story.s3.put(story.source_bucket, key, documents(900, 901))
    try:
        with pytest.raises(DataRejected, match=f"s3://{story.source_bucket}/docs changed after it was validated"):
            story.execute("prepare", run_id="r4")
    finally:
        story.s3.client.delete_object(Bucket=story.source_bucket, Key=key)


def places_with_credentials(story: Story) -> list[str]:
    """Return every object, file and log that holds what opens the buckets."""
    places = {f"s3 {key}": data for key, data in story.s3.objects(story.store_bucket).items()}
    places["the log"] = story.output.getvalue().encode()
    files = [path for path in Path(story.settings.resolved_home()).rglob("*") if path.is_file()]
    places |= {str(path): path.read_bytes() for path in files}
    return [place for place, data in places.items() if any(word.encode() in data for word in (KEY_ID, *SECRETS))]


def test_no_credential_is_in_store_home_or_log(story: Story) -> None:
    assert "going on after step" in story.output.getvalue()
    assert places_with_credentials(story) == []


def test_the_search_finds_credentials_that_are_there(story: Story) -> None:
    planted = [f"planted/{number}" for number, _ in enumerate((KEY_ID, *SECRETS))]
    for path, word in zip(planted, (KEY_ID, *SECRETS), strict=True):
        story.store.put(path, f"a {word} b".encode())
    try:
        assert places_with_credentials(story) == [f"s3 slipway/{path}" for path in planted]
    finally:
        for path in planted:
            story.store.delete(path)


def test_evaluation_and_package_leave_sound_work_in_the_bucket_without_a_credential(whole_story: Story) -> None:
    assert list(whole_story.receipts) == ["freeze", *WIRING]
    check_work(whole_story)
    assert any(key.endswith("provenance.json") for key in whole_story.s3.objects(whole_story.store_bucket))
    assert places_with_credentials(whole_story) == []


def test_a_second_run_finds_the_finished_work(whole_story: Story) -> None:
    for name in ("validate", "prepare", "evaluate", "package"):
        again = whole_story.execute(name, run_id="r3")
        assert again.reused_from == "r1"
        assert again.result == whole_story.receipts[name].result

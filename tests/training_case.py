"""A tiny training, ready to run: a store with tokens, tokenizer and frozen spec, and the command that trains."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import psutil

from pipelines import artifacts
from pipelines.data.sources import fingerprint
from pipelines.formats.shards import EncodedDocument, write_shards
from pipelines.process import allowed_environment
from pipelines.settings import REPOSITORY
from pipelines.spec import ModelSpec, parse_spec
from pipelines.step import Receipt, RunInfo, command, read_receipt, write_inputs
from pipelines.store import Store

TEXTS = (
    "Return the value of the named attribute of an object. ",
    "Raise an exception if the file does not exist; otherwise open it for reading. ",
    "The quick brown fox jumps over the lazy dog while the iterator yields numbers 0123456789. ",
)
VOCABULARY_SIZE = 320
DEADLINE_SECONDS = 300.0

Found = TypeVar("Found")


@dataclass(frozen=True)
class TrainingCase:
    """One home with everything that the train step reads."""

    home: Path
    store: Store
    spec: ModelSpec
    spec_uri: str
    source_file: Path
    inputs: Mapping[str, Any]

    def info(self, run_id: str = "r1", try_number: int = 1, *, force: bool = False) -> RunInfo:
        """Name a try."""
        return RunInfo(model=self.spec.name, run_id=run_id, task_id="train", try_number=try_number, force=force)

    @contextlib.contextmanager
    def started(self, info: RunInfo) -> Iterator[subprocess.Popen[str]]:
        """Start the step with the arguments and the environment that an operator gives it; end it with the block."""
        write_inputs(self.store, info, self.inputs)
        with subprocess.Popen(
            [sys.executable, *command("train", self.spec_uri, info)],
            cwd=REPOSITORY,
            env={**allowed_environment(os.environ), "SLIPWAY_HOME": str(self.home), "SLIPWAY_STORE": self.store.url},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        ) as step:
            try:
                yield step
            finally:
                step.kill()

    def run(self, info: RunInfo) -> tuple[int, str]:
        """Run the step to its end; return its exit status and everything that it printed."""
        with self.started(info) as step:
            output, _ = step.communicate(timeout=DEADLINE_SECONDS)
        return step.returncode, output

    def receipt(self, info: RunInfo) -> Receipt:
        """Return what a try left."""
        return read_receipt(self.store, info.receipt_uri)

    def checkpoint_steps(self) -> list[int]:
        """Return the steps of all complete checkpoints."""
        paths = [path.split("/") for path in self.store.list("checkpoints")]
        return sorted(int(folder.removeprefix("step-")) for *_, folder, name in paths if name == "manifest.json")

    def artifact(self, name: str) -> Path:
        """Return the folder of an input."""
        ref = self.inputs[name]
        return self.store.local_path(f"artifacts/{ref['kind']}/{ref['digest']}") or Path()

    def weights(self, receipt: Receipt) -> bytes:
        """Return the bytes of a published model's weights."""
        return self.store.read(f"artifacts/model/{receipt.result['model']['digest']}/model.safetensors") or b""


def make_case(
    folder: Path, *, store_url: str = "", architecture: Mapping[str, Any] | None = None, **training: Any
) -> TrainingCase:
    """Lay out a home below `folder` for a model of two tiny layers; `training` are the spec's keys."""
    home = folder / "home"
    store = Store(store_url or f"file://{home / 'store'}")
    source_file = folder / "corpus.jsonl"
    source_file.write_text("".join(json.dumps({"id": str(n), "text": text}) + "\n" for n, text in enumerate(TEXTS)))
    spec = parse_spec(
        {
            "name": "tiny",
            "data": {"source": {"kind": "jsonl", "uri": str(source_file)}},
            "architecture": {
                "hidden_size": 16, "intermediate_size": 32, "num_layers": 2, "num_heads": 2, "num_key_value_heads": 2,
                "context_length": 64, **(architecture or {}),
            },
            "service": {"max_tokens": 32},
            "training": {
                "batch_size": 6, "sequence_length": 16, "max_steps": 12, "warmup_steps": 2, "checkpoint_every_steps": 4,
                **training,
            },
        }
    )  # fmt: skip
    tokenizer, tokens = _write_tokenizer(folder / "tokenizer"), _write_tokens(folder / "tokens", folder / "tokenizer")
    inputs = {
        "tokens": artifacts.publish(store, "tokens", tokens).model_dump(),
        "tokenizer": artifacts.publish(store, "tokenizer", tokenizer).model_dump(),
        "source_digest": fingerprint(spec.data.source),
    }
    frozen = artifacts.publish_files(store, "spec", {"spec.json": spec.canonical()}, folder)
    return TrainingCase(home, store, spec, frozen.uri, source_file, inputs)


def wait_for(condition: Callable[[], Found | None], what: str, seconds: float = DEADLINE_SECONDS) -> Found:
    """Return the first true value of a condition.

    Raises:
        TimeoutError: when it did not become true in time.
    """
    deadline = time.monotonic() + seconds
    while not (found := condition()):
        if time.monotonic() > deadline:
            raise TimeoutError(f"{what} did not happen within {seconds:.0f} s")
        time.sleep(0.02)
    return found


def processes_below(pid: int, module: str) -> list[psutil.Process]:
    """Return the processes below `pid` that run `python -m module`."""
    return [found for found in _descendants(pid) if _module(found) == module]


def _descendants(pid: int) -> Iterator[psutil.Process]:
    try:
        yield from psutil.Process(pid).children(recursive=True)
    except psutil.NoSuchProcess:
        return


def _module(found: psutil.Process) -> str:
    try:
        arguments = found.cmdline()
    except psutil.NoSuchProcess:
        return ""
    return arguments[arguments.index("-m") + 1] if "-m" in arguments else ""


def _write_tokenizer(folder: Path) -> Path:
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY_SIZE,
        special_tokens=["<|endoftext|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(TEXTS, trainer)
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<|endoftext|>").save_pretrained(folder)
    return folder


def _write_tokens(folder: Path, tokenizer_folder: Path) -> Path:
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(tokenizer_folder / "tokenizer.json"))
    encoded = [tokenizer.encode(text * 8).ids for text in TEXTS]
    documents = [EncodedDocument(id=str(number), tokens=tokens) for number, tokens in enumerate(encoded)]
    write_shards(folder, {"train": documents, "validation": documents[:1]}, vocabulary_size=VOCABULARY_SIZE, eos_id=0)
    return folder

"""Package a tiny model and serve it with a real `bentoml serve` process."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx

from pipelines import artifacts
from pipelines.formats import bento
from pipelines.formats.shards import EncodedDocument, write_shards
from pipelines.spec import ModelSpec, PackagingConfig, RolloutConfig, ServiceConfig
from pipelines.step import RunInfo, StepContext
from pipelines.steps import package
from pipelines.store import Store
from tests.ports import own_port

MODEL_NAME = "tiny-gpt"

SENTENCES = (
    "Return the value of the named attribute of an object, or the default if it has none",
    "Raise an exception if the file does not exist; otherwise open it for reading and return it",
    "This module gives access to paths, files and folders in the order of their names and sizes",
    "The quick brown fox jumps over the lazy dog while the iterator yields numbers one by one",
)

START_SECONDS = 120.0
"""Deadline for things that take seconds; a busy machine may need many times that."""


def spec(**service: int) -> ModelSpec:
    """Return the spec of a tiny service."""
    return ModelSpec(
        name=MODEL_NAME,
        packaging=PackagingConfig(num_golden_requests=3, num_reference_requests=5, golden_tokens=8),
        service=ServiceConfig(max_tokens=64, max_batch=16, max_queue=32, max_body_bytes=8192).model_copy(
            update=service
        ),
        rollout=RolloutConfig.model_validate({"quality": {"enabled": False}}),  # five references make no quality test
    )


def make_inputs(store: Store, model_folder: Path, scratch: Path) -> package.Inputs:
    """Publish a model and stand-ins for its ancestors."""
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(model_folder / "tokenizer.json"))
    texts = [f"{sentence}. {sentence} again, number {number}." for number in range(4) for sentence in SENTENCES]
    documents = [EncodedDocument(f"doc-{i}", tokenizer.encode(text).ids, text) for i, text in enumerate(texts)]
    tokens = scratch / "tokens"
    tokens.mkdir()
    write_shards(tokens, {"train": documents[:1], "validation": documents}, vocabulary_size=384, eos_id=0)
    return package.Inputs(
        model=artifacts.publish(store, "model", model_folder),
        tokens=artifacts.publish(store, "tokens", tokens),
        dataset=artifacts.publish_files(store, "dataset", {"dataset.txt": b"documents"}, scratch),
    )


def run_package(store: Store, inputs: package.Inputs, folder: Path, model_spec: ModelSpec) -> package.Result:
    """Run the package step in a folder of its own."""
    scratch = folder / "scratch"
    scratch.mkdir(parents=True)
    info = RunInfo(model=model_spec.name, run_id="run", task_id="packaged")
    context = StepContext(store=store, info=info, key="k", scratch=scratch, cache=folder / "cache")
    return package.run(package.configure(model_spec), inputs, context)


@contextlib.contextmanager
def serve(folder: Path, home: Path) -> Iterator[tuple[str, subprocess.Popen[bytes], Path]]:
    """Run `bentoml serve` as a process group of its own; afterwards nothing is left of it, and its port is free."""
    port = own_port()
    process, log = start(folder, home, port)
    try:
        url = f"http://{bento.LOOPBACK}:{port}"
        wait_until(lambda: is_ready(url) or process.poll() is not None, "the service is ready")
        assert process.poll() is None, log.read_text()
        yield url, process, log
    finally:
        stop(process)
        wait_until(lambda: is_free(port), "the port is free")


def start(folder: Path, home: Path, port: int) -> tuple[subprocess.Popen[bytes], Path]:
    """Start `bentoml serve` as the local fleet does, without this repository on its path."""
    home.mkdir(parents=True)
    log = home / "log.txt"
    with log.open("wb") as output:
        process = subprocess.Popen(
            bento.serve_command(folder, port),
            cwd=home,
            env={**os.environ, **bento.serve_environment(home)},
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    return process, log


def stop(process: subprocess.Popen[bytes]) -> None:
    """End a process group: asked first, then killed."""
    for sign, seconds in ((signal.SIGTERM, 20.0), (signal.SIGKILL, 20.0)):
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, sign)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(seconds)
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)  # a worker that outlived its supervisor
            return


def is_ready(url: str) -> bool:
    """Return whether a service answers that it is ready."""
    try:
        return httpx.get(f"{url}/readyz", timeout=1).status_code == 200
    except httpx.HTTPError:
        return False


def is_free(port: int) -> bool:
    """Return whether nobody listens on a port."""
    with socket.socket() as probe:
        return probe.connect_ex((bento.LOOPBACK, port)) != 0


def wait_until(holds: Callable[[], bool], what: str, seconds: float = START_SECONDS) -> None:
    """Wait for a condition; fail when it does not come true in time."""
    deadline = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < deadline, f"not within {seconds} s: {what}"
        time.sleep(0.02)

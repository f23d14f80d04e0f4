"""What all steps share: contract, context, receipt, and the one way to execute a step."""

from __future__ import annotations

import contextlib
import importlib
import json
import logging
import shutil
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any, Protocol, TypeVar
from urllib.parse import quote

from pydantic import BaseModel, Field, ValidationError

from pipelines import artifacts, keys, lease
from pipelines.artifacts import ArtifactRef, canonical_json
from pipelines.errors import ArtifactCorrupt, ArtifactMissing, BadInput, ReceiptMissing
from pipelines.settings import Settings
from pipelines.spec import Frozen, ModelSpec, load_spec, parse_spec_text, spec_text
from pipelines.store import Store

logger = logging.getLogger(__name__)

Settled = TypeVar("Settled", bound=BaseModel)

WORK_STEPS = ("freeze", "validate", "prepare", "train", "evaluate", "package")
"""Steps that run as a command anywhere, without a ledger, in lifecycle order."""

POLL_SECONDS = 0.5
"""Between two questions to the ledger by whoever waits for a rollout."""

RECEIPT_LIMIT_BYTES = 64 * 1024
"""Largest receipt: it travels through XCom. Anything bigger belongs into an artifact."""


class StepModule(Protocol):
    """What a module in `pipelines/steps` offers. `fingerprint` is optional, and `join` is the training's alone."""

    LIBRARIES: tuple[str, ...]
    """Distributions whose versions change the result."""

    Config: type[BaseModel]
    Inputs: type[BaseModel]
    Result: type[BaseModel]

    @staticmethod
    def configure(spec: ModelSpec) -> BaseModel:
        """Return the part of the spec that this step depends on."""

    @staticmethod
    def run(config: Any, inputs: Any, context: StepContext) -> BaseModel:
        """Do the work."""


class RunInfo(Frozen):
    """Which execution a step belongs to."""

    model: str
    run_id: str
    task_id: str
    try_number: int = Field(default=1, ge=1)
    force: bool = False
    """Run although finished work is there."""

    @property
    def folder(self) -> str:
        """Folder of this task's receipts in the store; the run id is quoted, for Airflow allows '..' and ':' in it."""
        return f"runs/{self.model}/{quote_run_id(self.run_id)}/{self.task_id}"

    @property
    def receipt_uri(self) -> str:
        """Where this try leaves its receipt."""
        return f"{self.folder}/{self.try_number}.json"

    @property
    def inputs_uri(self) -> str:
        """Where this try's driver puts the inputs."""
        return f"{self.folder}/{self.try_number}.inputs.json"

    def spec_uri(self, file_name: str) -> str:
        """Return where the driver puts the spec file for this try of the first step."""
        return f"{self.folder}/{self.try_number}.{file_name}"

    @property
    def meeting_uri(self) -> str:
        """Where the first of several machines that work on this try says how the others reach it."""
        return f"{self.folder}/{self.try_number}.meeting.json"

    @property
    def progress_uri(self) -> str:
        """Where this task reports while it works."""
        return f"{self.folder}/progress.json"


class InputsDocument(Frozen):
    """What a driver hands to a step's process."""

    run: RunInfo
    inputs: dict[str, Any]


class Receipt(Frozen):
    """What a finished step leaves in the store: small, and the only thing that XCom carries."""

    step: str
    run: RunInfo
    key: str
    """Key of the work; empty for ledger steps, which are never reused."""

    reused: bool = False
    reused_from: str = ""
    """Run that did the work."""

    started: float
    """Seconds since the epoch."""

    seconds: float
    result: dict[str, Any]

    def encode(self) -> bytes:
        """Return the receipt as JSON.

        Raises:
            BadInput: when it is larger than XCom may carry.
        """
        data = canonical_json(self.model_dump(mode="json"))
        if len(data) > RECEIPT_LIMIT_BYTES:
            raise BadInput(f"receipt of {self.step}: {len(data)} bytes, at most {RECEIPT_LIMIT_BYTES}; use an artifact")
        return data


@dataclass(frozen=True)
class StepContext:
    """What a step may touch: the store, a scratch folder, and a way to say how far it is."""

    store: Store
    info: RunInfo
    key: str
    scratch: Path
    cache: Path
    fingerprint: str = ""
    """What the step's own `fingerprint` gave when the key was made: what it reads now must still be that."""

    @property
    def model(self) -> str:
        """Model name."""
        return self.info.model

    @property
    def run_id(self) -> str:
        """Run."""
        return self.info.run_id

    def fetch(self, ref: ArtifactRef) -> Path:
        """Return a verified local folder of an artifact; never write into it."""
        return artifacts.fetch(self.store, ref, self.cache)

    def publish(self, kind: str, folder: Path, inputs: Iterable[ArtifactRef] = ()) -> ArtifactRef:
        """Publish a local folder as an artifact."""
        return artifacts.publish(self.store, kind, folder, inputs)

    def publish_files(self, kind: str, files: Mapping[str, bytes], inputs: Iterable[ArtifactRef] = ()) -> ArtifactRef:
        """Publish small files as an artifact."""
        return artifacts.publish_files(self.store, kind, files, self.scratch, inputs)

    def report(self, **numbers: float) -> None:
        """Say how far the work is; whoever watches the run reads it from the store."""
        self.store.put(self.info.progress_uri, json.dumps({"at": time.time(), **numbers}).encode())


class KeyRecord(Frozen):
    """Finished work under its key."""

    step: str
    key: str
    run_id: str
    result: dict[str, Any]


def quote_run_id(run_id: str) -> str:
    """Return a run id as one safe path segment."""
    quoted = quote(run_id, safe="")
    return quoted.replace(".", "%2E") if set(quoted) == {"."} else quoted


def load_module(name: str) -> Any:
    """Return the module of a work step.

    Raises:
        BadInput: when there is no such step.
    """
    if name not in WORK_STEPS:
        raise BadInput(f"step: unknown step {name!r}; steps that run as a command: {', '.join(WORK_STEPS)}")
    return importlib.import_module(f"pipelines.steps.{name}")


def command(name: str, spec_uri: str, info: RunInfo) -> list[str]:
    """Return the arguments after `python` that execute a step: equal for a subprocess and for a container."""
    return [
        "-m", "pipelines", "step", name,
        "--spec", spec_uri,
        "--inputs", info.inputs_uri,
        "--result", info.receipt_uri,
    ]  # fmt: skip


def write_inputs(store: Store, info: RunInfo, inputs: Mapping[str, Any]) -> None:
    """Put a step's inputs where its process will look for them."""
    document = InputsDocument(run=info, inputs=dict(inputs))
    store.put(info.inputs_uri, canonical_json(document.model_dump(mode="json")))


def leave_spec(store: Store, info: RunInfo, file: Path) -> str:
    """Put a spec file as it is now where the first step's process reads it, wherever that runs; return its URI.

    Raises:
        SpecError: when the file cannot be read.
    """
    uri = info.spec_uri(file.name)
    store.put(uri, spec_text(file).encode())
    return uri


def leave_receipt(store: Store, info: RunInfo, result: BaseModel, started: float) -> Receipt:
    """Leave the receipt of a ledger step, which is never reused.

    Args:
        store: where receipts are.
        info: the execution; its task id names the step.
        result: of the step.
        started: when it began, in seconds since the epoch.
    """
    seconds = round(time.time() - started, 3)
    content = result.model_dump(mode="json")
    receipt = Receipt(step=info.task_id, run=info, key="", started=started, seconds=seconds, result=content)
    store.put(info.receipt_uri, receipt.encode())
    return receipt


def wait_until_settled(poll: Callable[[], Settled | None]) -> Settled:
    """Poll a ledger step until it has a result; every state that it may wait for has a deadline, so this ends."""
    while (result := poll()) is None:
        time.sleep(POLL_SECONDS)
    return result


def read_receipt(store: Store, uri: str) -> Receipt:
    """Return a receipt.

    Raises:
        ReceiptMissing: when there is none; then the step did not finish, whatever its process said.
    """
    data = store.read(uri)
    if data is None:
        raise ReceiptMissing(f"receipt {uri} is missing: the step did not finish; see its log, then clear the task")
    return Receipt.model_validate_json(data)


def execute(name: str, *, spec_uri: str, inputs_uri: str, result_uri: str, settings: Settings) -> Receipt:
    """Execute a work step, or find that it was done before, and leave the receipt.

    Raises:
        SlipwayError: whatever the step raises; no receipt is left then.
    """
    started = time.time()
    with _opened(name, spec_uri=spec_uri, inputs_uri=inputs_uri, settings=settings) as work:
        context = work.context
        record = find_finished(context.store, name, context.key)
        if record is None:
            with lease.hold(context.store, f"{name}/{context.key}"):
                record = find_finished(context.store, name, context.key)
                if record is None:
                    result = work.module.run(work.config, work.inputs, context)
                    return _finish(context, name, result_uri, started, result)
    logger.info("step %s: finished work of run %s reused (key %s)", name, record.run_id, context.key[:12])
    return _leave_receipt(context, name, result_uri, started, record, reused=record.run_id != context.run_id)


def assist(name: str, *, spec_uri: str, inputs_uri: str, settings: Settings) -> None:
    """Help the machine that executes a work step, until its receipt is there.

    Raises:
        SlipwayError: whatever the step raises.
    """
    with _opened(name, spec_uri=spec_uri, inputs_uri=inputs_uri, settings=settings) as work:
        work.module.join(work.config, work.inputs, work.context)


def find_finished(store: Store, step: str, key: str) -> KeyRecord | None:
    """Return the finished work under a key if all its artifacts exist and are sound, else None."""
    data = store.read(_record_path(step, key))
    if data is None:
        return None
    record = KeyRecord.model_validate_json(data)
    try:
        for ref in references(record.result):
            artifacts.verify(store, ref)
    except (ArtifactMissing, ArtifactCorrupt) as damage:
        logger.warning("step %s: finished work of run %s cannot be reused: %s", step, record.run_id, damage)
        return None
    return record


def references(value: Any) -> Iterator[ArtifactRef]:
    """Yield every artifact reference inside plain JSON data."""
    match value:
        case {"kind": str(kind), "digest": str(digest), **others} if not others:
            yield ArtifactRef(kind=kind, digest=digest)
        case dict():
            for child in value.values():
                yield from references(child)
        case list() | tuple():
            for child in value:
                yield from references(child)


@dataclass(frozen=True)
class _Work:
    """A step with everything that it is told."""

    module: Any
    config: BaseModel
    inputs: BaseModel
    context: StepContext


@contextlib.contextmanager
def _opened(name: str, *, spec_uri: str, inputs_uri: str, settings: Settings) -> Iterator[_Work]:
    """Read what a step is told, and give it a context for the length of a block."""
    module = load_module(name)
    store = Store(settings.store_url())
    store.check()
    document = _read_inputs(store, inputs_uri)
    config = module.configure(read_spec(store, spec_uri))
    try:
        inputs = module.Inputs.model_validate(document.inputs)
    except ValidationError as error:
        raise BadInput(f"inputs of {name} in {inputs_uri}: {error}") from error
    info = document.run
    fingerprint = _fingerprint(module, config)
    key = _key(name, module, config, inputs, fingerprint=fingerprint, salt=info.run_id if info.force else "")
    with _context(store, info, key, fingerprint, settings) as context:
        yield _Work(module, config, inputs, context)


def _record_path(step: str, key: str) -> str:
    return f"keys/{step}/{key}.json"


def _fingerprint(module: ModuleType, config: BaseModel) -> str:
    hook = getattr(module, "fingerprint", None)
    return str(hook(config)) if hook else ""


def _key(name: str, module: ModuleType, config: BaseModel, inputs: BaseModel, *, fingerprint: str, salt: str) -> str:
    return keys.step_key(
        name,
        module=module.__name__,
        libraries=module.LIBRARIES,
        config=config.model_dump(mode="json"),
        inputs=inputs.model_dump(mode="json"),
        fingerprint=fingerprint,
        salt=salt,
    )


def _finish(context: StepContext, name: str, result_uri: str, started: float, result: BaseModel) -> Receipt:
    record = KeyRecord(step=name, key=context.key, run_id=context.run_id, result=result.model_dump(mode="json"))
    path = _record_path(name, context.key)
    if not context.store.create(path, canonical_json(record.model_dump(mode="json"))):
        context.store.put(path, canonical_json(record.model_dump(mode="json")))  # the record there names damaged work
    return _leave_receipt(context, name, result_uri, started, record, reused=False)


def _leave_receipt(
    context: StepContext, name: str, result_uri: str, started: float, record: KeyRecord, *, reused: bool
) -> Receipt:
    receipt = Receipt(
        step=name,
        run=context.info,
        key=record.key,
        reused=reused,
        reused_from=record.run_id if reused else "",
        started=started,
        seconds=round(time.time() - started, 3),
        result=record.result,
    )
    context.store.put(context.store.relative(result_uri), receipt.encode())
    return receipt


def _read_inputs(store: Store, uri: str) -> InputsDocument:
    data = store.read(store.relative(uri))
    if data is None:
        raise BadInput(f"--inputs: {uri} does not exist in {store.url}; the driver writes it before it starts a step")
    try:
        return InputsDocument.model_validate_json(data)
    except ValidationError as error:
        raise BadInput(f"--inputs: {uri} is not an inputs document: {error}") from error


def read_spec(store: Store, uri: str) -> ModelSpec:
    """Return a spec: for freeze, of a file, which its driver has put into the store; for later steps, the frozen one.

    Raises:
        SpecError: when a file breaks a rule.
    """
    if uri.endswith(".yaml"):
        left = store.read(uri) if uri.startswith("runs/") else None
        path = Path(uri.removeprefix("file://"))
        return load_spec(path) if left is None else parse_spec_text(left.decode(), Path(path.name.partition(".")[2]))
    ref = ArtifactRef.parse(store.relative(uri))
    return ModelSpec.model_validate_json(artifacts.read_file(store, ref, "spec.json"))


@contextlib.contextmanager
def _context(store: Store, info: RunInfo, key: str, fingerprint: str, settings: Settings) -> Iterator[StepContext]:
    home = settings.resolved_home()
    scratch = home / "scratch" / info.model / quote_run_id(info.run_id) / info.task_id
    shutil.rmtree(scratch, ignore_errors=True)  # what a killed try left behind
    scratch.mkdir(parents=True)
    try:
        yield StepContext(
            store=store, info=info, key=key, scratch=scratch, cache=home / "cache", fingerprint=fingerprint
        )
    finally:
        shutil.rmtree(scratch, ignore_errors=True)

"""Model specs: one YAML file per model, checked once, with defaults in the classes.

A file names only what differs from the defaults. A typo is an error that names the known keys.
"""

from __future__ import annotations

import difflib
import json
import re
from collections.abc import Mapping
from enum import StrEnum
from pathlib import Path
from typing import Any, Literal, Self, get_args

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from pipelines.errors import SpecError

FILE_NAME = re.compile(r"^[a-z][a-z0-9_]{0,39}$")


class Frozen(BaseModel):
    """A value: immutable, and strict about its keys."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True, allow_inf_nan=False)


class Severity(StrEnum):
    """What a failed expectation does; Great Expectations' own words."""

    CRITICAL = "critical"
    WARNING = "warning"
    INFO = "info"


class Source(Frozen):
    """Where documents come from."""

    kind: Literal["python-docs", "parquet", "jsonl", "csv", "text"] = "python-docs"
    """`python-docs` is the standard library's own docstrings; the others are files."""

    uri: str = ""
    """fsspec URL of a file, a glob or a folder; `text` takes one document per file. Not for `python-docs`."""

    text_column: str = "text"
    """Column that holds the text to learn."""

    id_column: str = "id"
    """Column that names a document; without such a column, `text` files are named by path."""

    encoding: str = "utf-8"
    """Encoding of jsonl, csv and text files."""

    @model_validator(mode="after")
    def _uri_fits_kind(self) -> Self:
        if self.kind == "python-docs" and self.uri:
            raise ValueError(f"uri must be empty for python-docs, got {self.uri!r}; remove it or set kind")
        if self.kind != "python-docs" and not self.uri:
            raise ValueError(
                f"uri is needed for kind {self.kind}; give a path or URL such as s3://bucket/data/*.parquet"
            )
        return self


class Expectation(Frozen):
    """One Great Expectations expectation, in its own serialised form."""

    type: str = Field(pattern=r"^expect_[a-z_]+$")
    """Name as Great Expectations spells it, such as expect_column_values_to_not_be_null."""

    kwargs: dict[str, Any] = Field(default_factory=dict)
    """Arguments as Great Expectations spells them."""

    severity: Severity = Severity.CRITICAL
    """`critical` stops the run; `warning` and `info` are reported."""


class DataConfig(Frozen):
    """Source and suite of the training data."""

    source: Source = Source()
    """Where documents come from."""

    suite: tuple[Expectation, ...] = (
        Expectation(type="expect_table_row_count_to_be_between", kwargs={"min_value": 1}),
        Expectation(type="expect_column_values_to_not_be_null", kwargs={"column": "text"}),
        Expectation(type="expect_column_values_to_be_unique", kwargs={"column": "id"}),
    )
    """Expectations that the data must meet before anything is trained on it."""

    sample_rows: int = Field(default=20, ge=0, le=1000)
    """How many failing rows per expectation are kept in the quarantine sample."""


class TokenizerConfig(Frozen):
    """A BPE tokenizer: trained on the training split, or an existing one."""

    uri: str = ""
    """Folder or URL of an existing tokenizer.json; empty: train one."""

    vocabulary_size: int = Field(default=2048, ge=257, le=4_000_000)
    """Entries of a trained tokenizer, byte alphabet and special tokens included."""


class PreparationConfig(Frozen):
    """From validated documents to token shards."""

    near_duplicate_threshold: float = Field(default=0.85, gt=0.0, le=1.0)
    """Estimated Jaccard similarity of shingles from which two documents count as one; 1: exact ones only."""

    minhash_permutations: int = Field(default=64, ge=16, le=512)
    """Permutations of the MinHash: more are more exact and slower."""

    shingle_words: int = Field(default=5, ge=1, le=20)
    """Words per shingle."""

    validation_fraction: float = Field(default=0.08, gt=0.0, lt=0.5)
    """Share of documents kept for evaluation, chosen by a hash of their id."""

    min_characters: int = Field(default=1, ge=1)
    """Shorter documents are left out."""

    shard_tokens: int = Field(default=4_000_000, ge=1024)
    """Most tokens per shard file."""

    shard_dtype: Literal["auto", "uint16", "uint32"] = "auto"
    """Type of a token on disk; `auto`: uint16 up to 65,536 entries, else uint32."""

    seed: int = Field(default=0, ge=0)
    """Salts the split."""

    tokenizer: TokenizerConfig = TokenizerConfig()
    """The tokenizer."""

    @model_validator(mode="after")
    def _tokens_fit_dtype(self) -> Self:
        if self.shard_dtype == "uint16" and self.tokenizer.vocabulary_size > 65_536:
            raise ValueError(
                f"tokenizer.vocabulary_size {self.tokenizer.vocabulary_size} must be at most 65536 for shard_dtype "
                "uint16; set shard_dtype to auto or uint32"
            )
        return self


class ArchitectureConfig(Frozen):
    """A causal language model as `transformers` builds it."""

    model_type: Literal["llama", "mistral", "qwen2", "qwen3", "gpt_neox", "gpt2"] = "llama"
    """Architecture family of transformers."""

    hidden_size: int = Field(default=128, ge=8)
    """Width of the residual stream."""

    intermediate_size: int = Field(default=384, ge=8)
    """Width of the feed-forward layers."""

    num_layers: int = Field(default=4, ge=1)
    """Decoder layers."""

    num_heads: int = Field(default=4, ge=1)
    """Attention heads."""

    num_key_value_heads: int = Field(default=4, ge=1)
    """Key/value heads (grouped-query attention when fewer than `num_heads`)."""

    context_length: int = Field(default=512, ge=8)
    """Longest sequence, in tokens."""

    tie_embeddings: bool = True
    """Share input and output embeddings."""

    @model_validator(mode="after")
    def _heads_divide(self) -> Self:
        if self.hidden_size % self.num_heads or (self.hidden_size // self.num_heads) % 2:
            raise ValueError(
                f"hidden_size {self.hidden_size} must be an even multiple of num_heads {self.num_heads}; "
                f"try hidden_size {2 * self.num_heads * max(1, self.hidden_size // (2 * self.num_heads))}"
            )
        if self.num_heads % self.num_key_value_heads:
            raise ValueError(
                f"num_heads {self.num_heads} must be a multiple of num_key_value_heads {self.num_key_value_heads}"
            )
        return self


class TrainingConfig(Frozen):
    """One training run."""

    ranks: int = Field(default=1, ge=1, le=1024)
    """Processes of torchrun; one per GPU where there are GPUs."""

    max_steps: int = Field(default=300, ge=1)
    """Optimizer steps."""

    batch_size: int = Field(default=16, ge=1)
    """Sequences per optimizer step over all ranks and accumulation steps."""

    accumulation_steps: int = Field(default=1, ge=1)
    """Forward/backward passes per optimizer step."""

    sequence_length: int = Field(default=256, ge=8)
    """Tokens per sequence."""

    learning_rate: float = Field(default=3e-3, gt=0.0, le=1.0)
    """Peak learning rate."""

    min_learning_rate_fraction: float = Field(default=0.1, ge=0.0, le=1.0)
    """Share of the peak where the cosine ends."""

    warmup_steps: int = Field(default=20, ge=0)
    """Steps of linear warm-up."""

    weight_decay: float = Field(default=0.1, ge=0.0)
    """AdamW's decoupled weight decay, on matrices only."""

    beta1: float = Field(default=0.9, ge=0.0, lt=1.0)
    """AdamW's first moment decay."""

    beta2: float = Field(default=0.95, ge=0.0, lt=1.0)
    """AdamW's second moment decay."""

    clip_norm: float = Field(default=1.0, gt=0.0)
    """Largest gradient norm; larger ones are scaled down."""

    precision: Literal["auto", "bf16", "fp32"] = "auto"
    """`auto`: bf16 where the machine computes with it natively, else fp32."""

    checkpoint_every_steps: int = Field(default=50, ge=1)
    """Steps between checkpoints: the most that a crash may lose."""

    keep_checkpoints: int = Field(default=2, ge=1)
    """Checkpoints kept while training."""

    seed: int = Field(default=1, ge=0)
    """Seed of weights and data order."""

    strategy: Literal["ddp"] = "ddp"
    """How ranks share the work."""

    max_restarts: int = Field(default=0, ge=0)
    """How often torchrun restarts failed ranks before the task itself fails and is retried."""

    @model_validator(mode="after")
    def _batch_divides(self) -> Self:
        parts = self.ranks * self.accumulation_steps
        if self.batch_size % parts:
            nearest = max(parts, round(self.batch_size / parts) * parts)
            raise ValueError(
                f"batch_size {self.batch_size} must be divisible by ranks x accumulation_steps = "
                f"{self.ranks} x {self.accumulation_steps}; try {nearest}"
            )
        if self.warmup_steps >= self.max_steps and self.warmup_steps > 0:
            raise ValueError(f"warmup_steps {self.warmup_steps} must be less than max_steps {self.max_steps}")
        return self


class EvaluationConfig(Frozen):
    """Gates that a candidate must pass before anything is deployed."""

    max_documents: int = Field(default=0, ge=0)
    """Documents of the validation split that are scored; 0: all."""

    bootstrap_resamples: int = Field(default=1000, ge=100)
    """Resamples of documents for intervals."""

    confidence: float = Field(default=0.95, gt=0.5, lt=1.0)
    """Coverage of every interval."""

    max_perplexity_ratio: float = Field(default=0.5, gt=0.0)
    """Gate: perplexity over the unigram baseline's, upper end of the interval."""

    max_perplexity: float | None = Field(default=None, gt=1.0)
    """Gate: absolute perplexity, upper end of the interval; null: none."""

    noninferiority_margin: float = Field(default=0.02, ge=0.0)
    """Gate: bits per byte by which a candidate may be worse than the champion, upper end of the paired interval."""

    sample_prompts: tuple[str, ...] = ("Return the", "This module", "Raise an exception if")
    """Prompts of the samples in the report."""

    sample_tokens: int = Field(default=48, ge=1, le=2048)
    """Tokens per sample."""

    seed: int = Field(default=0, ge=0)
    """Seed of resampling and samples."""


class PackagingConfig(Frozen):
    """What a bento carries besides the weights."""

    service: Literal["text_generation"] = "text_generation"
    """Folder under `bentos/`."""

    num_golden_requests: int = Field(default=8, ge=1, le=200)
    """Greedy answers that identify the weights."""

    num_reference_requests: int = Field(default=200, ge=0, le=10_000)
    """Held-out prompts with continuations that measure quality."""

    golden_tokens: int = Field(default=16, ge=1, le=512)
    """Tokens per golden answer."""


class ServiceConfig(Frozen):
    """How the endpoint serves."""

    workers: int = Field(default=1, ge=1, le=64)
    """Processes per copy."""

    threads: int = Field(default=1, ge=1)
    """Compute threads per process."""

    max_batch: int = Field(default=16, ge=1, le=1024)
    """Requests computed together."""

    max_queue: int = Field(default=64, ge=1)
    """Requests that may wait; more get 429."""

    max_tokens: int = Field(default=256, ge=1)
    """Most tokens that one request may ask for."""

    max_body_bytes: int = Field(default=262_144, ge=1024)
    """Largest request body; larger ones get 413."""

    idempotent: bool = True
    """Whether a request may be sent again after a failed attempt; inference is."""


class RolloutConfig(Frozen):
    """How a new version replaces the old one."""

    ready_timeout_seconds: int = Field(default=180, ge=1)
    """How long a new copy may take until it is ready."""

    permit_timeout_seconds: int = Field(default=600, ge=1)
    """How long a rollout waits for the next permit before it is rolled back as aborted."""

    drain_timeout_seconds: int = Field(default=60, ge=0)
    """How long the old copy may finish its requests."""

    look_seconds: float = Field(default=1.0, gt=0.0)
    """Seconds between two looks of the controller."""


class ModelSpec(Frozen):
    """One model: data, training, gates, service and release."""

    name: str = Field(pattern=r"^[a-z][a-z0-9-]{0,39}$")
    """Model name, from the file's name."""

    description: str = ""
    """One sentence for people."""

    owner: str = "slipway"
    """Who is responsible; shown in Airflow."""

    schedule: str | None = None
    """Cron expression or Airflow preset; null: by hand only."""

    data: DataConfig = DataConfig()
    """Source and suite."""

    preparation: PreparationConfig = PreparationConfig()
    """Duplicates, split, tokenizer, shards."""

    architecture: ArchitectureConfig = ArchitectureConfig()
    """The model."""

    training: TrainingConfig = TrainingConfig()
    """The training run."""

    evaluation: EvaluationConfig = EvaluationConfig()
    """Offline gates."""

    packaging: PackagingConfig = PackagingConfig()
    """The bento."""

    service: ServiceConfig = ServiceConfig()
    """The endpoint."""

    rollout: RolloutConfig = RolloutConfig()
    """The release."""

    @field_validator("schedule")
    @classmethod
    def _schedule_is_cron(cls, value: str | None) -> str | None:
        if value is None or value in _PRESETS or len(value.split()) in (5, 6):
            return value
        raise ValueError(f"schedule {value!r} is neither a cron expression nor one of {', '.join(sorted(_PRESETS))}")

    @model_validator(mode="after")
    def _parts_fit(self) -> Self:
        if self.training.sequence_length > self.architecture.context_length:
            raise ValueError(
                f"training.sequence_length {self.training.sequence_length} must not exceed "
                f"architecture.context_length {self.architecture.context_length}"
            )
        if self.service.max_tokens >= self.architecture.context_length:
            raise ValueError(
                f"service.max_tokens {self.service.max_tokens} must be less than "
                f"architecture.context_length {self.architecture.context_length}"
            )
        return self

    def canonical(self) -> bytes:
        """Return the spec as canonical JSON, every default written out."""
        return json.dumps(self.model_dump(mode="json"), sort_keys=True, separators=(",", ":")).encode()


_PRESETS = frozenset({"@once", "@hourly", "@daily", "@weekly", "@monthly", "@yearly"})


class TriggerParams(Frozen):
    """What a person may set when triggering a run; everything else is in the file."""

    max_steps: int | None = Field(default=None, ge=1, le=10_000_000)
    """Training steps instead of the spec's."""

    source: str | None = Field(default=None, max_length=2000)
    """Data source instead of the spec's: `python-docs`, or a URL ending in .parquet, .jsonl, .csv or .txt."""

    force: tuple[str, ...] = ()
    """Steps to run again although their finished work is there."""

    note: str = Field(default="", max_length=2000)
    """Why this run; kept in the receipts."""


def model_name(path: Path) -> str:
    """Return the model name of a spec file: `docs_gpt.yaml` is model `docs-gpt`.

    Raises:
        SpecError: when the file's name is not lower case letters, digits and underscores.
    """
    if not FILE_NAME.match(path.stem) or path.suffix != ".yaml":
        raise SpecError(f"{path.name}: a spec is named <name>.yaml in lower case letters, digits and '_'")
    return path.stem.replace("_", "-")


def load_spec(path: Path) -> ModelSpec:
    """Read and check a spec file.

    Raises:
        SpecError: names file, field, value, rule and way out for every broken rule.
    """
    name = model_name(path)
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        known = ", ".join(sorted(found.name for found in path.parent.glob("*.yaml"))) or "none"
        raise SpecError(f"{path}: no such file; specs in that folder: {known}") from None
    except UnicodeDecodeError as error:
        raise SpecError(f"{path}: not UTF-8 at byte {error.start}; save the file as UTF-8") from error
    try:
        content = yaml.load(text, Loader=_Loader)  # noqa: S506 - a safe loader that also refuses repeated keys
    except yaml.YAMLError as error:
        raise SpecError(f"{path}: not YAML: {' '.join(str(error).split())}") from error
    content = {} if content is None else content
    if not isinstance(content, dict):
        raise SpecError(f"{path}: a spec is a mapping of sections, got {type(content).__name__}")
    if "name" in content:
        raise SpecError(f"{path}: name: comes from the file's name ({name}); remove the key")
    return parse_spec({"name": name, **content}, origin=str(path))


def parse_spec(content: Mapping[str, Any], origin: str = "spec") -> ModelSpec:
    """Check a spec given as plain data.

    Raises:
        SpecError: names origin, field, value, rule and way out for every broken rule.
    """
    try:
        return ModelSpec.model_validate(content)
    except ValidationError as error:
        raise SpecError(explain(error, ModelSpec, origin)) from error


def parse_params(content: Mapping[str, Any]) -> TriggerParams:
    """Check the parameters of a trigger.

    Raises:
        SpecError: names field, value and rule.
    """
    try:
        return TriggerParams.model_validate(content)
    except ValidationError as error:
        raise SpecError(explain(error, TriggerParams, "params")) from error


def merge(spec: ModelSpec, params: TriggerParams) -> ModelSpec:
    """Return the spec with a trigger's parameters in their places, checked again.

    Raises:
        SpecError: when a parameter does not fit the spec.
    """
    content = spec.model_dump(mode="json")
    if params.max_steps is not None:
        training = content["training"]
        training["max_steps"] = params.max_steps
        training["warmup_steps"] = min(training["warmup_steps"], max(0, params.max_steps - 1))
    if params.source is not None:
        content["data"]["source"] = {**content["data"]["source"], **_source_of(params.source)}
    return parse_spec(content, origin="params")


def _source_of(text: str) -> dict[str, str]:
    if text == "python-docs":
        return {"kind": "python-docs", "uri": ""}
    kinds = {".parquet": "parquet", ".jsonl": "jsonl", ".csv": "csv", ".txt": "text"}
    for suffix, kind in kinds.items():
        if text.endswith(suffix):
            return {"kind": kind, "uri": text}
    raise SpecError(f"params: source: {text!r} must be python-docs or end in one of {', '.join(kinds)}")


def explain(error: ValidationError, root: type[BaseModel], origin: str) -> str:
    """Return one line per broken rule: where, what was given, what is allowed."""
    return "\n".join(f"{origin}: {_explain_one(dict(problem), root)}" for problem in error.errors())


def _explain_one(problem: dict[str, Any], root: type[BaseModel]) -> str:
    location = [part for part in problem["loc"] if not (isinstance(part, str) and part.startswith("function-"))]
    if problem["type"] == "extra_forbidden":
        section = _class_at(root, location[:-1])
        known = sorted(set(section.model_fields) - ({"name"} if section is ModelSpec else set())) if section else []
        close = difflib.get_close_matches(str(location[-1]), known, n=1)
        where = f"{_dotted(location[:-1])}: " if location[:-1] else ""
        hint = f"; did you mean '{close[0]}'?" if close else ""
        return f"{where}unknown key '{location[-1]}'; known keys: {', '.join(known)}{hint}"
    message = str(problem["msg"]).removeprefix("Value error, ")
    where = f"{_dotted(location)}: " if location else ""
    given = "" if problem["type"] in {"value_error", "missing"} else f", got {_short(problem['input'])}"
    return f"{where}{message}{given}"


def _dotted(location: list[Any]) -> str:
    text = ""
    for part in location:
        text += f"[{part}]" if isinstance(part, int) else f"{'.' if text else ''}{part}"
    return text


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 80 else text[:77] + "..."


def _class_at(root: type[BaseModel], location: list[Any]) -> type[BaseModel] | None:
    current: type[BaseModel] | None = root
    for part in location:
        if current is None or isinstance(part, int):
            continue
        field = current.model_fields.get(str(part))
        candidates = [] if field is None else [field.annotation, *get_args(field.annotation)]
        current = next(
            (found for found in candidates if isinstance(found, type) and issubclass(found, BaseModel)), None
        )
    return current


def schema_json() -> str:
    """Return the JSON Schema of spec files, for editors."""
    schema = ModelSpec.model_json_schema()
    schema["properties"].pop("name")
    schema["required"] = [key for key in schema.get("required", []) if key != "name"]
    if not schema["required"]:
        del schema["required"]
    schema["$schema"] = "https://json-schema.org/draft/2020-12/schema"
    schema["title"] = "Slipway model spec"
    return json.dumps(schema, indent=2, sort_keys=True) + "\n"


class _Loader(getattr(yaml, "CSafeLoader", yaml.SafeLoader)):  # type: ignore[misc]  # C parser where libyaml is there
    """A safe loader that refuses a key given twice."""

    def construct_mapping(self, node: Any, deep: bool = False) -> Any:
        seen: set[Any] = set()
        for key_node, _ in node.value:
            key = self.construct_object(key_node, deep=True)
            if key in seen:
                raise yaml.constructor.ConstructorError(None, None, f"key {key!r} is given twice", key_node.start_mark)
            seen.add(key)
        return super().construct_mapping(node, deep)

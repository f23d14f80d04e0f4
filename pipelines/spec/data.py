"""Sections about data: where it comes from, what it must meet, how it becomes tokens."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, Field, model_validator

from pipelines.locations import USE_THE_ENVIRONMENT, holds_secret
from pipelines.spec.base import Frozen


def _without_secret(uri: str) -> str:
    if holds_secret(uri):
        raise ValueError(f"a URL in a spec must hold no password, token or signature; {USE_THE_ENVIRONMENT}")
    return uri


Location = Annotated[str, AfterValidator(_without_secret)]
"""Path or fsspec URL of something to read. Specs are published, so it holds no secret."""


def _names_objects(url: str) -> str:
    bucket, _, key = url.removeprefix("s3://").partition("/")
    if url and not (url.startswith("s3://") and bucket and key):
        raise ValueError(f"objects are named by s3://bucket/key, with wildcards such as s3://bucket/new/*, got {url!r}")
    return url


Objects = Annotated[Location, AfterValidator(_names_objects)]
"""Objects on S3, by name or with the wildcards `*`, `?` and `[...]`."""


class Severity(StrEnum):
    """What a failed expectation does; Great Expectations' own words."""

    CRITICAL = "critical"
    WARNING = "warning"
    INFO = "info"


class Source(Frozen):
    """Where documents come from."""

    kind: Literal["python-docs", "parquet", "jsonl", "csv", "text"] = "python-docs"
    """`python-docs` is the standard library's own docstrings; the others are files."""

    uri: Location = ""
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

    uri: Location = ""
    """Folder or URL of an existing tokenizer.json, or hf://<owner>/<name>; empty: train one."""

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

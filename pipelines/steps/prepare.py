"""Prepare validated documents: remove duplicates, split, prove that nothing leaks, train a tokenizer, write shards."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence

from pipelines.artifacts import ArtifactRef
from pipelines.data import dataset, duplicates, sources, splits, tokenizer
from pipelines.data.splits import Text
from pipelines.data.tokenizer import TokenizerFiles
from pipelines.errors import DataRejected
from pipelines.formats.shards import EncodedDocument, ShardIndex, write_shards
from pipelines.spec import Frozen, ModelSpec, PreparationConfig, Source
from pipelines.step import StepContext

logger = logging.getLogger(__name__)

LIBRARIES = ("datasketch", "numpy", "pyarrow", "tokenizers")

_BATCH = 1024


class Config(Frozen):
    """What preparation depends on."""

    source: Source
    """Read again only to see that it has not changed since it was validated."""

    preparation: PreparationConfig


class Inputs(Frozen):
    """The validated rows."""

    dataset: ArtifactRef
    source_digest: str


class Result(Frozen):
    """Token shards and tokenizer."""

    tokens: ArtifactRef
    tokenizer: ArtifactRef
    num_documents: int
    """Documents in both splits."""

    num_too_short: int
    """Documents without text, or with fewer characters than asked for."""

    num_exact_duplicates: int
    num_near_duplicates: int
    num_train_documents: int
    num_validation_documents: int
    num_train_tokens: int
    num_validation_tokens: int
    vocabulary_size: int


def configure(spec: ModelSpec) -> Config:
    """Take source and preparation."""
    return Config(source=spec.data.source, preparation=spec.preparation)


def fingerprint(config: Config) -> str:
    """Return the digests of what is outside the store: the source, and an existing tokenizer."""
    uri = config.preparation.tokenizer.uri
    existing = tokenizer.load_existing(uri).digest if uri else ""
    return f"{sources.fingerprint(config.source)}:{existing}"


def run(config: Config, inputs: Inputs, context: StepContext) -> Result:
    """Make token shards and tokenizer from the validated rows.

    Raises:
        DataRejected: when the source changed since validation, too little is left, or a validation document has a
            duplicate in train.
    """
    sources.check_unchanged(config.source, inputs.source_digest)
    settings = config.preparation
    table = dataset.read(context.fetch(inputs.dataset), ["id", "text"])
    rows = [Text(*row) for row in zip(table["id"].to_pylist(), table["text"].to_pylist(), strict=True)]
    documents = [row for row in rows if row.text is not None and len(row.text.strip()) >= settings.min_characters]
    unique = _without(documents, duplicates.find_exact([document.text for document in documents]))
    distinct = _without(unique, _near_duplicates(settings, unique))
    context.report(documents=len(distinct))
    train, validation = splits.split(distinct, fraction=settings.validation_fraction, seed=settings.seed)
    splits.check_leakage(
        train, validation, threshold=settings.near_duplicate_threshold, shingle_words=settings.shingle_words
    )
    files = _tokenizer(settings, train, context)
    index = _write_shards(settings, files, {"train": train, "validation": validation}, context)
    files.write(context.scratch / "tokenizer")
    ref = context.publish("tokenizer", context.scratch / "tokenizer")
    return Result(
        tokens=context.publish("tokens", context.scratch / "tokens", [inputs.dataset, ref]),
        tokenizer=ref,
        num_documents=len(distinct),
        num_too_short=len(rows) - len(documents),
        num_exact_duplicates=len(documents) - len(unique),
        num_near_duplicates=len(unique) - len(distinct),
        num_train_documents=len(train),
        num_validation_documents=len(validation),
        num_train_tokens=index.splits["train"].num_tokens,
        num_validation_tokens=index.splits["validation"].num_tokens,
        vocabulary_size=index.vocabulary_size,
    )


def _near_duplicates(settings: PreparationConfig, documents: Sequence[Text]) -> list[duplicates.Duplicate]:
    return duplicates.find_near(
        [document.text for document in documents],
        threshold=settings.near_duplicate_threshold,
        permutations=settings.minhash_permutations,
        shingle_words=settings.shingle_words,
    )


def _without(documents: Sequence[Text], found: Sequence[duplicates.Duplicate]) -> list[Text]:
    left_out = {duplicate.index for duplicate in found}
    return [document for position, document in enumerate(documents) if position not in left_out]


def _tokenizer(settings: PreparationConfig, train: Sequence[Text], context: StepContext) -> TokenizerFiles:
    uri = settings.tokenizer.uri
    if not uri:
        return tokenizer.train((document.text for document in train), settings.tokenizer.vocabulary_size)
    files = tokenizer.load_existing(uri)
    if not context.fingerprint.endswith(files.digest):
        raise DataRejected(f"preparation.tokenizer.uri: {uri} changed while the step began; clear the task")
    return files


def _write_shards(
    settings: PreparationConfig, files: TokenizerFiles, parts: dict[str, list[Text]], context: StepContext
) -> ShardIndex:
    encoder = tokenizer.open_for_encoding(files)

    def encoded(name: str, documents: Sequence[Text]) -> Iterator[EncodedDocument]:
        for start in range(0, len(documents), _BATCH):
            batch = documents[start : start + _BATCH]
            encodings = encoder.encode_batch([document.text for document in batch], add_special_tokens=False)
            for document, encoding in zip(batch, encodings, strict=True):
                yield EncodedDocument(document.id, encoding.ids, document.text if name == "validation" else None)

    return write_shards(
        context.scratch / "tokens",
        {name: encoded(name, documents) for name, documents in parts.items()},
        vocabulary_size=encoder.get_vocab_size(),
        eos_id=tokenizer.eos_id(encoder, files),
        dtype=None if settings.shard_dtype == "auto" else settings.shard_dtype,
        shard_tokens=settings.shard_tokens,
    )

"""Validate the source against the spec's suite and keep exactly the rows that were validated."""

from __future__ import annotations

from pipelines.artifacts import ArtifactRef
from pipelines.data import dataset, sources, suite, validation_report
from pipelines.errors import DataRejected
from pipelines.spec import DataConfig, Frozen, ModelSpec
from pipelines.step import StepContext

LIBRARIES = ("great-expectations", "jinja2", "pandas", "pyarrow")

Config = DataConfig


class Inputs(Frozen):
    """Nothing: the source is named by the spec."""


class Result(Frozen):
    """The validated rows, and what was found."""

    dataset: ArtifactRef
    report: ArtifactRef
    source_digest: str
    """sha256 over names and contents of the source's files, of the bytes that were validated."""

    num_rows: int
    num_expectations: int
    num_failed: dict[str, int]
    """Failed expectations by severity; `critical` is 0, or there would be no result."""


def configure(spec: ModelSpec) -> Config:
    """Take source and suite."""
    return spec.data


def fingerprint(config: Config) -> str:
    """Return the digest of the source as it is now: a changed source is new work."""
    return sources.fingerprint(config.source)


def run(config: Config, inputs: Inputs, context: StepContext) -> Result:
    """Read the source once, run the suite, publish report and rows.

    Raises:
        DataRejected: when the source cannot be read, changes meanwhile, or a critical expectation fails; the report is
            published before.
        SpecError: when the suite names an expectation or argument that does not exist.
    """
    expectations = suite.Suite(config.suite)  # first: a misspelt suite is told before a large source is read
    corpus = sources.read(config.source)
    if corpus.digest != context.fingerprint:
        raise DataRejected(
            f"data.source: {config.source.uri or config.source.kind} changed while it was read; "
            "wait until it is written, then clear the task"
        )
    context.report(rows=corpus.table.num_rows)
    outcomes = expectations.run(corpus.table, sample_rows=config.sample_rows)
    folder = context.scratch / "validation"
    source = config.source.uri or config.source.kind
    validation_report.write(folder, corpus, outcomes, model=context.model, source=source)
    report = context.publish("validation", folder)
    if validation_report.is_refused(outcomes):
        uri = f"{context.store.url}/{report.uri}/{validation_report.REPORT}"
        raise DataRejected(validation_report.refusal(corpus, outcomes, uri))
    dataset.check_identities(corpus)
    dataset.write(corpus.table, context.scratch / "dataset")
    return Result(
        dataset=context.publish("dataset", context.scratch / "dataset"),
        report=report,
        source_digest=corpus.digest,
        num_rows=corpus.table.num_rows,
        num_expectations=len(outcomes),
        num_failed=suite.num_failed(outcomes),
    )

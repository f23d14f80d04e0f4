"""A spec's suite, run by Great Expectations on pandas, one expectation after the other.

One at a time, because an expectation that breaks inside Great Expectations must be reported as its own failure: a whole
checkpoint would be lost with it (`expect_column_quantile_values_to_be_between` in 1.24 answers with a numpy bool, which
no checkpoint can serialise).
"""

from __future__ import annotations

import difflib
import logging
import os
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from pipelines.data.plain import plain
from pipelines.errors import SpecError
from pipelines.spec import Expectation, Frozen, Severity

if TYPE_CHECKING:
    import pyarrow as pa

logger = logging.getLogger(__name__)

_NOT_ARGUMENTS = frozenset(
    {
        "batch_id",
        "catch_exceptions",
        "description",
        "id",
        "meta",
        "notes",
        "rendered_content",
        "result_format",
        "severity",
        "windows",
    }
)
"""Fields of every expectation that a spec does not set."""

_COLUMNS = ("column", "column_A", "column_B", "column_list", "column_set")


class Outcome(Frozen):
    """What one expectation found."""

    type: str
    kwargs: dict[str, Any]
    severity: Severity
    passed: bool
    observed: str
    """For people: the observed value, or how many rows broke the rule."""

    num_failed_rows: int
    """Rows that broke the rule; 0 also where the rule is about the whole table."""

    sample: tuple[int, ...] = ()
    """Positions of the first rows that broke the rule."""

    examples: tuple[Any, ...] = ()
    """Their values."""

    error: str = ""
    """Why the expectation could not be computed; it then counts as failed."""

    @property
    def columns(self) -> str:
        """Columns that the rule is about, for people; empty when it is about the table."""
        named = [self.kwargs[name] for name in _COLUMNS if name in self.kwargs]
        return ", ".join(each if isinstance(each, str) else ", ".join(map(str, each)) for each in named)

    @property
    def limit(self) -> str:
        """The rule's other arguments, for people."""
        return ", ".join(f"{name} {value}" for name, value in self.kwargs.items() if name not in _COLUMNS)


class Suite:
    """Expectations of a spec, checked against those that Great Expectations knows."""

    def __init__(self, expectations: Sequence[Expectation]) -> None:
        """Build Great Expectations' own objects.

        Raises:
            SpecError: names the expectation or argument that does not exist or does not fit, and close ones.
        """
        self._built = [
            (_build(f"data.suite[{position}]", expectation), expectation)
            for position, expectation in enumerate(expectations)
        ]

    def run(self, table: pa.Table, *, sample_rows: int) -> list[Outcome]:
        """Return what each expectation finds in a table, naming at most `sample_rows` of the rows that break it."""
        batch = _batch(table)
        outcomes = [_judge(batch, built, expectation, sample_rows) for built, expectation in self._built]
        logger.info("suite: %d of %d expectations passed", sum(outcome.passed for outcome in outcomes), len(outcomes))
        return outcomes


def num_failed(outcomes: Sequence[Outcome]) -> dict[str, int]:
    """Return how many expectations of each severity failed."""
    return {
        severity.value: sum(not outcome.passed and outcome.severity is severity for outcome in outcomes)
        for severity in Severity
    }


def _build(place: str, expectation: Expectation) -> Any:
    _import_quietly()
    from great_expectations.exceptions import ExpectationNotFoundError
    from great_expectations.expectations import registry

    try:
        implementation = registry.get_expectation_impl(expectation.type)
    except ExpectationNotFoundError:
        known = registry.list_registered_expectation_implementations()
        raise SpecError(
            f"{place}: type: Great Expectations has no {expectation.type!r}{_close(expectation.type, known)}"
        ) from None
    arguments = sorted(set(implementation.__fields__) - _NOT_ARGUMENTS)
    for name in expectation.kwargs:
        if name not in arguments:
            raise SpecError(
                f"{place}: {expectation.type}: unknown argument '{name}'; arguments: {', '.join(arguments)}"
                f"{_close(name, arguments)}"
            )
    try:
        return implementation(**expectation.kwargs, severity=expectation.severity.value)
    except (ValueError, TypeError) as error:
        raise SpecError(f"{place}: {expectation.type}: {_reason(error)}; arguments: {', '.join(arguments)}") from error


def _close(name: str, known: Sequence[str]) -> str:
    found = difflib.get_close_matches(name, known, n=3)
    return f"; did you mean {' or '.join(found)}?" if found else ""


def _reason(error: Exception) -> str:
    problems = getattr(error, "errors", None)
    if problems is None:
        return str(error)
    return "; ".join(f"{'.'.join(map(str, each['loc']))}: {each['msg']}" for each in problems())


def _batch(table: pa.Table) -> Any:
    gx = _import_quietly()
    context = gx.get_context(mode="ephemeral")
    context.variables.progress_bars = {"globally": False}
    asset = context.data_sources.add_pandas("source").add_dataframe_asset("documents")
    return asset.add_batch_definition_whole_dataframe("all").get_batch({"dataframe": table.to_pandas()})


def _import_quietly() -> Any:
    """Return Great Expectations, kept from reporting its use and from logging its insides at every turn."""
    os.environ["GX_ANALYTICS_ENABLED"] = "false"
    log = logging.getLogger("great_expectations")
    log.setLevel(logging.WARNING)
    import great_expectations as gx

    log.setLevel(logging.WARNING)  # the import raised it
    return gx


def _judge(batch: Any, built: Any, expectation: Expectation, sample_rows: int) -> Outcome:
    form = {"result_format": "SUMMARY", "partial_unexpected_count": max(1, sample_rows)}
    try:
        validation = batch.validate(built, result_format=form)
    except Exception as crash:  # noqa: BLE001 - whatever breaks inside is this expectation's failure, not the run's
        return _outcome(expectation, passed=False, error=f"{type(crash).__name__}: {crash}")
    if error := _exception(validation.exception_info):
        return _outcome(expectation, passed=False, error=error)
    result = plain(validation.result)
    passed = bool(validation.success)
    failed_rows = int(result.get("unexpected_count") or 0)
    return Outcome(
        type=expectation.type,
        kwargs=expectation.kwargs,
        severity=expectation.severity,
        passed=passed,
        observed=_observed(result, failed_rows),
        num_failed_rows=failed_rows,
        sample=tuple(result.get("partial_unexpected_index_list") or ())[:sample_rows],
        examples=tuple(result.get("partial_unexpected_list") or ())[:sample_rows],
    )


def _outcome(expectation: Expectation, *, passed: bool, error: str) -> Outcome:
    return Outcome(
        type=expectation.type,
        kwargs=expectation.kwargs,
        severity=expectation.severity,
        passed=passed,
        observed="could not be computed",
        num_failed_rows=0,
        error=" ".join(error.split()),
    )


def _exception(info: Mapping[str, Any] | None) -> str:
    """Return the message of a caught exception; Great Expectations keeps it flat, or once per metric."""
    if not info:
        return ""
    entries = [info, *(each for each in info.values() if isinstance(each, Mapping))]
    return next((str(each["exception_message"]) for each in entries if each.get("exception_message")), "")


def _observed(result: Mapping[str, Any], failed_rows: int) -> str:
    if "element_count" in result:
        share = float(result.get("unexpected_percent_total") or result.get("unexpected_percent") or 0.0)
        return f"{failed_rows} of {result['element_count']} rows ({share:.2f} %) break it"
    return str(result.get("observed_value"))

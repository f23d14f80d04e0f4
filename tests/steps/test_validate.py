"""Validation with the real Great Expectations: the verdict, its evidence, and what is kept."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from pipelines.artifacts import ArtifactRef
from pipelines.data import dataset, sources
from pipelines.data.suite import Suite
from pipelines.errors import DataRejected, SpecError
from pipelines.settings import Settings
from pipelines.spec import Expectation, Severity, Source, load_spec
from pipelines.store import Store
from tests.steps.step_run import execute, settings_in

ROWS = [
    {"id": "a", "text": "<script>alert(1)</script> one", "score": 1},
    {"id": "b", "text": None, "score": 2},
    {"id": "c", "text": "three", "score": 300},
]
MODELS = Path(__file__).parents[2] / "dags" / "models"


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    """Settings, beside a source of three rows."""
    write(tmp_path / "rows.jsonl", ROWS)
    return settings_in(tmp_path)


def write(path: Path, rows: list[dict[str, Any]]) -> None:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


def spec_with(folder: Path, *suite: dict[str, Any]) -> dict[str, Any]:
    return {"data": {"source": {"kind": "jsonl", "uri": str(folder / "rows.jsonl")}, "suite": list(suite)}}


def source_in(folder: Path) -> Source:
    return Source(kind="jsonl", uri=str(folder / "rows.jsonl"))


def rule(kind: str, severity: str = "critical", **kwargs: Any) -> dict[str, Any]:
    return {"type": f"expect_{kind}", "kwargs": kwargs, "severity": severity}


QUANTILES = {"quantiles": [0.5], "value_ranges": [[0, 10]]}
UNIQUE = rule("column_values_to_be_unique", column="id")
SCORE = rule("column_values_to_be_between", column="score", max_value=10)


def folder_of(settings: Settings, ref: dict[str, str]) -> Path:
    path = Store(settings.store_url()).local_path(ArtifactRef.model_validate(ref).uri)
    assert path is not None
    return path


def reports(tmp_path: Path) -> list[Path]:
    return list((tmp_path / "store" / "artifacts").glob("validation/*/manifest.json"))


def test_a_passing_source_becomes_a_dataset_with_its_digest(settings: Settings, tmp_path: Path) -> None:
    warning = rule("column_values_to_not_be_null", "warning", column="text")

    result = execute("validate", settings, spec_with(tmp_path, UNIQUE, warning)).result

    folder = folder_of(settings, result["dataset"])
    assert dataset.read(folder).to_pylist() == ROWS
    assert result["num_rows"] == 3
    assert result["num_failed"] == {"critical": 0, "warning": 1, "info": 0}
    assert result["source_digest"] == sources.fingerprint(load_spec(settings.resolved_home() / "m.yaml").data.source)


def test_a_failed_critical_expectation_stops_with_evidence_and_keeps_the_report(
    settings: Settings, tmp_path: Path
) -> None:
    with pytest.raises(DataRejected) as refused:
        execute("validate", settings, spec_with(tmp_path, UNIQUE, SCORE))

    message = str(refused.value)
    assert "1 critical expectation(s) failed on 3 rows" in message
    assert "expect_column_values_to_be_between on score: 1 of 3 rows (33.33 %) break it" in message
    assert "limit: max_value 10; for example 300 (rows.jsonl, row 3)" in message
    (manifest,) = reports(tmp_path)
    assert f"report: file://{manifest.parent / 'report.html'}" in message
    assert not (tmp_path / "store" / "artifacts" / "dataset").exists()
    assert not (tmp_path / "store" / "keys" / "validate").exists()


def test_failing_rows_are_quarantined_with_reason_and_origin(settings: Settings, tmp_path: Path) -> None:
    info = rule("column_values_to_match_regex", "info", column="text", regex="^[^<]")
    result = execute("validate", settings, spec_with(tmp_path, info)).result

    (row,) = pq.read_table(folder_of(settings, result["report"]) / "quarantine.parquet").to_pylist()
    assert row == {
        "quarantine_expectation": "expect_column_values_to_match_regex",
        "quarantine_severity": "info",
        "quarantine_origin": "rows.jsonl, row 1",
        **ROWS[0],
    }


def test_no_more_rows_are_kept_than_asked_for(settings: Settings, tmp_path: Path) -> None:
    write(tmp_path / "rows.jsonl", [{"id": str(number), "text": "x", "score": 100} for number in range(50)])
    spec = spec_with(tmp_path, SCORE | {"severity": "warning"})
    spec["data"]["sample_rows"] = 7

    result = execute("validate", settings, spec).result

    assert pq.read_metadata(folder_of(settings, result["report"]) / "quarantine.parquet").num_rows == 7


def test_the_report_shows_hostile_text_as_text(settings: Settings, tmp_path: Path) -> None:
    info = rule("column_values_to_match_regex", "info", column="text", regex="^[^<]")
    result = execute("validate", settings, spec_with(tmp_path, info)).result

    page = (folder_of(settings, result["report"]) / "report.html").read_text(encoding="utf-8")
    assert "&lt;script&gt;alert(1)" in page
    assert "<script" not in page
    assert "http://" not in page
    assert "https://" not in page


@pytest.mark.parametrize(
    ("broken", "reason"),
    [
        pytest.param(rule("column_mean_to_be_between", column="nope", max_value=1), "nope", id="no-such-column"),
        pytest.param(
            rule("column_values_to_match_regex", column="text", regex="("), "regular expression", id="broken-regex"
        ),
        pytest.param(rule("column_mean_to_be_between", column="text", max_value=1), "text", id="mean-of-words"),
    ],
)
def test_an_expectation_that_cannot_be_computed_fails_alone(
    settings: Settings, tmp_path: Path, broken: dict[str, Any], reason: str
) -> None:
    with pytest.raises(
        DataRejected, match=rf"1 critical.*\n.*{broken['type']} on .*: could not be computed: .*{reason}"
    ):
        execute("validate", settings, spec_with(tmp_path, broken, UNIQUE))

    result = json.loads(reports(tmp_path)[0].with_name("result.json").read_text(encoding="utf-8"))
    assert [each["passed"] for each in result["expectations"]] == [False, True]


def test_a_crash_inside_the_library_is_that_expectations_failure(
    settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def crash(*_: object, **__: object) -> None:
        raise TypeError("Object of type bool is not JSON serializable")

    monkeypatch.setattr("great_expectations.validator.validator.Validator.graph_validate", crash)
    suite = Suite([Expectation(type="expect_column_mean_to_be_between", kwargs={"column": "score", "min_value": 0})])
    corpus = sources.read(source_in(tmp_path))

    (outcome,) = suite.run(corpus.table, sample_rows=1)
    assert not outcome.passed
    assert outcome.error == "TypeError: Object of type bool is not JSON serializable"


@pytest.mark.parametrize(("ranges", "passed"), [([[0, 10]], True), ([[50, 90]], False)])
def test_quantiles_which_no_gx_checkpoint_survives_are_judged(
    settings: Settings, tmp_path: Path, ranges: list[list[int]], passed: bool
) -> None:
    kwargs = {"column": "score", "quantile_ranges": {"quantiles": [0.5], "value_ranges": ranges}}
    suite = Suite([Expectation(type="expect_column_quantile_values_to_be_between", kwargs=kwargs)])

    (outcome,) = suite.run(sources.read(source_in(tmp_path)).table, sample_rows=1)

    assert (outcome.passed, outcome.error) == (passed, "")
    assert outcome.model_dump_json()


@pytest.mark.parametrize(
    ("misspelt", "message"),
    [
        pytest.param(
            rule("column_values_to_be_uniqe", column="id"),
            r"data\.suite\[0\]: type: Great Expectations has no .*; did you mean expect_column_values_to_be_unique",
            id="name",
        ),
        pytest.param(
            rule("column_values_to_be_between", column="score", max_valeu=1),
            r"unknown argument 'max_valeu'; arguments: .*; did you mean max_value",
            id="argument",
        ),
        pytest.param(rule("column_values_to_be_between", max_value=1), "column: field required", id="missing-argument"),
        pytest.param(rule("column_values_to_be_unique", column=3), "column: str type expected", id="type-of-argument"),
        pytest.param(rule("column_values_to_be_unique", column="id", mostly=2), "mostly: .*less than", id="range"),
        pytest.param(
            UNIQUE | {"kwargs": {"column": "id", "severity": "info"}},
            "unknown argument 'severity'",
            id="severity-twice",
        ),
    ],
)
def test_a_misspelt_suite_is_told_before_any_data_is_read(misspelt: dict[str, Any], message: str) -> None:
    with pytest.raises(SpecError, match=message):
        Suite([Expectation.model_validate(misspelt)])


def test_an_unchanged_source_is_not_validated_again_and_a_changed_one_is(settings: Settings, tmp_path: Path) -> None:
    spec = spec_with(tmp_path, UNIQUE)
    first = execute("validate", settings, spec)
    again = execute("validate", settings, spec, run_id="r2")
    write(tmp_path / "rows.jsonl", [*ROWS, {"id": "d", "text": "four", "score": 4}])
    changed = execute("validate", settings, spec, run_id="r3")

    assert (again.reused, again.result) == (True, first.result)
    assert not changed.reused
    assert changed.result["num_rows"] == 4


def test_a_source_that_changes_while_it_is_read_is_refused(
    settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = sources.read

    def write_then_read(source: Any) -> sources.Corpus:
        write(tmp_path / "rows.jsonl", ROWS[:1])
        return real(source)

    monkeypatch.setattr(sources, "read", write_then_read)
    with pytest.raises(DataRejected, match=r"rows\.jsonl changed while it was read; wait until it is written"):
        execute("validate", settings, spec_with(tmp_path, UNIQUE))


def test_duplicate_ids_are_refused_even_by_a_suite_that_allows_them(settings: Settings, tmp_path: Path) -> None:
    write(tmp_path / "rows.jsonl", [ROWS[0], ROWS[0]])

    with pytest.raises(DataRejected, match=r"row 2: id 'a' is also that of rows\.jsonl, row 1"):
        execute("validate", settings, spec_with(tmp_path, rule("table_row_count_to_be_between", min_value=1)))


def test_equal_sources_give_equal_artifacts_in_any_folder(tmp_path: Path) -> None:
    results = []
    for name in ("here", "there"):
        (tmp_path / name).mkdir()
        write(tmp_path / name / "rows.jsonl", ROWS)
        results.append(execute("validate", settings_in(tmp_path / name), spec_with(tmp_path / name, UNIQUE)).result)

    assert results[0]["dataset"] == results[1]["dataset"]
    assert results[0]["source_digest"] == results[1]["source_digest"]


def test_the_demos_suite_passes_on_this_machines_library() -> None:
    """The demo's source, suite and limits, as `make run` uses them."""
    data = load_spec(MODELS / "docs_gpt.yaml").data
    corpus = sources.read(data.source)
    outcomes = Suite(data.suite).run(corpus.table, sample_rows=3)

    assert not [
        (each.type, each.observed) for each in outcomes if not each.passed and each.severity is Severity.CRITICAL
    ]
    assert {each.severity for each in outcomes} == set(Severity)
    dataset.check_identities(corpus)

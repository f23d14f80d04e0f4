"""Model specs: a typo is an error that names the known keys; an impossible value names the way out."""

from __future__ import annotations

from pathlib import Path

import pytest

from pipelines import spec as specs
from pipelines.errors import SpecError
from pipelines.settings import REPOSITORY

SHIPPED = sorted((REPOSITORY / "dags" / "models").glob("*.yaml"))


@pytest.fixture
def spec_file(tmp_path: Path) -> Path:
    return tmp_path / "docs_gpt.yaml"


def test_an_empty_file_is_a_valid_spec_named_after_the_file(spec_file: Path) -> None:
    spec_file.write_text("")
    assert specs.load_spec(spec_file).name == "docs-gpt"


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.stem)
def test_shipped_specs_are_valid(path: Path) -> None:
    assert specs.load_spec(path).name == path.stem.replace("_", "-")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        pytest.param(
            "trainign: {}", r"unknown key 'trainign'; known keys: .*training.*did you mean 'training'", id="section"
        ),
        pytest.param(
            "training: {rnaks: 2}", r"training: unknown key 'rnaks'; known keys: .*did you mean 'ranks'", id="key"
        ),
        pytest.param(
            "data: {suite: [{type: expect_a, kwarg: {}}]}", r"data\.suite\[0\]: unknown key 'kwarg'", id="key-in-list"
        ),
        pytest.param(
            "service: {workers: 4, recorded_requests: 3}",
            r"service: recorded_requests must be 0 or at least one for each of the 4 workers, got 3",
            id="a-worker-that-records-nothing",
        ),
        pytest.param("training: {max_steps: many}", r"training\.max_steps: .*integer.*got 'many'", id="wrong-type"),
        pytest.param(
            "training: {strategy: fdsp}",
            r"training\.strategy: unknown kind 'fdsp'; known kinds: ddp, diloco, fsdp, .*did you mean 'fsdp'",
            id="strategy",
        ),
        pytest.param(
            "training: {strategy: {kind: fsdp, cpu_ofload: true}}",
            r"training\.strategy: unknown key 'cpu_ofload'; known keys: .*did you mean 'cpu_offload'",
            id="key-of-a-strategy",
        ),
        pytest.param(
            "training: {strategy: {kind: fsdp, cpu_offload: maybe}}",
            r"training\.strategy\.cpu_offload: .*boolean.*got 'maybe'",
            id="value-of-a-strategy",
        ),
        pytest.param(
            "training: {strategy: {cpu_offload: true}}",
            r"training\.strategy: must be a kind, or a mapping of `kind` and its settings; known kinds: ddp, .*got {",
            id="strategy-without-kind",
        ),
        pytest.param(
            "training: {strategy: 3}", r"training\.strategy: must be a kind, .*known kinds: .*got 3", id="no-strategy"
        ),
        pytest.param(
            "training: {strategy: tensor, ranks: 3}",
            r"ranks 3 must be a multiple of strategy\.tensor_ranks 2; try ranks 4",
            id="ranks-no-multiple-of-the-mesh",
        ),
        pytest.param(
            "training: {strategy: parameter_server}", r"ranks 1 must be at least 2: a parameter server", id="no-worker"
        ),
        pytest.param(
            "architecture: {model_type: lama}", r"architecture\.model_type: .*'llama', .*got 'lama'", id="architecture"
        ),
        pytest.param(
            "training: {start: {lora: {}}}", r"training\.start: lora needs `weights` to adapt", id="lora-from-scratch"
        ),
        pytest.param(
            "training: {start: {weights: a, lora: {rnk: 2}}}",
            r"training\.start\.lora: unknown key 'rnk'; known keys: alpha, .*did you mean 'rank'",
            id="key-of-lora",
        ),
        pytest.param(
            "training: {start: {weights: 'hf://gpt2'}}", r"weights hf://gpt2 must be hf://<owner>/<name>", id="hub-name"
        ),
        pytest.param(
            "training: {start: {weights: /models/a, revision: main}}",
            r"revision main is of hf:// weights, got weights '/models/a'; remove it",
            id="revision-of-a-folder",
        ),
        pytest.param(
            "training: {start: {weights: 's3://key:secret@bucket/model'}}",
            r"training\.start\.weights: a URL in a spec must hold no password",
            id="weights-with-a-password",
        ),
        pytest.param(
            "training: {ranks: 2, strategy: tensor, start: {weights: a, lora: {}}}",
            r"start\.lora does not go with strategy tensor.*try strategy fsdp",
            id="lora-of-split-layers",
        ),
        pytest.param("training: [1]", r"training: .*got \[1\]", id="list-for-mapping"),
        pytest.param("- 1", r"a spec is a mapping of sections, got list", id="not-a-mapping"),
        pytest.param(
            "training: {batch_size: 15, ranks: 2}", r"batch_size 15 must be divisible .*2 x 1; try 16", id="batch"
        ),
        pytest.param(
            "preparation: {validation_fraction: 1.5}",
            r"validation_fraction: .*less than 0\.5, got 1\.5",
            id="split-over-1",
        ),
        pytest.param(
            "preparation: {shard_dtype: uint16, tokenizer: {vocabulary_size: 70000}}",
            r"vocabulary_size 70000 must be at most 65536 for shard_dtype uint16; set shard_dtype",
            id="vocabulary-over-uint16",
        ),
        pytest.param("architecture: {hidden_size: 100, num_heads: 8}", r"hidden_size 100 must be", id="heads"),
        pytest.param(
            "training: {sequence_length: 1024}",
            r"sequence_length 1024 must not exceed .*context_length 512",
            id="context",
        ),
        pytest.param("training: {learning_rate: .nan}", r"learning_rate: .*got nan", id="nan"),
        pytest.param(
            "data: {source: {kind: parquet}}", r"uri is needed for kind parquet; give", id="source-without-uri"
        ),
        pytest.param("rollout: {weights: [25, 5]}", r"weights \[25, 5\] do not rise; write each", id="weights-fall"),
        pytest.param(
            "rollout: {weights: [5, 100]}", r"rollout\.weights\[1\]: .*less than or equal to 99", id="weight-100"
        ),
        pytest.param("rollout: {weights: []}", r"rollout\.weights: .*at least 1", id="no-weight"),
        pytest.param("rollout: {tau: 0.9}", r"rollout\.tau: .*greater than or equal to 1, got 0\.9", id="tau-below-1"),
        pytest.param("rollout: {alpha: 0}", r"rollout\.alpha: .*greater than 0", id="alpha-0"),
        pytest.param("rollout: {wieghts: [5]}", r"unknown key 'wieghts'; known keys: .*weights", id="rollout-typo"),
        pytest.param("rollout: {session_header: 'a b'}", r"rollout\.session_header: ", id="no-header-name"),
        pytest.param(
            "rollout: {bake_seconds: 3600}",
            r"max_hold_seconds 3600 must exceed .*the longest of which is 3600",
            id="a-bake-that-uses-up-the-patience",
        ),
        pytest.param(
            "rollout: {metric_weights: {errors: 0, latency: 0, validity: 0, quality: 0}}",
            r"no metric has a weight above 0; a rollout that watches nothing",
            id="nothing-is-watched",
        ),
        pytest.param(
            "rollout: {metric_weights: {errors: 0, latency: 0, validity: 0}, quality: {enabled: false}}",
            r"only quality has a weight above 0, but quality\.enabled is false",
            id="what-is-watched-is-off",
        ),
        pytest.param(
            "packaging: {num_reference_requests: 100}",
            r"min_pairs 200 must not exceed packaging\.num_reference_requests 100: each reference is scored once",
            id="more-pairs-than-references",
        ),
        pytest.param(
            "rollout: {replay: {requests_per_second: 0}}",
            r"rollout\.quality needs rollout\.replay\.requests_per_second above 0, or enabled: false",
            id="quality-without-replay",
        ),
        pytest.param(
            "service: {max_tokens: 512}",
            r"max_tokens 512 must be less than .*context_length 512",
            id="no-room-for-a-prompt",
        ),
        pytest.param("schedule: sometimes", r"schedule 'sometimes' is neither a cron", id="schedule"),
        pytest.param("name: x", r"name: comes from the file's name", id="name-in-file"),
        pytest.param("owner: a\nowner: b", r"key 'owner' is given twice", id="key-twice"),
        pytest.param("a: [", r"not YAML", id="broken-yaml"),
        pytest.param("? [a]\n: b", r"not YAML.*unhashable key", id="list-as-key"),
        pytest.param("owner: !!python/object/apply:os.system ['true']", r"not YAML", id="no-code-in-yaml"),
    ],
)
def test_a_mistake_is_one_plain_error(spec_file: Path, text: str, message: str) -> None:
    spec_file.write_text(text)
    with pytest.raises(SpecError, match=message):
        specs.load_spec(spec_file)


def test_every_mistake_is_named_at_once(spec_file: Path) -> None:
    spec_file.write_text("training: {ranks: 0}\nfoo: 1\n")
    with pytest.raises(SpecError) as caught:
        specs.load_spec(spec_file)
    assert "training.ranks" in str(caught.value)
    assert "'foo'" in str(caught.value)


@pytest.mark.parametrize(
    "name",
    ["Docs.yaml", "docs-gpt.yaml", "1docs.yaml", "docs.yml", "d o.yaml", "docs_.yaml", "_.yaml", f"{'d' * 41}.yaml"],
)
def test_a_file_name_that_is_no_model_name_is_refused(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_text("")
    with pytest.raises(SpecError, match="lower case letters"):
        specs.load_spec(tmp_path / name)


@pytest.mark.parametrize("name", ["docs-", "-docs", "docs_gpt", "d" * 41])
def test_a_name_that_no_route_and_no_label_can_have_is_refused(name: str) -> None:
    with pytest.raises(SpecError, match="name: "):
        specs.parse_spec({"name": name})


@pytest.mark.parametrize("name", ["d.yaml", "d2.yaml", f"{'d' * 40}.yaml"])
def test_a_short_and_a_long_name_are_a_models(name: str) -> None:
    path = Path(name)
    assert specs.parse_spec({"name": specs.model_name(path)}).name == path.stem


def test_a_missing_file_names_those_that_exist(tmp_path: Path) -> None:
    (tmp_path / "one.yaml").write_text("")
    with pytest.raises(SpecError, match=r"specs in that folder: one\.yaml"):
        specs.load_spec(tmp_path / "two.yaml")


def test_a_file_that_is_not_utf8_names_the_byte(spec_file: Path) -> None:
    spec_file.write_bytes(b"owner: \xff\xfe")
    with pytest.raises(SpecError, match="not UTF-8 at byte 7"):
        specs.load_spec(spec_file)


def test_parameters_take_their_places_and_are_checked_again() -> None:
    base = specs.parse_spec({"name": "m"})
    merged = specs.merge(base, specs.parse_params({"max_steps": 5, "source": "s3://b/c.parquet"}))
    assert (merged.training.max_steps, merged.training.warmup_steps) == (5, 4)
    assert (merged.data.source.kind, merged.data.source.uri) == ("parquet", "s3://b/c.parquet")
    with pytest.raises(SpecError, match="must be python-docs or end in one of"):
        specs.merge(base, specs.parse_params({"source": "s3://b/c.zip"}))
    with pytest.raises(SpecError, match="max_steps"):
        specs.parse_params({"max_steps": 0})
    with pytest.raises(SpecError, match="unknown key 'stpes'"):
        specs.parse_params({"stpes": 1})


def test_equal_specs_have_equal_canonical_bytes(spec_file: Path) -> None:
    spec_file.write_text("training: {ranks: 1, seed: 1}")
    one = specs.load_spec(spec_file).canonical()
    spec_file.write_text("# a comment\ntraining: {seed: 1}")
    assert specs.load_spec(spec_file).canonical() == one


def test_every_field_of_a_spec_is_documented() -> None:
    schema = specs.ModelSpec.model_json_schema()
    for definition in [schema, *schema["$defs"].values()]:
        for name, field in definition.get("properties", {}).items():
            assert field.get("description") or "$ref" in field, f"{definition.get('title')}.{name} has no docstring"

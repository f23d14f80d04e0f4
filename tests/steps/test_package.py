"""The package step with real BentoML: equal inputs, contents, provenance, and what it refuses."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path

import pytest
import yaml

from pipelines import artifacts
from pipelines.errors import BadInput
from pipelines.formats import bento
from pipelines.formats.provenance import read_provenance
from pipelines.formats.requests import GoldenRequest, ReferenceRequest, read_requests
from pipelines.inference.engine import Engine
from pipelines.inference.golden import is_answered
from pipelines.steps import package
from pipelines.store import Store
from tests.steps import serving


@dataclass(frozen=True)
class Packaged:
    """A packaged tiny model."""

    store: Store
    inputs: package.Inputs
    result: package.Result
    folder: Path


@pytest.fixture(scope="module")
def packaged(tiny_model_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Packaged:
    """Package the tiny model once."""
    root = tmp_path_factory.mktemp("package")
    store = Store(f"file://{root}/store")
    inputs = serving.make_inputs(store, tiny_model_folder, root)
    result = serving.run_package(store, inputs, root / "first", serving.spec())
    return Packaged(store, inputs, result, artifacts.fetch(store, result.bento, root / "cache"))


def test_equal_inputs_give_an_equal_bento(packaged: Packaged, tmp_path: Path) -> None:
    again = serving.run_package(packaged.store, packaged.inputs, tmp_path, serving.spec())
    assert again == packaged.result


def test_other_limits_give_another_version_of_the_same_model(packaged: Packaged, tmp_path: Path) -> None:
    other = serving.run_package(packaged.store, packaged.inputs, tmp_path, serving.spec(max_queue=7))
    assert other.bento != packaged.result.bento
    assert other.tag != packaged.result.tag
    assert other.model_digest == packaged.result.model_digest
    folder = artifacts.fetch(packaged.store, other.bento, tmp_path)
    assert bento.read_service_file(folder / bento.SOURCE).service.max_queue == 7


def test_bento_says_what_it_is(packaged: Packaged) -> None:
    identity = bento.verify(packaged.folder / bento.SOURCE)
    metadata = yaml.safe_load((packaged.folder / "bento.yaml").read_text())
    assert packaged.result.tag == f"{identity.name}:{identity.version}" == f"{metadata['name']}:{metadata['version']}"
    assert packaged.result.model_digest == identity.digest == packaged.inputs.model.digest
    contents = (packaged.folder / bento.SOURCE / bento.CONTENTS_FILE).read_bytes()
    assert identity.version == hashlib.sha256(contents).hexdigest()[:12]


def test_provenance_names_every_ancestor(packaged: Packaged) -> None:
    provenance = read_provenance(packaged.folder / bento.SOURCE)
    inputs = packaged.inputs
    assert provenance.model_digest == inputs.model.digest
    assert provenance.tokens_digest == inputs.tokens.digest
    assert provenance.dataset_digest == inputs.dataset.digest
    assert provenance.code_digest == package.fingerprint(package.configure(serving.spec()))
    assert {"bentoml", "torch", "transformers"} <= provenance.libraries.keys()


def test_golden_requests_are_answered_by_the_packaged_weights(packaged: Packaged) -> None:
    source = packaged.folder / bento.SOURCE
    golden = read_requests(source / "golden.jsonl", GoldenRequest)
    assert len(golden) == packaged.result.num_golden == 3
    with Engine.load(source / bento.MODEL) as engine:
        assert all(is_answered(engine, request) for request in golden)


def test_reference_requests_come_from_held_out_documents(packaged: Packaged) -> None:
    references = read_requests(packaged.folder / bento.SOURCE / "reference.jsonl", ReferenceRequest)
    assert len(references) == packaged.result.num_reference == 5
    assert all(reference.id.startswith("doc-") for reference in references)


def test_bento_holds_no_more_code_than_it_serves_with(packaged: Packaged) -> None:
    source = packaged.folder / bento.SOURCE
    modules = {path.relative_to(source).parts[1] for path in (source / "pipelines").rglob("*.py")}
    assert "inference" in modules
    assert not modules & {"steps", "training", "data", "evaluation", "packaging", "release", "step.py"}


def test_bento_holds_no_time_and_no_place(packaged: Packaged) -> None:
    manifest = json.loads((packaged.folder / "manifest.json").read_text())
    assert not [file["path"] for file in manifest["files"] if file["path"].endswith(".pyc")]
    for path in packaged.folder.rglob("*"):
        if path.suffix in {".yaml", ".json", ".txt", ".in", ".md"}:
            text = path.read_text(encoding="utf-8")
            assert str(packaged.folder.parents[3]) not in text, path
            assert "creation_time: '1970" in text or "creation_time" not in text, path


def test_too_few_documents_for_golden_requests_are_refused(packaged: Packaged, tmp_path: Path) -> None:
    spec = serving.spec()
    greedy = spec.model_copy(update={"packaging": spec.packaging.model_copy(update={"num_golden_requests": 200})})
    with pytest.raises(BadInput, match=r"packaging\.num_golden_requests"):
        serving.run_package(packaged.store, packaged.inputs, tmp_path, greedy)

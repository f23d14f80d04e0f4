"""Sharded ranks begin with the weights of whole ones, and none of them ever holds the whole model."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, PreTrainedModel

from pipelines.spec import ArchitectureConfig
from pipelines.training import export
from pipelines.training.export import TOKENIZER_FILES, save_model
from pipelines.training.model import build_model
from tests.placement_case import LARGE, RANKS, SMALL, Placed, Scenario, place_all
from tests.training_case import VOCABULARY_SIZE

GIVEN = {"weights": "given"}
ADAPTED = {**GIVEN, "lora": {"rank": 4, "dropout": 0.1}}
FILE_BYTES = 2**23

SCENARIOS = [
    *(Scenario(f"random-{strategy}", strategy) for strategy in ("ddp", "fsdp", "tensor")),
    *(Scenario(f"given-{strategy}", strategy, start=GIVEN) for strategy in ("ddp", "fsdp", "tensor")),
    *(Scenario(f"adapted-{strategy}", strategy, start=ADAPTED) for strategy in ("ddp", "fsdp")),
    Scenario("large-random", "fsdp", LARGE, file_bytes=FILE_BYTES),
    Scenario("large-given", "fsdp", LARGE, {"weights": "given-large"}, file_bytes=FILE_BYTES),
    Scenario("large-whole", "ddp", LARGE),
    Scenario("large-one-file", "fsdp", LARGE),
]


@pytest.fixture(scope="module")
def placed(tmp_path_factory: pytest.TempPathFactory) -> Placed:
    """Begin and publish all of them."""
    folder = tmp_path_factory.mktemp("placement")
    built(SMALL).save_pretrained(folder / "given")
    built(LARGE).to(torch.bfloat16).save_pretrained(folder / "given-large", max_shard_size="20MB")
    return place_all(folder, SCENARIOS)


def built(sizes: Mapping[str, int]) -> PreTrainedModel:
    architecture = ArchitectureConfig.model_validate(sizes)
    return build_model(architecture, vocabulary_size=VOCABULARY_SIZE, eos_id=0, seed=7)


def assert_equal(found: Mapping[str, torch.Tensor], expected: Mapping[str, torch.Tensor]) -> None:
    assert found.keys() == expected.keys()
    for name, weight in expected.items():
        assert torch.equal(found[name], weight.to(found[name].dtype)), name


@pytest.mark.parametrize("strategy", ["fsdp", "tensor"])
@pytest.mark.parametrize("start", ["random", "given"])
def test_equal_seeds_begin_with_equal_bits_whatever_the_strategy(start: str, strategy: str, placed: Placed) -> None:
    assert_equal(placed.begun(f"{start}-{strategy}"), placed.begun(f"{start}-ddp"))
    assert all(weight.isfinite().all() for weight in placed.begun(f"{start}-{strategy}").values())


def test_adapters_begin_with_equal_bits_whatever_the_strategy(placed: Placed) -> None:
    begun = placed.begun("adapted-fsdp")
    assert_equal(begun, placed.begun("adapted-ddp"))
    assert all(bool(weight.any()) == (".lora_B." not in name) for name, weight in begun.items())


@pytest.mark.parametrize("name", ["given-ddp", "given-fsdp", "given-tensor", "large-given"])
def test_given_weights_are_what_is_published_when_nothing_was_learnt(name: str, placed: Placed) -> None:
    start = placed.model_folder(name).parent.parent / ("given-large" if name == "large-given" else "given")
    given, published = (
        AutoModelForCausalLM.from_pretrained(each, dtype=torch.float32) for each in (start, placed.model_folder(name))
    )
    assert_equal(dict(published.named_parameters()), dict(given.named_parameters()))


@pytest.mark.parametrize("name", ["large-random", "large-given"])
def test_no_rank_ever_holds_the_whole_model(name: str, placed: Placed) -> None:
    for rank in range(RANKS):
        assert placed.peak_share(name, "begin", rank) < 0.75  # half of it, and a layer
        assert placed.peak_share(name, "publish", rank) < 0.4  # a file, and a weight
    assert placed.peak_share("large-whole", "begin") > 0.9
    assert placed.peak_share("large-one-file", "publish") > 0.9


def test_a_large_model_is_published_in_files_of_bounded_size(placed: Placed) -> None:
    folder = placed.model_folder("large-random")
    index = json.loads((folder / "model.safetensors.index.json").read_bytes())
    files = sorted(folder.glob("*.safetensors"))
    assert len(files) > 5
    assert max(file.stat().st_size for file in files) < FILE_BYTES * 1.01
    for file in files:
        with safe_open(file, "pt") as content:
            assert {index["weight_map"][name] for name in content.keys()} == {file.name}  # noqa: SIM118
    whole = load_file(placed.model_folder("large-one-file") / "model.safetensors")
    assert index["metadata"]["total_size"] == sum(weight.nbytes for weight in whole.values())
    loaded = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    assert_equal(dict(loaded.named_parameters()), whole)


@pytest.mark.parametrize("tie_embeddings", [True, False], ids=["tied", "untied"])
@pytest.mark.parametrize("model_type", ["llama", "gpt_neox", "gpt2"])
def test_a_model_is_published_as_transformers_does(model_type: str, tie_embeddings: bool, tmp_path: Path) -> None:
    for name in TOKENIZER_FILES:
        (tmp_path / name).write_text("{}")
    model = built({**SMALL, "model_type": model_type, "tie_embeddings": tie_embeddings})
    save_model(model, model.named_parameters(), tmp_path, tmp_path / "ours")
    model.save_pretrained(tmp_path / "theirs")
    expected = {file.name: file.read_bytes() for file in (tmp_path / "theirs").iterdir()}
    assert {name: (tmp_path / "ours" / name).read_bytes() for name in expected} == expected


def test_half_a_model_is_never_seen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(export, "MAX_FILE_BYTES", 2**10)
    model = built(SMALL)
    with pytest.raises(FileNotFoundError, match=r"tokenizer\.json"):
        save_model(model, model.named_parameters(), tmp_path, tmp_path / "model")
    assert not (tmp_path / "model").exists()

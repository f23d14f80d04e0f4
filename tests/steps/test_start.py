"""What a training starts from: given weights, adapters beside them, and what of both is published."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file, save_file
from torch import nn
from transformers import AutoModelForCausalLM

from pipelines.errors import AdapterUnsound, BadInput, ExitCode
from pipelines.spec import ArchitectureConfig, TrainingConfig
from pipelines.training.initial import make_room
from pipelines.training.job import TrainingJob
from pipelines.training.loss import NextTokenLoss
from pipelines.training.model import build_model
from pipelines.training.optimizer import build_optimizer
from pipelines.training.start import give_weights, model_without_weights, save_trained
from tests.live_hub import LiveHub
from tests.training_case import VOCABULARY_SIZE, TrainingCase, make_case

SIZES = {"hidden_size": 16, "intermediate_size": 32, "num_layers": 2, "num_heads": 2, "context_length": 64}
FAMILIES = ["llama", "mistral", "qwen2", "qwen3", "gpt_neox", "gpt2"]
BATCH = torch.arange(1, 18).repeat(2, 1)


@pytest.fixture(scope="module")
def case(tmp_path_factory: pytest.TempPathFactory) -> TrainingCase:
    """Return a store with tokens and their tokenizer."""
    return make_case(tmp_path_factory.mktemp("start"))


def architecture_of(model_type: str = "llama", **sizes: Any) -> ArchitectureConfig:
    return ArchitectureConfig.model_validate({"model_type": model_type, "num_key_value_heads": 2, **SIZES, **sizes})


def given(folder: Path, architecture: ArchitectureConfig, vocabulary_size: int = VOCABULARY_SIZE) -> Path:
    """Lay out weights as someone else may have trained them: other seed, dropout, end of text."""
    model = build_model(architecture, vocabulary_size=vocabulary_size, eos_id=3, seed=7)
    model.config.update({"attention_dropout": 0.1, "embd_pdrop": 0.1})
    model.save_pretrained(folder)
    return folder


def job_of(
    case: TrainingCase, workspace: Path, start: Path, architecture: ArchitectureConfig, **lora: Any
) -> TrainingJob:
    """Return a training from the weights in a folder; `lora` are its settings, none: all weights are trained."""
    settings = {"weights": str(start), **({"lora": lora} if lora else {})}
    return TrainingJob(
        architecture=architecture,
        training=TrainingConfig.model_validate({"learning_rate": 0.05, "sequence_length": 16, "start": settings}),
        tokens=case.artifact("tokens"),
        tokenizer=case.artifact("tokenizer"),
        start=start,
        workspace=workspace,
        store_url=case.store.url,
        checkpoints="checkpoints/test",
    )


def starting_model(job: TrainingJob) -> nn.Module:
    """Return the whole model with which a training begins."""
    model = model_without_weights(job)
    make_room(NextTokenLoss(model), "cpu")
    give_weights(job, model)
    return model


def trained(model: nn.Module, job: TrainingJob, steps: int = 3) -> nn.Module:
    """Take a few steps on one batch."""
    optimizer = build_optimizer(model, job.training, torch.device("cpu"))
    for _ in range(steps):
        model(input_ids=BATCH, labels=BATCH).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    return model


def answers(model: nn.Module) -> torch.Tensor:
    with torch.no_grad():
        logits: torch.Tensor = model.eval()(input_ids=BATCH).logits
    return logits


@pytest.mark.parametrize("model_type", FAMILIES)
def test_a_training_goes_on_from_given_weights(model_type: str, case: TrainingCase, tmp_path: Path) -> None:
    start = given(tmp_path / "given", architecture_of(model_type))
    model = starting_model(job_of(case, tmp_path, start, architecture_of(model_type)))
    assert torch.equal(answers(model), answers(AutoModelForCausalLM.from_pretrained(start)))
    assert (model.config.eos_token_id, model.generation_config.eos_token_id) == (0, 0)
    assert {module.p for module in model.modules() if isinstance(module, nn.Dropout)} <= {0.0}
    assert getattr(model.config, "attention_dropout", 0.0) == 0.0


@pytest.mark.parametrize("model_type", FAMILIES)
def test_an_adapter_is_published_merged_and_by_itself(model_type: str, case: TrainingCase, tmp_path: Path) -> None:
    start = given(tmp_path / "given", architecture_of(model_type))
    job = job_of(case, tmp_path / "work", start, architecture_of(model_type), rank=4)
    before = answers(starting_model(job))
    model = trained(starting_model(job), job)
    expected = answers(model)
    assert not torch.allclose(before, expected, atol=1e-3)
    save_trained(job, model, model.named_parameters())
    whole = AutoModelForCausalLM.from_pretrained(job.model_folder)
    torch.testing.assert_close(answers(whole), expected, atol=1e-5, rtol=1e-5)
    beside = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(start), job.adapter_folder)
    torch.testing.assert_close(answers(beside), expected, atol=1e-5, rtol=1e-5)
    assert {file.name for file in job.adapter_folder.iterdir()} == {"adapter_config.json", "adapter_model.safetensors"}


def test_equal_trainings_publish_equal_bytes(case: TrainingCase, tmp_path: Path) -> None:
    start = given(tmp_path / "given", architecture_of())
    folders = []
    for name in ("one", "two"):
        job = job_of(case, tmp_path / name, start, architecture_of(), target_modules=("v_proj", "q_proj"))
        model = trained(starting_model(job), job)
        save_trained(job, model, model.named_parameters())
        folders.append(
            {file.name: file.read_bytes() for file in (*job.adapter_folder.iterdir(), *job.model_folder.iterdir())}
        )
    assert folders[0] == folders[1]
    assert str(tmp_path / "one").encode() not in b"".join(folders[0].values())


def test_an_adapter_that_did_not_move_is_not_published(case: TrainingCase, tmp_path: Path) -> None:
    job = job_of(case, tmp_path / "work", given(tmp_path / "given", architecture_of()), architecture_of(), rank=4)
    model = trained(starting_model(job), job)
    layer = "model.layers.1.self_attn.q_proj"
    nn.init.zeros_(model.get_submodule(layer).lora_B.default.weight)
    with pytest.raises(AdapterUnsound, match=rf"adapters of 1 layers did not move, such as {layer}; raise"):
        save_trained(job, model, model.named_parameters())
    assert not job.model_folder.exists()


def test_an_adapter_whose_base_moved_is_not_published(case: TrainingCase, tmp_path: Path) -> None:
    job = job_of(case, tmp_path / "work", given(tmp_path / "given", architecture_of()), architecture_of(), rank=4)
    model = trained(starting_model(job), job)
    with torch.no_grad():
        model.get_submodule("model.norm").weight[0] += 1e-6
    with pytest.raises(AdapterUnsound, match=r"1 frozen weights changed, such as model\.norm\.weight"):
        save_trained(job, model, model.named_parameters())


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        pytest.param(
            {"hidden_size": 32, "num_layers": 3},
            r"hidden_size 32, num_layers 3 do not fit training\.start\.weights; "
            r"write `architecture: {hidden_size: 16, num_layers: 2}`",
            id="sizes",
        ),
        pytest.param({"tie_embeddings": False}, r"write `architecture: {tie_embeddings: true}`", id="embeddings"),
        pytest.param({"model_type": "qwen2"}, r"write `architecture: {model_type: \"llama\"}`", id="family"),
        pytest.param({"context_length": 65}, r"context_length 65 must be at most 64, the positions of", id="context"),
    ],
)
def test_weights_of_another_architecture_are_refused(
    asked: Mapping[str, Any], message: str, case: TrainingCase, tmp_path: Path
) -> None:
    start = given(tmp_path / "given", architecture_of())
    with pytest.raises(BadInput, match=message):
        starting_model(job_of(case, tmp_path, start, architecture_of(**asked)))


def test_weights_that_differ_from_their_own_configuration_are_refused(case: TrainingCase, tmp_path: Path) -> None:
    start = given(tmp_path / "given", architecture_of())
    job, file = job_of(case, tmp_path, start, architecture_of()), start / "model.safetensors"
    tensors = {name: value.clone() for name, value in load_file(file).items()}  # the file is written anew
    layer = "model.layers.1.mlp.up_proj.weight"
    save_file({name: value for name, value in tensors.items() if name != layer}, file, {"format": "pt"})
    with pytest.raises(BadInput, match=rf"they lack {layer}; give weights and config\.json that were saved together"):
        starting_model(job)
    save_file({**tensors, "model.layers.2.mlp.up_proj.weight": tensors[layer].clone()}, file, {"format": "pt"})
    with pytest.raises(BadInput, match=r"hold what has no place there: model\.layers\.2\.mlp\.up_proj\.weight"):
        starting_model(job)
    save_file({**tensors, layer: torch.zeros(8, 8)}, file, {"format": "pt"})
    with pytest.raises(BadInput, match=r"the weights cannot be loaded as config\.json says"):
        starting_model(job)
    file.write_bytes(file.read_bytes()[:-100])
    with pytest.raises(BadInput, match=r"the weights cannot be loaded as config\.json says"):
        starting_model(job)


def test_an_architecture_that_nobody_trains_here_is_refused(case: TrainingCase, tmp_path: Path) -> None:
    (tmp_path / "given").mkdir()
    (tmp_path / "given" / "config.json").write_text('{"model_type": "opt"}')
    with pytest.raises(BadInput, match=r"architecture 'opt' is not one of llama, mistral"):
        starting_model(job_of(case, tmp_path, tmp_path / "given", architecture_of()))


def test_tokens_of_another_vocabulary_are_refused(case: TrainingCase, tmp_path: Path) -> None:
    small = given(tmp_path / "small", architecture_of(), vocabulary_size=VOCABULARY_SIZE - 1)
    with pytest.raises(
        BadInput, match=rf"vocabulary of {VOCABULARY_SIZE} is larger than the weights' {VOCABULARY_SIZE - 1}"
    ):
        starting_model(job_of(case, tmp_path, small, architecture_of()))
    padded = given(tmp_path / "padded", architecture_of(), vocabulary_size=VOCABULARY_SIZE + 64)
    job = job_of(case, tmp_path, padded, architecture_of())
    shutil.copyfile(job.tokenizer / "tokenizer.json", padded / "tokenizer.json")
    assert starting_model(job).config.vocab_size == VOCABULARY_SIZE + 64
    text = (padded / "tokenizer.json").read_text()
    (padded / "tokenizer.json").write_text(text.replace('"<|endoftext|>": 0', '"<|end|>": 0'))
    with pytest.raises(BadInput, match=r"not made by the weights' tokenizer; set preparation\.tokenizer\.uri"):
        starting_model(job)


def test_a_layer_that_is_not_there_cannot_be_adapted(case: TrainingCase, tmp_path: Path) -> None:
    start = given(tmp_path / "given", architecture_of())
    job = job_of(case, tmp_path, start, architecture_of(), target_modules=("q_proj", "vproj"))
    with pytest.raises(
        BadInput, match=r"target_modules: vproj: no linear layer of llama .*known names: down_proj, .*v_proj"
    ):
        starting_model(job)


def test_a_whole_training_starts_from_the_hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hub = LiveHub()
    monkeypatch.setenv("HF_ENDPOINT", hub.url)
    monkeypatch.setenv("HF_HOME", str(tmp_path / "huggingface"))
    files = {file.name: file.read_bytes() for file in given(tmp_path / "given", architecture_of()).iterdir()}
    commit = hub.push("owner/base", files)
    start = {"weights": "hf://owner/base", "revision": commit, "lora": {"rank": 4}}
    case = make_case(tmp_path, ranks=2, learning_rate=0.02, max_steps=4, start=start)
    status, output = case.run(case.info())
    hub.stop()
    assert status == ExitCode.DONE, output
    result = case.receipt(case.info()).result
    kept = {file.name: file.read_bytes() for file in folder_of(case, result, "start").iterdir()}
    assert {name: kept.get(name) for name in ("config.json", "model.safetensors")} == {
        name: files[name] for name in ("config.json", "model.safetensors")
    }
    base = AutoModelForCausalLM.from_pretrained(folder_of(case, result, "start"))
    whole = AutoModelForCausalLM.from_pretrained(folder_of(case, result, "model"))
    assert not torch.allclose(answers(base), answers(whole), atol=1e-4)
    adapted = PeftModel.from_pretrained(base, folder_of(case, result, "adapter"))
    torch.testing.assert_close(answers(adapted), answers(whole), atol=1e-5, rtol=1e-5)
    described = adapted.peft_config["default"]
    assert (described.base_model_name_or_path, described.revision) == ("owner/base", commit)


def folder_of(case: TrainingCase, result: Mapping[str, Any], kind: str) -> Path:
    return case.store.local_path(f"artifacts/{kind}/{result[kind]['digest']}") or Path()

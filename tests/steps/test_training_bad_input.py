"""What cannot be trained is refused before the first step, with field, value and way out."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from pipelines.errors import BadInput, ExitCode
from pipelines.formats.shards import TokenShards, write_shards
from pipelines.spec import TrainingConfig
from pipelines.training import strategies
from pipelines.training.data import WindowedTokens
from pipelines.training.strategies import open_strategy
from tests.training_case import make_case


def test_more_ranks_than_sequences(tmp_path: Path) -> None:
    case = make_case(tmp_path, architecture={"context_length": 512}, ranks=6, sequence_length=400)
    status, output = case.run(case.info())
    assert status == ExitCode.REFUSED
    assert "error: training.ranks 6 are more than the" in output
    assert "sequences of training.sequence_length 400 in split train; give more data" in output
    assert "Traceback" not in output
    assert case.checkpoint_steps() == []


def test_an_empty_split(tmp_path: Path) -> None:
    write_shards(tmp_path, {"train": []}, vocabulary_size=300, eos_id=0)
    with pytest.raises(BadInput, match="sequence_length 16 needs at least 17 tokens, split train holds 0; give more"):
        WindowedTokens(TokenShards.open(tmp_path).split("train"), 16)


def test_more_ranks_than_gpus(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    for name in ("LOCAL_WORLD_SIZE", "WORLD_SIZE"):
        monkeypatch.setenv(name, "4")
    for name in ("LOCAL_RANK", "RANK"):
        monkeypatch.setenv(name, "3")
    config = TrainingConfig(ranks=4)
    refused = pytest.raises(
        BadInput, match=r"training\.ranks: 4 on this machine, which has 2 GPUs; .* try 2 per machine"
    )
    with refused, open_strategy(config, tmp_path / "rendezvous"):
        pass


def test_gpus_that_torch_cannot_use(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(strategies, "_DRIVER", tmp_path)
    monkeypatch.setenv("WORLD_SIZE", "1")
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    refused = pytest.raises(BadInput, match=r"has GPUs .*, and torch \S+ cannot use them: install .* on the CPU")
    with refused, open_strategy(TrainingConfig(), None):
        pass
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")  # asked for by name
    with open_strategy(TrainingConfig(), None) as strategy:
        assert strategy.device.type == "cpu"

"""Where weights to start from lie: a folder, a bucket, the Hugging Face Hub; and what is not read from there."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest
from huggingface_hub import constants

from pipelines.data import tokenizer, weights
from pipelines.errors import DataRejected, SlipwayError, StoreUnavailable
from pipelines.spec import StartConfig
from tests.live_hub import LiveHub, Refusal
from tests.live_s3 import LiveS3

FILES = {
    "config.json": b'{"model_type": "llama"}',
    "model.safetensors": b"tensors",
    "tokenizer.json": b"{}",
    "README.md": b"# A model",
    "pytorch_model.bin": b"\x80pickle",
    "original/consolidated.safetensors": b"the same, in another layout",
}
TAKEN = {"config.json", "model.safetensors", "tokenizer.json"}
INDEX = {"weight_map": {"a": "model-00001-of-00002.safetensors", "b": "model-00002-of-00002.safetensors"}}


@pytest.fixture(scope="module")
def hub() -> Iterator[LiveHub]:
    server = LiveHub()
    yield server
    server.stop()


@pytest.fixture(autouse=True)
def only_our_hub(hub: LiveHub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(constants, "ENDPOINT", hub.url)
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", hub.url + "/{repo_id}/resolve/{revision}/{filename}")


def laid_out(folder: Path, files: Mapping[str, bytes]) -> StartConfig:
    for name, data in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(data)
    return StartConfig(weights=str(folder))


def without(*names: str) -> dict[str, bytes]:
    return {name: data for name, data in FILES.items() if name not in names}


def test_equal_weights_have_equal_digests_and_arrive_whole_wherever_they_lie(
    hub: LiveHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    s3 = LiveS3()
    try:
        for name, value in s3.environment.items():
            monkeypatch.setenv(name, value)
        bucket = s3.make_bucket()
        for name, data in FILES.items():
            s3.put(bucket, f"models/one/{name}", data)
        commit = hub.push("owner/everywhere", FILES)
        places = [
            laid_out(tmp_path / "one", FILES),
            StartConfig(weights=f"file://{tmp_path / 'one'}"),
            StartConfig(weights=f"s3://{bucket}/models/one"),
            StartConfig(weights="hf://owner/everywhere"),
            StartConfig(weights="hf://owner/everywhere", revision=commit),
        ]
        digests = [weights.fingerprint(start) for start in places]
        assert len(set(digests)) == 1
        for number, start in enumerate(places):
            folder = weights.download(start, tmp_path / f"copy-{number}", digests[0])
            assert folder is not None
            assert {file.name: file.read_bytes() for file in folder.iterdir()} == {n: FILES[n] for n in TAKEN}
    finally:
        s3.stop()


def test_from_scratch_there_is_nothing_to_read(tmp_path: Path) -> None:
    assert weights.fingerprint(StartConfig()) == ""
    assert weights.download(StartConfig(), tmp_path / "start", "") is None


def test_shards_are_taken_as_their_index_names_them(tmp_path: Path) -> None:
    files = {
        **without("model.safetensors"),
        "model.safetensors.index.json": json.dumps(INDEX).encode(),
        **dict.fromkeys(INDEX["weight_map"].values(), b"tensors"),
        "consolidated.safetensors": b"the same, in another layout",
    }
    start = laid_out(tmp_path / "one", files)
    folder = weights.download(start, tmp_path / "copy", weights.fingerprint(start))
    assert folder is not None
    expected = {"config.json", "tokenizer.json", "model.safetensors.index.json", *INDEX["weight_map"].values()}
    assert {file.name for file in folder.iterdir()} == expected


@pytest.mark.parametrize(
    ("files", "message"),
    [
        pytest.param(without("config.json"), r"no config\.json in .*save_pretrained wrote", id="no-configuration"),
        pytest.param(
            without("model.safetensors"),
            r"holds pytorch_model\.bin, but no model\.safetensors .*never read: convert them",
            id="pickle-only",
        ),
        pytest.param({"config.json": b"{}"}, r"holds no weights, but no model\.safetensors", id="no-weights"),
        pytest.param(
            {**without("model.safetensors"), "model.safetensors.index.json": json.dumps(INDEX).encode()},
            r"lacks model-00001-of-00002\.safetensors, model-00002-of.*, which .* names; copy it whole",
            id="a-shard-is-missing",
        ),
        pytest.param(
            {**without("model.safetensors"), "model.safetensors.index.json": b'{"weight_map": ["../secret"]}'},
            r"model\.safetensors\.index\.json cannot be read",
            id="a-broken-index",
        ),
        pytest.param(
            {
                **without("model.safetensors"),
                "model.safetensors.index.json": b'{"weight_map": {"a": "../../secret.safetensors"}}',
            },
            r"lacks \.\./\.\./secret\.safetensors",
            id="an-index-that-leaves-the-folder",
        ),
        pytest.param({}, r"training\.start\.weights: nothing to read at", id="nothing"),
    ],
)
def test_a_folder_that_is_no_model_is_refused(files: Mapping[str, bytes], message: str, tmp_path: Path) -> None:
    with pytest.raises(DataRejected, match=message):
        weights.fingerprint(laid_out(tmp_path / "one", files) if files else StartConfig(weights=str(tmp_path / "one")))


def test_weights_that_change_under_the_step_are_refused(tmp_path: Path) -> None:
    start = laid_out(tmp_path / "one", FILES)
    digest = weights.fingerprint(start)
    (tmp_path / "one" / "model.safetensors").write_bytes(b"others!")
    with pytest.raises(DataRejected, match="changed while the step began; clear the task"):
        weights.download(start, tmp_path / "copy", digest)


def test_a_branch_that_moves_is_another_digest_and_a_commit_is_not(hub: LiveHub) -> None:
    first = hub.push("owner/moving", FILES)
    pinned = StartConfig(weights="hf://owner/moving", revision=first)
    newest = StartConfig(weights="hf://owner/moving")
    before = weights.fingerprint(pinned), weights.fingerprint(newest)
    hub.push("owner/moving", {**FILES, "model.safetensors": b"newer tensors"})
    assert weights.fingerprint(pinned) == before[0] == before[1] != weights.fingerprint(newest)


@pytest.mark.parametrize(
    ("refusal", "revision", "kind", "message"),
    [
        pytest.param(None, "v9", DataRejected, r"hf://owner/refused at v9: no such revision", id="no-revision"),
        pytest.param(
            Refusal(404, "RepoNotFound"), "", DataRejected, r"no such repository; .*HF_TOKEN", id="no-repository"
        ),
        pytest.param(Refusal(403, "GatedRepo"), "", DataRejected, r"access on request; .*set HF_TOKEN", id="gated"),
        pytest.param(Refusal(403), "", DataRejected, r"set HF_TOKEN to a token that may read it", id="forbidden"),
        pytest.param(Refusal(500), "", StoreUnavailable, r"check HF_ENDPOINT and the network", id="away"),
    ],
)
def test_a_refusal_of_the_hub_is_one_plain_error(
    refusal: Refusal | None, revision: str, kind: type[SlipwayError], message: str, hub: LiveHub
) -> None:
    hub.push("owner/refused", FILES)
    hub.refusals = {"owner/refused": refusal} if refusal else {}
    with pytest.raises(kind, match=message):
        weights.fingerprint(StartConfig(weights="hf://owner/refused", revision=revision))


def test_a_hub_that_is_not_there_may_come_back(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(StoreUnavailable, match=r"training\.start\.weights: cannot read hf://owner/away: .*HF_ENDPOINT"):
        weights.fingerprint(StartConfig(weights="hf://owner/away"))


def test_a_tokenizer_comes_from_the_hub_too(hub: LiveHub, tmp_path: Path) -> None:
    trained = tokenizer.train(["return the value of the named attribute"] * 4, 300)
    trained.write(tmp_path)
    hub.push("owner/spoken", {file.name: file.read_bytes() for file in tmp_path.iterdir()})
    assert tokenizer.load_existing("hf://owner/spoken").tokenizer == trained.tokenizer
    with pytest.raises(DataRejected, match=r"preparation\.tokenizer\.uri: cannot read hf://owner/silent: no such"):
        tokenizer.load_existing("hf://owner/silent")

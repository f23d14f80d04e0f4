"""The generation engine against real (tiny) models of several architectures."""

from __future__ import annotations

import asyncio
import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer
from transformers import AutoModelForCausalLM

from pipelines.errors import BadInput
from pipelines.inference.engine import Engine
from pipelines.inference.errors import EngineStopped, ModelUnusable, QueueFull, RequestRefused
from pipelines.inference.generation import merge
from pipelines.inference.golden import build_golden, is_answered
from pipelines.inference.model import load_model
from pipelines.inference.references import build_references
from pipelines.inference.request import Completion, FinishReason, SamplingParams, ScoreItem
from pipelines.inference.sequence import SequenceState
from pipelines.inference.text import REPLACEMENT, Detokenizer, StopFilter
from tests.steps.conftest import CORPUS, make_model
from tests.steps.engine_case import held

TIMEOUT_SECONDS = 60
LENGTHS = (1, 2, 3, 5, 8, 13, 21, 34, 40, 1, 7, 16, 17, 32, 33, 50)
"""Prompt lengths of a full batch: equal, adjacent and far apart."""


@pytest.fixture(scope="module")
def engine(tiny_model_folder: Path) -> Iterator[Engine]:
    """A running engine on the tiny Llama."""
    with Engine.load(tiny_model_folder) as running:
        yield running


def prompts_of(lengths: tuple[int, ...]) -> list[tuple[int, ...]]:
    """Return random prompts of the given lengths."""
    rng = np.random.default_rng(7)
    return [tuple(rng.integers(1, 384, length).tolist()) for length in lengths]


def greedy_by_transformers(folder: Path, prompt: tuple[int, ...], max_tokens: int) -> tuple[int, ...]:
    """Return what transformers' own `generate` answers, without the end-of-text token."""
    model = AutoModelForCausalLM.from_pretrained(folder)
    ids = torch.tensor([prompt])
    answer = model.generate(
        ids, attention_mask=torch.ones_like(ids), max_new_tokens=max_tokens, do_sample=False, pad_token_id=0
    )[0, len(prompt) :].tolist()
    return tuple(answer[:-1] if answer[-1] == 0 else answer)


def together(engine: Engine, prompts: list[tuple[int, ...]], params: SamplingParams) -> list[Completion]:
    """Submit all prompts at once and return all answers."""
    return [handle.result(TIMEOUT_SECONDS) for handle in [engine.submit(prompt, params) for prompt in prompts]]


@pytest.mark.parametrize("model_type", ["llama", "mistral", "qwen2", "qwen3", "gpt_neox", "gpt2"])
def test_greedy_tokens_are_equal_alone_in_a_batch_and_in_transformers(model_type: str, tmp_path: Path) -> None:
    folder = make_model(tmp_path, model_type=model_type)
    prompts, params = prompts_of(LENGTHS), SamplingParams(max_tokens=24)
    with Engine.load(folder, max_batch=16) as engine:
        alone = [engine.generate(prompt, params).tokens for prompt in prompts]
        batched = [answer.tokens for answer in together(engine, prompts, params)]
    assert batched == alone
    assert [greedy_by_transformers(folder, prompt, 24) for prompt in prompts[:5]] == alone[:5]


def test_requests_that_join_late_or_wait_for_a_row_get_the_same_answers(
    engine: Engine, tiny_model_folder: Path
) -> None:
    prompts = prompts_of(LENGTHS)
    settings = [SamplingParams(max_tokens=3 + index * 2 % 29) for index in range(len(prompts))]
    expected = [engine.generate(prompt, params).tokens for prompt, params in zip(prompts, settings, strict=True)]
    with Engine(load_model(tiny_model_folder), max_batch=3, max_prefill_tokens=20) as crowded:
        handles = [crowded.submit(prompt, params) for prompt, params in zip(prompts, settings, strict=True)]
        assert [handle.result(TIMEOUT_SECONDS).tokens for handle in handles] == expected


def test_an_end_token_ends_the_answer_and_is_not_part_of_it(tiny_model_folder: Path, tmp_path: Path) -> None:
    prompt = prompts_of((5,))[0]
    with Engine.load(tiny_model_folder) as engine:
        free = engine.generate(prompt, SamplingParams(max_tokens=12))
    folder = shutil.copytree(tiny_model_folder, tmp_path / "model")
    config = folder / "generation_config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {"eos_token_id": [0, free.tokens[6]]}))
    with Engine.load(folder) as engine:
        ended = engine.generate(prompt, SamplingParams(max_tokens=12))
    assert ended.tokens == free.tokens[: free.tokens.index(free.tokens[6])]
    assert (free.finish_reason, ended.finish_reason) == (FinishReason.LENGTH, FinishReason.STOP)


def test_a_sample_depends_on_its_seed_and_not_on_the_batch(engine: Engine) -> None:
    prompt, others = prompts_of((9,))[0], prompts_of(LENGTHS)[:8]
    params = SamplingParams(max_tokens=20, temperature=1.2, top_p=0.95, seed=5)
    alone = engine.generate(prompt, params).tokens
    crowd = [engine.submit(other, SamplingParams(max_tokens=30, temperature=0.7, seed=1)) for other in others]
    assert engine.generate(prompt, params).tokens == alone
    assert all(len(handle.result(TIMEOUT_SECONDS).tokens) <= 30 for handle in crowd)
    assert engine.generate(prompt, SamplingParams(max_tokens=20, temperature=1.2, top_p=0.95, seed=6)).tokens != alone


def test_samples_follow_the_model_s_distribution(engine: Engine) -> None:
    prompt = prompts_of((4,))[0]
    top = engine.generate(prompt, SamplingParams(max_tokens=1, logprobs=1)).logprobs[0].top[0]
    seeds = [SamplingParams(max_tokens=1, temperature=1.0, seed=seed) for seed in range(200)]
    drawn = [engine.generate(prompt, params).tokens for params in seeds]
    share = sum(tokens == (top[0],) for tokens in drawn) / len(drawn)
    assert share == pytest.approx(np.exp(top[1]), abs=4 * np.sqrt(0.25 / 200))


def test_a_tiny_nucleus_is_greedy(engine: Engine) -> None:
    prompt = prompts_of((9,))[0]
    narrow = engine.generate(prompt, SamplingParams(max_tokens=20, temperature=1.0, top_p=1e-6, seed=3))
    assert narrow.tokens == engine.generate(prompt, SamplingParams(max_tokens=20)).tokens


def test_scores_equal_log_softmax_of_the_model(engine: Engine, tiny_model_folder: Path) -> None:
    items = [ScoreItem(text[:cut], text[cut:]) for text, cut in zip(prompts_of((9, 30, 2)), (1, 12, 1), strict=True)]
    scores = engine.score_batch(items)
    model = AutoModelForCausalLM.from_pretrained(tiny_model_folder)
    for item, found in zip(items, scores, strict=True):
        ids = torch.tensor(item.prompt + item.continuation)
        with torch.inference_mode():
            logprobs = model(ids[None]).logits[0].log_softmax(-1)
        expected = logprobs[len(item.prompt) - 1 : -1].gather(1, ids[len(item.prompt) :, None])[:, 0]
        np.testing.assert_allclose(found, expected.numpy(), atol=1e-4)


def test_echo_scores_the_prompt(engine: Engine) -> None:
    prompts = prompts_of((6, 11))
    params = SamplingParams(max_tokens=0, echo=True, logprobs=2)
    for prompt, answer in zip(prompts, together(engine, prompts, params), strict=True):
        assert (answer.tokens, answer.finish_reason) == ((), FinishReason.LENGTH)
        assert answer.text == engine.tokenizer.decode(list(prompt))
        assert [entry.token for entry in answer.prompt_logprobs] == list(prompt)
        assert answer.prompt_logprobs[0].logprob is None
        found = [entry.logprob for entry in answer.prompt_logprobs[1:]]
        np.testing.assert_allclose(found, engine.score(prompt[:1], prompt[1:]), atol=1e-4)
        assert all(len(entry.top) == 2 for entry in answer.prompt_logprobs[1:])


def test_logprobs_belong_to_the_generated_tokens(engine: Engine) -> None:
    prompt = prompts_of((6,))[0]
    answer = engine.generate(prompt, SamplingParams(max_tokens=8, logprobs=0))
    found = [entry.logprob for entry in answer.logprobs]
    np.testing.assert_allclose(found, engine.score(prompt, answer.tokens), atol=1e-4)


def test_streamed_pieces_are_the_answer_and_never_show_the_start_of_a_stop_sequence(engine: Engine) -> None:
    prompt = engine.encode("Return the")
    whole = engine.generate(prompt, SamplingParams(max_tokens=40))
    middle = len(whole.text) // 2
    stop = whole.text[middle : middle + 4]
    params = SamplingParams(max_tokens=40, stop=(stop, "never in the text"))
    pieces = list(engine.submit(prompt, params))
    assert "".join(piece.text for piece in pieces) == whole.text[: whole.text.index(stop)]
    assert [piece.finish_reason for piece in pieces] == [None] * (len(pieces) - 1) + [FinishReason.STOP]
    free = list(engine.submit(prompt, SamplingParams(max_tokens=40)))
    assert "".join(piece.text for piece in free) == whole.text
    assert tuple(token for piece in free for token in piece.tokens) == whole.tokens


def test_a_cancelled_request_stops_computing_and_frees_its_row(tiny_model_folder: Path) -> None:
    with Engine.load(tiny_model_folder, max_batch=1) as engine:
        with held(engine):
            long, waiting = (engine.submit(prompt, SamplingParams(max_tokens=100)) for prompt in prompts_of((3, 4)))
            next(iter(long))
            long.cancel()
            waiting.cancel()
        assert long.result(TIMEOUT_SECONDS).finish_reason == FinishReason.CANCELLED
        assert waiting.result(TIMEOUT_SECONDS).tokens == ()
        before = engine.num_passes
        assert before < 100
        assert len(engine.generate(prompts_of((5,))[0], SamplingParams(max_tokens=4)).tokens) == 4
        assert engine.num_passes == before + 4
        assert (engine.num_running, engine.num_waiting) == (0, 0)


def test_a_cancelled_request_gives_its_place_in_the_queue_away(tiny_model_folder: Path) -> None:
    with Engine.load(tiny_model_folder, max_batch=1, max_queue=2) as engine:
        with held(engine):
            running = engine.submit((1,), SamplingParams(max_tokens=120))
            next(iter(running))
            waiting = [engine.submit((2,), SamplingParams(max_tokens=2)) for _ in range(2)]
            waiting[0].cancel()
        assert waiting[0].result(TIMEOUT_SECONDS).finish_reason == FinishReason.CANCELLED
        assert engine.submit((3,), SamplingParams(max_tokens=2)).result(TIMEOUT_SECONDS).tokens
        assert running.result(TIMEOUT_SECONDS).finish_reason == FinishReason.LENGTH


def test_a_full_queue_refuses_and_says_when_to_come_back(tiny_model_folder: Path) -> None:
    with Engine.load(tiny_model_folder, max_batch=1, max_queue=2) as engine, held(engine):
        next(iter(engine.submit((1,), SamplingParams(max_tokens=120))))
        for _ in range(2):
            engine.submit((1,), SamplingParams(max_tokens=120))
        with pytest.raises(QueueFull, match="2 requests wait already; try again in") as refused:
            engine.submit((1,), SamplingParams(max_tokens=120))
        assert refused.value.retry_after_seconds > 0
        assert engine.num_waiting == 2


def test_async_consumers_share_one_engine(engine: Engine) -> None:
    prompts = prompts_of(LENGTHS[:6])
    params = SamplingParams(max_tokens=12)

    async def stream(prompt: tuple[int, ...]) -> tuple[int, ...]:
        return tuple([token async for piece in engine.submit(prompt, params) for token in piece.tokens])

    async def everything() -> list[tuple[int, ...]]:
        streamed = asyncio.gather(*(stream(prompt) for prompt in prompts))
        whole = [await engine.submit(prompt, params).completion() for prompt in prompts]
        assert [answer.tokens for answer in whole] == list(await streamed)
        return list(await streamed)

    expected = [engine.generate(prompt, params).tokens for prompt in prompts]
    assert asyncio.run(asyncio.wait_for(everything(), TIMEOUT_SECONDS)) == expected


def test_leaving_a_stream_cancels_its_request(engine: Engine) -> None:
    async def leave() -> Completion:
        handle = engine.submit(prompts_of((3,))[0], SamplingParams(max_tokens=120))
        stream = handle.__aiter__()
        await anext(stream)
        await stream.aclose()
        let_go.set()
        return await handle.completion()

    with held(engine) as let_go:
        answer = asyncio.run(asyncio.wait_for(leave(), TIMEOUT_SECONDS))
    assert answer.finish_reason == FinishReason.CANCELLED


def test_timings_are_ordered(engine: Engine) -> None:
    timings = engine.generate(prompts_of((5,))[0], SamplingParams(max_tokens=6)).timings
    assert timings.first_token_seconds is not None
    assert timings.per_token_seconds is not None
    assert 0 <= timings.queued_seconds <= timings.first_token_seconds <= timings.total_seconds
    assert timings.per_token_seconds <= timings.total_seconds


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        pytest.param({"max_tokens": 0}, "max_tokens must be at least 1", id="no-tokens"),
        pytest.param({"temperature": -1.0}, "temperature must be within 0..10, got -1.0", id="negative-temperature"),
        pytest.param({"temperature": float("nan")}, "temperature must be within", id="nan-temperature"),
        pytest.param({"top_p": 0.0}, "top_p must be above 0", id="empty-nucleus"),
        pytest.param({"stop": ("",)}, "stop must be at most 16 non-empty texts", id="empty-stop"),
        pytest.param({"logprobs": 21}, "logprobs must be 0..20, got 21", id="too-many-logprobs"),
    ],
)
def test_impossible_sampling_is_refused_by_field(settings: dict[str, object], message: str) -> None:
    with pytest.raises(RequestRefused, match=message):
        SamplingParams(**settings)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("prompt", "message"),
    [
        pytest.param((), "prompt must have at least one token", id="empty"),
        pytest.param((384,), r"prompt has a token outside 0\.\.383", id="unknown-token"),
        pytest.param((1,) * 120, "prompt has 120 tokens and 16 more .* must not exceed 128", id="too-long"),
    ],
)
def test_impossible_prompts_are_refused(engine: Engine, prompt: tuple[int, ...], message: str) -> None:
    with pytest.raises(RequestRefused, match=message) as refused:
        engine.submit(prompt, SamplingParams())
    assert refused.value.field == "prompt"


def test_a_failing_model_ends_every_request_and_the_engine(tiny_model_folder: Path) -> None:
    loaded = load_model(tiny_model_folder)
    with Engine(loaded) as engine:
        loaded.model.lm_head.weight = torch.nn.Parameter(torch.zeros(384, 31))
        handle = engine.submit((1, 2), SamplingParams())
        with pytest.raises(EngineStopped, match="the model failed"):
            handle.result(TIMEOUT_SECONDS)
        with pytest.raises(EngineStopped):
            list(handle)
        engine.close()
        assert not engine.is_healthy
        with pytest.raises(EngineStopped, match="closed"):
            engine.submit((1, 2), SamplingParams())


def test_several_prompts_are_queued_together_or_not_at_all(engine: Engine, tiny_model_folder: Path) -> None:
    prompts, params = prompts_of((3, 4, 5)), SamplingParams(max_tokens=4)
    answers = [generation.result(TIMEOUT_SECONDS).tokens for generation in engine.submit_all(prompts, params)]
    assert answers == [engine.generate(prompt, params).tokens for prompt in prompts]
    before = engine.num_passes
    with pytest.raises(RequestRefused, match="token outside"):
        engine.submit_all([*prompts, (384,)], params)
    assert engine.num_passes == before
    with Engine.load(tiny_model_folder, max_queue=2) as crowded:
        with pytest.raises(QueueFull):
            crowded.submit_all(prompts, params)
        assert (crowded.num_waiting, crowded.num_passes) == (0, 0)


def test_merged_streams_say_whose_piece_it_is_and_leaving_them_cancels_all(engine: Engine) -> None:
    prompts, params = prompts_of((3, 4, 5)), SamplingParams(max_tokens=12)

    async def read() -> list[str]:
        texts = [""] * len(prompts)
        async for number, chunk in merge(engine.submit_all(prompts, params)):
            texts[number] += chunk.text
        return texts

    async def leave() -> list[Completion]:
        handles = engine.submit_all(prompts, SamplingParams(max_tokens=120))
        pieces = merge(handles)
        await anext(pieces)
        await pieces.aclose()
        let_go.set()
        return [await handle.completion() for handle in handles]

    assert asyncio.run(read()) == [engine.generate(prompt, params).text for prompt in prompts]
    with held(engine) as let_go:
        assert {answer.finish_reason for answer in asyncio.run(leave())} == {FinishReason.CANCELLED}


def test_an_answer_that_ends_before_its_first_token_is_invalid(tiny_model_folder: Path, tmp_path: Path) -> None:
    prompt = prompts_of((5,))[0]
    with Engine.load(tiny_model_folder) as engine:
        first = engine.generate(prompt, SamplingParams(max_tokens=1)).tokens[0]
        assert engine.generate(prompt, SamplingParams(max_tokens=0, echo=True, logprobs=0)).is_valid
    folder = shutil.copytree(tiny_model_folder, tmp_path / "model")
    config = folder / "generation_config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {"eos_token_id": [first]}))
    with Engine.load(folder) as engine:
        answer = engine.generate(prompt, SamplingParams(max_tokens=4))
    assert (answer.tokens, answer.finish_reason, answer.is_valid) == ((), FinishReason.STOP, False)


@pytest.mark.parametrize("number", [float("nan"), float("inf")], ids=str)
def test_logits_that_are_no_numbers_make_an_answer_invalid(tiny_model_folder: Path, number: float) -> None:
    loaded = load_model(tiny_model_folder)
    asked = (
        SamplingParams(max_tokens=2),
        SamplingParams(max_tokens=2, temperature=1.0),
        SamplingParams(max_tokens=0, echo=True, logprobs=0),
    )
    with Engine(loaded) as engine:
        assert engine.generate((1, 2, 3), asked[0]).is_valid
        loaded.model.lm_head.weight[5] = number
        answers = [engine.generate((1, 2, 3), params) for params in asked]
        assert not any(answer.is_valid for answer in answers)
        assert answers[0].tokens == (5, 5)  # there is one, and it is nothing else that is wrong


def test_bytes_that_are_no_text_make_an_answer_invalid_unless_cut_off_by_its_length(tiny_tokenizer: Path) -> None:
    tokenizer = Tokenizer.from_file(str(tiny_tokenizer / "tokenizer.json"))
    word, smile = tokenizer.encode("Return").ids, tokenizer.encode("🙂").ids

    def is_valid(tokens: list[int], max_tokens: int) -> bool:
        sequence = SequenceState((1,), SamplingParams(max_tokens=max_tokens), tokenizer, frozenset({0}))
        for token in tokens:
            sequence.accept(token, None, is_finite=True)
        return sequence.completion().is_valid

    assert len(smile) > 1
    assert is_valid([*smile, *word, 0], 99)
    assert not is_valid([*smile[:-1], *word, 0], 99)
    assert not is_valid([*word, *smile[:-1], 0], 99)
    assert is_valid([*word, *smile[:-1]], len(word) + len(smile) - 1)


def test_closing_ends_what_is_unfinished(tiny_model_folder: Path) -> None:
    engine = Engine.load(tiny_model_folder, max_batch=1)
    handles = [engine.submit((1, 2), SamplingParams(max_tokens=120)) for _ in range(3)]
    engine.close()
    for handle in handles[1:]:
        with pytest.raises(EngineStopped, match="closed"):
            handle.result(TIMEOUT_SECONDS)


def test_pickled_weights_are_never_read(tiny_model_folder: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(tiny_model_folder, tmp_path / "model")
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    with pytest.raises(ModelUnusable, match="no safetensors weights"):
        load_model(folder)


def test_a_folder_without_a_tokenizer_is_refused(tiny_model_folder: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(tiny_model_folder, tmp_path / "model")
    (folder / "tokenizer.json").unlink()
    with pytest.raises(ModelUnusable, match=r"has no tokenizer\.json"):
        load_model(folder)


def test_missing_weights_are_named_and_never_made_up(tiny_model_folder: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(tiny_model_folder, tmp_path / "model")
    weights = load_file(folder / "model.safetensors")
    del weights["model.layers.1.mlp.up_proj.weight"]
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ModelUnusable, match=r"lacks weights: model\.layers\.1\.mlp\.up_proj\.weight"):
        load_model(folder)


def test_truncated_weights_are_refused(tiny_model_folder: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(tiny_model_folder, tmp_path / "model")
    data = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(data[: len(data) // 2])
    with pytest.raises(ModelUnusable, match="cannot be loaded"):
        load_model(folder)


def test_an_architecture_with_other_state_is_refused(tiny_model_folder: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(tiny_model_folder, tmp_path / "model")
    config = json.loads((folder / "config.json").read_text()) | {"layer_types": ["full_attention", "linear_attention"]}
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(ModelUnusable, match="linear_attention"):
        load_model(folder)


def test_a_sliding_window_bounds_the_context(tmp_path: Path) -> None:
    assert load_model(make_model(tmp_path, model_type="mistral", sliding_window=48)).max_positions == 48


@pytest.mark.parametrize("text", ["naïve café", "東京 and Ωmega", "🙂🙂 smile", "plain words"])
def test_characters_are_shown_whole(tiny_tokenizer: Path, text: str) -> None:
    tokenizer = Tokenizer.from_file(str(tiny_tokenizer / "tokenizer.json"))
    detokenizer = Detokenizer(tokenizer)
    pieces = [detokenizer.feed(token) for token in tokenizer.encode(text).ids]
    assert "".join(pieces) == text
    assert not any(REPLACEMENT in piece for piece in pieces)
    assert detokenizer.flush() == ""


def test_bytes_that_never_become_a_character_are_shown_at_last(tiny_tokenizer: Path) -> None:
    tokenizer = Tokenizer.from_file(str(tiny_tokenizer / "tokenizer.json"))
    broken = tokenizer.encode("🙂").ids[0]
    detokenizer = Detokenizer(tokenizer)
    shown = "".join(detokenizer.feed(token) for token in [broken] * 40)
    assert len(shown) >= 30
    assert shown + detokenizer.flush() == tokenizer.decode([broken] * 40)


def test_a_stop_filter_releases_what_did_not_become_a_stop() -> None:
    stops = StopFilter(("END", "\n\n"))
    assert stops.feed("the E") == ("the ", False)
    assert stops.feed("N") == ("", False)
    assert stops.feed("ough\n") == ("ENough", False)
    assert stops.flush() == "\n"


def test_golden_answers_identify_weights(engine: Engine, tmp_path: Path) -> None:
    golden = build_golden(engine, list(CORPUS), count=3, max_tokens=8, min_margin=0.01)
    assert len(golden) == 3
    assert all(request.margin >= 0.01 and request.expected_tokens for request in golden)
    assert all(is_answered(engine, request) for request in golden)
    with Engine.load(make_model(tmp_path, seed=1)) as other:
        assert not any(is_answered(other, request) for request in golden)


def test_too_few_clear_answers_are_refused_with_a_way_out(engine: Engine) -> None:
    with pytest.raises(BadInput, match=r"3 are wanted, but only 0 .*set packaging\.num_golden_requests to 0"):
        build_golden(engine, list(CORPUS), count=3, max_tokens=8, min_margin=1e6)


def test_references_are_cut_between_words_and_short_documents_passed_over(tiny_tokenizer: Path) -> None:
    tokenizer = Tokenizer.from_file(str(tiny_tokenizer / "tokenizer.json"))
    documents = [("short", "Return"), ("long", CORPUS[1] * 3), ("other", CORPUS[3] * 3), ("third", CORPUS[0] * 9)]
    references = build_references(tokenizer, documents, count=2, context_limit=64)
    assert [reference.id for reference in references] == ["long", "other"]
    for reference, (_, text) in zip(references, documents[1:], strict=False):
        assert text.startswith(reference.prompt + reference.continuation)
        assert not reference.prompt.endswith(" ")
        assert reference.continuation.startswith(" ")
        tokens = tokenizer.encode(reference.prompt + reference.continuation).ids
        assert 16 < len(tokens) <= 34

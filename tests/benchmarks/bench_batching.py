"""Benchmark of the generation engine: batching against one request at a time, and a lone request's overhead.

    python tests/benchmarks/bench_batching.py

Bars: batching >= 2x unbatched throughput at 16 concurrent requests; a lone request no slower than a plain loop of
`transformers` with its KV cache. Both are ratios of paired rounds, so a busy machine slows both sides alike; the
second is one of CPU time, which other processes change least.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable

import numpy as np
import torch
from tokenizers import Tokenizer, models
from transformers import DynamicCache, LlamaConfig, LlamaForCausalLM

from pipelines.inference.engine import Engine
from pipelines.inference.model import LoadedModel
from pipelines.inference.request import SamplingParams

CONCURRENCY = 16
PROMPT_TOKENS = 32
ANSWER_TOKENS = 64
GREEDY = SamplingParams(max_tokens=ANSWER_TOKENS)


def demo_model() -> LlamaForCausalLM:
    """Return a random-weight Llama of the demo's size: 1.1 M parameters."""
    torch.manual_seed(0)
    return LlamaForCausalLM(
        LlamaConfig(
            vocab_size=2048,
            hidden_size=128,
            intermediate_size=384,
            num_hidden_layers=4,
            num_attention_heads=4,
            max_position_embeddings=512,
            tie_word_embeddings=True,
            eos_token_id=None,
        )
    ).eval()


def plain_loop(model: LlamaForCausalLM, prompt: tuple[int, ...]) -> list[int]:
    """Return the greedy answer from a loop over `transformers` with its own KV cache."""
    cache, ids, answer = DynamicCache(config=model.config), torch.tensor([prompt]), []
    with torch.inference_mode():
        for _ in range(ANSWER_TOKENS):
            logits = model(input_ids=ids, past_key_values=cache, use_cache=True, logits_to_keep=1).logits
            ids = logits[:, -1].argmax(dim=-1, keepdim=True)
            answer.append(int(ids))
    return answer


def seconds(work: Callable[[], object], clock: Callable[[], float] = time.perf_counter) -> float:
    """Return how long `work` takes by `clock`."""
    started = clock()
    work()
    return clock() - started


def describe(name: str, ratios: list[float], bar: float) -> None:
    """Print the median of paired ratios with a bootstrap interval."""
    resampled = np.median(np.random.default_rng(0).choice(ratios, (2000, len(ratios))), axis=1)
    low, high = np.quantile(resampled, [0.025, 0.975])
    print(
        f"{name}: {statistics.median(ratios):.2f}x (95 % CI {low:.2f}-{high:.2f}, {len(ratios)} rounds), bar {bar:g}x"
    )


def batching_rounds(loaded: LoadedModel, prompts: list[tuple[int, ...]], rounds: int) -> list[float]:
    """Return, per round, the seconds of all prompts one after the other over those of all at once."""
    with Engine(loaded, max_batch=CONCURRENCY) as engine:

        def one_by_one() -> None:
            for prompt in prompts:
                engine.generate(prompt, GREEDY)

        def together() -> None:
            for generation in [engine.submit(prompt, GREEDY) for prompt in prompts]:
                generation.result()

        one_by_one()
        pairs = [(seconds(one_by_one), seconds(together)) for _ in range(rounds)]
    rate = CONCURRENCY * ANSWER_TOKENS / statistics.median(batched for _, batched in pairs)
    print(f"{rate:.0f} tokens/s with {CONCURRENCY} concurrent requests")
    return [alone / batched for alone, batched in pairs]


def lone_rounds(loaded: LoadedModel, prompt: tuple[int, ...], rounds: int) -> list[float]:
    """Return, per round, the CPU seconds of the plain loop over the engine's, both on one thread."""
    torch.set_num_threads(1)  # idle threads of the other side's pool would spin and count as CPU time
    with Engine(loaded, max_batch=CONCURRENCY, threads=1) as engine:

        def plain() -> None:
            plain_loop(loaded.model, prompt)

        def lone() -> None:
            engine.generate(prompt, GREEDY)

        seconds(plain), seconds(lone)
        return [seconds(plain, time.process_time) / seconds(lone, time.process_time) for _ in range(rounds)]


def main() -> None:
    """Run both comparisons and print their ratios."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=9, help="paired rounds (default 9)")
    rounds = parser.parse_args().rounds
    loaded = LoadedModel(demo_model(), Tokenizer(models.BPE()), frozenset(), 512, 2048)
    rng = np.random.default_rng(1)
    prompts = [tuple(rng.integers(1, 2048, PROMPT_TOKENS).tolist()) for _ in range(CONCURRENCY)]
    describe("batching over one at a time", batching_rounds(loaded, prompts, rounds), 2.0)
    describe("lone request over a plain transformers loop", lone_rounds(loaded, prompts[0], 4 * rounds), 1.0)


if __name__ == "__main__":
    main()

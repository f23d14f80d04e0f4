"""What a finished run has made, read from its receipts, and the proof that it serves."""

from __future__ import annotations

import json
import shlex
from collections.abc import Mapping
from typing import Any

import httpx
from pydantic import BaseModel, ConfigDict

from pipelines.errors import StackError
from pipelines.step import Receipt, quote_run_id
from pipelines.store import Store

PROMPT = "Return the"
ANSWER_SECONDS = 60.0


class Perplexity(BaseModel):
    """How well the model predicts held-out text; lower is better."""

    model_config = ConfigDict(frozen=True)

    value: float
    low: float
    high: float
    baseline: float

    def text(self) -> str:
        """Return the figure with its interval, and against its baseline."""
        interval = f"95 % interval {self.low:.1f} to {self.high:.1f}"
        return f"{self.value:.1f} ({interval}), {self.value / self.baseline:.2f}x the unigram's {self.baseline:.1f}"


class Summary(BaseModel):
    """What a finished run has made."""

    model_config = ConfigDict(frozen=True)

    model: str
    version: int
    digest: str
    endpoint: str
    perplexity: Perplexity | None
    """Of the model that this run made."""

    made: str | None
    """Digest of the model that this run made; another one serves when this one was in production before."""

    reused: dict[str, str]
    """Run that did the work, by step that was not done again."""

    @property
    def url(self) -> str:
        """Return the address that completes a prompt."""
        return f"{self.endpoint.rstrip('/')}/v1/completions"

    @property
    def request(self) -> dict[str, Any]:
        """Return the request of the curl line."""
        return {"model": self.model, "prompt": PROMPT, "max_tokens": 16, "temperature": 0}

    def curl(self) -> str:
        """Return the request as a line for a shell."""
        body = shlex.quote(json.dumps(self.request))
        return f"curl -s {self.url} -H 'Content-Type: application/json' -d {body}"

    def text(self, answer: str) -> str:
        """Return the summary for a terminal."""
        steps_by_run: dict[str, list[str]] = {}
        for step, run in self.reused.items():
            steps_by_run.setdefault(run, []).append(step)
        reused = "; ".join(f"{', '.join(steps)} of run {run}" for run, steps in steps_by_run.items()) or "nothing"
        lines = {
            "Model": f"{self.model} version {self.version}",
            "Digest": self.digest,
            **self._not_released(),
            "Perplexity": self.perplexity.text() if self.perplexity else "not measured in this run",
            "Reused": reused,
            "Endpoint": self.endpoint,
            "Try it": self.curl(),
            "It answers": answer,
        }
        return "\n" + "\n".join(f"{name:<11} {value}" for name, value in lines.items())

    def _not_released(self) -> dict[str, str]:
        if self.made in (None, self.digest):
            return {}
        why = "was in production before and is replaced; `release rollback --to VERSION` returns to it"
        return {"Not serving": f"{self.made}, which this run made, with the perplexity below: it {why}"}


def summarise(store: Store, model: str, run_id: str) -> Summary:
    """Assemble the summary of a run that succeeded.

    Raises:
        StackError: when the receipt of `record` is missing: then nothing was released.
    """
    receipts = load_receipts(store, model, run_id)
    if "record" not in receipts:
        raise StackError(f"run {run_id} of {model} has no receipt of `record` in {store.url}, so it released nothing")
    record = receipts["record"].result
    made = receipts["train"].result.get("model") if "train" in receipts else None
    return Summary(
        model=model,
        version=record["version"],
        digest=record["digest"],
        endpoint=record["endpoint"],
        perplexity=_perplexity(receipts["evaluate"].result) if "evaluate" in receipts else None,
        made=made["digest"] if made else None,
        reused={step: receipt.reused_from for step, receipt in receipts.items() if receipt.reused},
    )


def load_receipts(store: Store, model: str, run_id: str) -> dict[str, Receipt]:
    """Return the receipt of each task's last try, by task id, in the order in which they began."""
    last: dict[str, int] = {}
    folder = f"runs/{model}/{quote_run_id(run_id)}"
    for path in store.list(folder):
        task_id, _, name = path.removeprefix(f"{folder}/").partition("/")
        number = name.removesuffix(".json")
        if number.isdigit():
            last[task_id] = max(int(number), last.get(task_id, 0))
    receipts = {}
    for task_id, try_number in last.items():
        data = store.read(f"{folder}/{task_id}/{try_number}.json")
        if data is not None:
            receipts[task_id] = Receipt.model_validate_json(data)
    return dict(sorted(receipts.items(), key=lambda item: item[1].started))


def ask(summary: Summary, transport: httpx.BaseTransport | None = None) -> str:
    """Send the request of the curl line and return the completion, after checking who serves.

    Raises:
        StackError: when the endpoint does not answer, or serves another digest than the released one.
    """
    try:
        with httpx.Client(timeout=ANSWER_SECONDS, trust_env=False, transport=transport) as client:
            served = client.get(f"{summary.endpoint.rstrip('/')}/provenance").raise_for_status().json()
            body = client.post(summary.url, json=summary.request).raise_for_status().json()
    except (httpx.HTTPError, ValueError) as error:
        raise StackError(f"{summary.model} was released, but {summary.endpoint} does not answer: {error}") from None
    if _digest_of(served) != summary.digest:
        raise StackError(f"{summary.endpoint} serves digest {_digest_of(served)}, released was {summary.digest}")
    try:
        return repr(summary.request["prompt"] + body["choices"][0]["text"])
    except (KeyError, IndexError, TypeError):
        raise StackError(f"{summary.url} answered without a completion: {json.dumps(body)[:300]}") from None


def _digest_of(served: Mapping[str, Any]) -> str:
    return str(served.get("digest", "none"))


def _perplexity(result: Mapping[str, Any]) -> Perplexity:
    return Perplexity(
        value=result["perplexity"],
        low=result["perplexity_low"],
        high=result["perplexity_high"],
        baseline=result["baseline_perplexity"],
    )

"""The summary is assembled from receipts, and serving is proven by asking."""

from __future__ import annotations

import json
import shlex
from typing import Any

import httpx
import pytest

from pipelines.errors import StackError
from pipelines.stack.summary import Summary, ask, load_receipts, summarise
from pipelines.step import Receipt, RunInfo
from pipelines.store import Store

RECORD = {"version": 3, "digest": "d" * 64, "endpoint": "http://127.0.0.1:8100"}
EVALUATION = {"perplexity": 68.0, "perplexity_low": 66.5, "perplexity_high": 69.5, "baseline_perplexity": 680.0}


def leave(store: Store, task_id: str, result: dict[str, Any], try_number: int = 1, reused_from: str = "") -> None:
    """Leave a receipt as a finished task does."""
    info = RunInfo(model="docs-gpt", run_id="manual__1:2", task_id=task_id, try_number=try_number)
    receipt = Receipt(
        step=task_id,
        run=info,
        key="",
        reused=bool(reused_from),
        reused_from=reused_from,
        started=try_number,
        seconds=1,
        result=result,
    )
    store.put(info.receipt_uri, receipt.encode())


def serve(provenance: object, completion: object, status: int = 200) -> httpx.MockTransport:
    """Return an endpoint that answers so."""

    def answer(request: httpx.Request) -> httpx.Response:
        return httpx.Response(status, json=provenance if request.url.path == "/provenance" else completion)

    return httpx.MockTransport(answer)


@pytest.fixture
def summary(store: Store) -> Summary:
    """Return the summary of a run with everything in it."""
    leave(store, "train", {"model": {"digest": "d" * 64}}, reused_from="manual__0")
    leave(store, "evaluate", EVALUATION)
    leave(store, "record", RECORD)
    return summarise(store, "docs-gpt", "manual__1:2")


def test_summary_says_what_was_made_and_what_was_reused(summary: Summary) -> None:
    text = summary.text("'x'")

    assert "docs-gpt version 3" in text
    assert "d" * 64 in text
    assert "68.0 (95 % interval 66.5 to 69.5), 0.10x the unigram's 680.0" in text
    assert "train of run manual__0" in text


def test_summary_says_when_another_version_serves_than_this_run_made(store: Store, summary: Summary) -> None:
    assert "Not serving" not in summary.text("'x'")
    leave(store, "train", {"model": {"digest": "e" * 64}}, try_number=2)
    text = summarise(store, "docs-gpt", "manual__1:2").text("'x'")
    assert f"Not serving {'e' * 64}, which this run made" in text


def test_curl_line_is_the_request_that_is_sent(summary: Summary) -> None:
    words = shlex.split(summary.curl())

    assert words[0] == "curl"
    assert "http://127.0.0.1:8100/v1/completions" in words
    assert json.loads(words[words.index("-d") + 1]) == summary.request


def test_last_try_counts(store: Store) -> None:
    leave(store, "evaluate", {"perplexity": 1}, try_number=9)
    leave(store, "evaluate", EVALUATION, try_number=10)

    assert load_receipts(store, "docs-gpt", "manual__1:2")["evaluate"].result == EVALUATION


def test_run_without_record_released_nothing(store: Store) -> None:
    leave(store, "evaluate", EVALUATION)

    with pytest.raises(StackError, match="released nothing"):
        summarise(store, "docs-gpt", "manual__1:2")


def test_answer_is_the_completion(summary: Summary) -> None:
    transport = serve({"digest": summary.digest}, {"choices": [{"text": " value"}]})

    assert ask(summary, transport) == "'Return the value'"


@pytest.mark.parametrize(
    ("transport", "message"),
    [
        pytest.param(
            serve({"digest": "e" * 64}, {"choices": [{"text": "x"}]}), "serves digest eee", id="another-version"
        ),
        pytest.param(serve({"digest": "d" * 64}, {"choices": []}), "without a completion", id="no-completion"),
        pytest.param(serve({}, {}, status=503), "does not answer", id="unavailable"),
    ],
)
def test_endpoint_that_does_not_serve_the_release_is_an_error(
    summary: Summary, transport: httpx.MockTransport, message: str
) -> None:
    with pytest.raises(StackError, match=message):
        ask(summary, transport)

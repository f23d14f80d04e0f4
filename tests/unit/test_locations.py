"""Addresses hold no secret: they stand in specs, receipts and logs."""

from __future__ import annotations

import pytest

from pipelines.errors import BadInput, SpecError
from pipelines.locations import holds_secret, without_users
from pipelines.spec import parse_params, parse_spec
from pipelines.store import Store

SECRET = [
    pytest.param("s3://AKIA123:hush@bucket/a.jsonl", id="user-and-password"),
    pytest.param("s3://AKIA123:hu/sh+x@bucket/a.jsonl", id="password-with-a-slash"),
    pytest.param("https://me:hush@host/a.jsonl", id="http-password"),
    pytest.param("https://hush@host/a.jsonl", id="http-token"),
    pytest.param("https://host/a.jsonl?X-Amz-Date=1&X-Amz-Signature=hush", id="signed"),
    pytest.param("https://host/a.jsonl?access_token=hush&x=.jsonl", id="token"),
]
PLAIN = [
    "s3://bucket/part-?.jsonl", "s3://bucket/a@b.jsonl", "s3://arn:aws:s3:eu-west-1:1:accesspoint/name/a@b.jsonl",
    "https://host:8080/a@b.jsonl", "https://host/a.jsonl?version=3", "abfs://container@account.dfs/a.jsonl",
    "data/a@b:c.jsonl", "/data/a:b@c.jsonl", "",
]  # fmt: skip


@pytest.mark.parametrize("url", PLAIN)
def test_a_plain_address_holds_no_secret(url: str) -> None:
    assert not holds_secret(url)


@pytest.mark.parametrize("url", SECRET)
def test_a_secret_is_refused_everywhere_and_not_repeated(url: str) -> None:
    source = {"kind": "jsonl", "uri": url}
    refusals = []
    with pytest.raises(SpecError, match=r"data\.source\.uri: .* must hold no password, token or signature; leave"):
        parse_spec({"name": "m", "data": {"source": source}})
    for content in ({"data": {"source": source}}, {"preparation": {"tokenizer": {"uri": url}}}):
        with pytest.raises(SpecError) as refused:
            parse_spec({"name": "m", **content})
        refusals.append(refused.value)
    with pytest.raises(SpecError, match=r"source: .* must hold no password") as refused:
        parse_params({"source": url})
    refusals.append(refused.value)
    with pytest.raises(BadInput, match="SLIPWAY_STORE: the URL holds a secret") as unopened:
        Store(url)
    refusals.append(unopened.value)
    assert not any("hu" in str(refusal) for refusal in refusals)


def test_users_are_taken_out_of_what_libraries_say() -> None:
    said = 'Could not connect to "http://me:hush@host:9/b?x=1" or s3://b/a@b'
    assert without_users(said) == 'Could not connect to "http://host:9/b?x=1" or s3://b/a@b'


@pytest.mark.parametrize("url", ["s3://", "file://", "s3:///"])
def test_a_store_without_a_place_is_refused(url: str) -> None:
    with pytest.raises(BadInput, match=r"SLIPWAY_STORE: .* names no bucket or folder; write it as s3://bucket/prefix"):
        Store(url)

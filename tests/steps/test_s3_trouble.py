"""A source or a store on S3 that cannot be used: one plain error with field, value, rule and way out."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from pipelines import step
from pipelines.data import sources
from pipelines.data.tokenizer import load_existing
from pipelines.errors import DataRejected, ExitCode, SlipwayError, StoreRefused, StoreUnavailable
from pipelines.settings import Settings
from pipelines.spec import Source
from pipelines.storage.parts import PART_BYTES
from pipelines.store import Store
from tests.faulty_line import FaultyLine, Request
from tests.live_s3 import SECRETS, LiveS3
from tests.steps.step_run import execute

ROWS = b'{"id": "a", "text": "one"}\n'
NOWHERE = "http://127.0.0.1:9"
"""An address that refuses connections."""


@pytest.fixture
def bucket(s3: LiveS3, s3_environment: None) -> str:
    """Return a bucket with documents, which this process may read."""
    name = s3.make_bucket()
    for key, data in {
        "docs/a.jsonl": ROWS,
        "docs/sub/b.jsonl": ROWS,
        "docs/_hidden.jsonl": b"no",
        "marked/": b"",
    }.items():
        s3.put(name, key, data)
    s3.put(name, "marked/a.jsonl", ROWS)
    return name


def read(uri: str) -> sources.Corpus:
    return sources.read(Source(kind="jsonl", uri=uri))


@pytest.mark.parametrize(
    ("path", "names"),
    [
        pytest.param("docs/a.jsonl", ["a.jsonl"], id="object"),
        pytest.param("docs", ["a.jsonl", "sub/b.jsonl"], id="folder"),
        pytest.param("docs/", ["a.jsonl", "sub/b.jsonl"], id="folder-with-slash"),
        pytest.param("docs/?.jsonl", ["a.jsonl"], id="glob"),
        pytest.param("marked", ["a.jsonl"], id="folder-with-an-object-of-its-own"),
    ],
)
def test_a_source_is_an_object_a_folder_or_a_glob(bucket: str, path: str, names: list[str]) -> None:
    assert [name for name, _ in read(f"s3://{bucket}/{path}").files] == names


@pytest.mark.parametrize(
    ("uri", "message"),
    [
        pytest.param("s3://{bucket}/docs/no.jsonl", r"no\.jsonl \(no such file or folder\); .* check", id="object"),
        pytest.param("s3://{bucket}/no/", r"/no/ \(no such file or folder\); .* check the spelling", id="folder"),
        pytest.param("s3://no-such-bucket/a.jsonl", "the bucket no-such-bucket does not exist", id="bucket"),
        pytest.param("s3://no-such-bucket/*.jsonl", "the bucket no-such-bucket does not exist", id="bucket-of-a-glob"),
        pytest.param("s3://", "s3:// names no bucket and no folder; write it as s3://bucket/path", id="nothing"),
        pytest.param("s3://No!/a.jsonl", "the name of the bucket is not valid; a bucket has 3 to 63", id="bad-name"),
    ],
)
def test_a_source_that_is_missing_is_refused(bucket: str, uri: str, message: str) -> None:
    with pytest.raises(DataRejected, match=rf"^data\.source\.uri: .*{message}"):
        read(uri.format(bucket=bucket))


Kinds = tuple[type[SlipwayError], type[SlipwayError]]
"""Errors of a source and of a store."""

FINAL: Kinds = (DataRejected, StoreRefused)
PASSING: Kinds = (StoreUnavailable, StoreUnavailable)

CREDENTIALS = ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN")
SETTINGS = [
    pytest.param(dict.fromkeys(CREDENTIALS), FINAL, "no credentials were found; set AWS_", id="none"),
    pytest.param({"AWS_SECRET_ACCESS_KEY": None}, FINAL, "missing: AWS_SECRET_ACCESS_KEY; correct", id="half"),
    pytest.param({"AWS_PROFILE": "no-such"}, FINAL, r"\(no-such\) could not be found; correct", id="profile"),
    pytest.param({"AWS_ENDPOINT_URL": "moto"}, FINAL, "Invalid endpoint: moto; set AWS_ENDPOINT_URL", id="no-url"),
    pytest.param(
        {"AWS_ENDPOINT_URL": NOWHERE, "AWS_MAX_ATTEMPTS": "1"},
        PASSING,
        "Could not connect to the endpoint .*; check its address",
        id="nobody-answers",
    ),
]  # fmt: skip


@pytest.mark.parametrize(("variables", "kinds", "message"), SETTINGS)
def test_credentials_and_addresses_that_cannot_work_are_told_for_source_and_store(
    bucket: str,
    variables: dict[str, str | None],
    kinds: Kinds,
    message: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name, value in variables.items():
        monkeypatch.delenv(name) if value is None else monkeypatch.setenv(name, value)
    with pytest.raises(
        SlipwayError, match=rf"^data\.source\.uri: cannot read s3://{bucket}/docs: .*{message}"
    ) as source:
        read(f"s3://{bucket}/docs")
    with pytest.raises(
        SlipwayError, match=rf"^store: cannot write s3://{bucket}/x/a: .*{message}.*SLIPWAY_STORE"
    ) as store:
        Store(f"s3://{bucket}/x").put("a", b"")
    assert (source.type, store.type) == kinds
    assert not any(secret in f"{source.value} {store.value}" for secret in SECRETS)


def test_wrong_credentials_are_told_and_not_tried_again(bucket: str, s3: LiveS3) -> None:
    wrong = r"the credentials are wrong \(InvalidAccessKeyId\); correct AWS_ACCESS_KEY_ID .* SLIPWAY_AWS_CONN_ID"
    with s3.strict():
        with pytest.raises(DataRejected, match=rf"data\.source\.uri: .*{wrong}"):
            read(f"s3://{bucket}/docs")
        with pytest.raises(StoreRefused, match=rf"store: cannot write .*/x/a: {wrong}"):
            Store(f"s3://{bucket}/x").put("a", b"")
    assert read(f"s3://{bucket}/docs").table.num_rows == 2


@pytest.fixture
def line(s3: LiveS3, bucket: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[FaultyLine]:
    """Return a line to S3 on which a test may refuse what it wants."""
    made = FaultyLine(s3.url)
    monkeypatch.setenv("AWS_ENDPOINT_URL", made.url)
    yield made
    made.stop()


CLOCKS = "<RequestTime>20260101T000000Z</RequestTime><ServerTime>2026-01-01T01:00:00Z</ServerTime>"
REFUSALS = [
    pytest.param(
        (301, "PermanentRedirect", ""), FINAL, "another region; set AWS_DEFAULT_REGION to that region", id="moved"
    ),
    pytest.param(
        (400, "AuthorizationHeaderMalformed", "<Region>eu-west-1</Region>"),
        FINAL,
        "the bucket is in another region, eu-west-1; set AWS_DEFAULT_REGION to eu-west-1",
        id="region",
    ),
    pytest.param(
        (403, "SignatureDoesNotMatch", ""), FINAL, r"are wrong \(SignatureDoesNotMatch\); correct AWS_", id="secret"
    ),
    pytest.param(
        (403, "RequestTimeTooSkewed", CLOCKS),
        FINAL,
        "clock is wrong: it says 20260101T000000Z, the server 2026-01-01T01:00:00Z; set the clock by NTP",
        id="clock",
    ),
    pytest.param((400, "ExpiredToken", ""), PASSING, "the credentials have expired; a role's", id="expired"),
    pytest.param((404, "NoSuchBucket", ""), FINAL, "the bucket does not exist; create it", id="bucket"),
    pytest.param((501, "NotImplemented", ""), FINAL, "does not offer this .*; use S3, or a server that", id="no-offer"),
]


@pytest.mark.parametrize(("refusal", "kinds", "message"), REFUSALS)
def test_what_s3_refuses_names_object_reason_and_fix_for_store_and_source(
    bucket: str, line: FaultyLine, refusal: tuple[int, str, str], kinds: Kinds, message: str
) -> None:
    asked: list[Request] = []

    def refuse(request: Request) -> tuple[int, str, str] | None:
        if request.method == "HEAD":
            return None  # by HEAD a client finds the region
        asked.append(request)
        return refusal

    line.refuse = refuse
    with pytest.raises(
        SlipwayError, match=rf"^store: cannot write s3://{bucket}/x/a: .*{message}.*SLIPWAY_STORE elsewhere$"
    ) as store:
        Store(f"s3://{bucket}/x").put("a", b"")
    assert len(asked) <= 2, "asked again at another address of the bucket at most"
    with pytest.raises(
        SlipwayError, match=rf"^data\.source\.uri: (cannot read|nothing to read at) s3://{bucket}/docs"
    ) as source:
        read(f"s3://{bucket}/docs")
    assert (source.type, store.type) == kinds


VERBS = [
    pytest.param(
        "PUT", lambda store: store.put("a", b""), "cannot write .*/a: no permission for s3:PutObject", id="put"
    ),
    pytest.param("PUT", lambda store: store.create("a", b""), "cannot create .*/a: .* s3:PutObject", id="create"),
    pytest.param(
        "GET", lambda store: store.read("a"), "cannot read .*/a: .* s3:GetObject; grant .* s3:ListBucket, too", id="get"
    ),
    pytest.param("GET", lambda store: store.list("a"), "cannot list .*/a: .* s3:ListBucket; grant it", id="list"),
    pytest.param("DELETE", lambda store: store.delete("a"), "cannot delete .*/a: .* s3:DeleteObject", id="delete"),
    pytest.param("HEAD", lambda store: store.modified("a"), "cannot read .*/a: .* s3:GetObject", id="head"),
    pytest.param(
        "POST", lambda store: store.put("a", bytes(PART_BYTES + 1)), "cannot write .*/a: .* s3:PutObject", id="parts"
    ),
]


@pytest.mark.parametrize(("method", "act", "message"), VERBS)
def test_a_verb_that_is_denied_is_named_with_the_permission_that_it_needs(
    bucket: str, line: FaultyLine, method: str, act: Callable[[Store], object], message: str
) -> None:
    line.refuse = lambda request: (403, "AccessDenied", "") if request.method == method else None
    with pytest.raises(StoreRefused, match=f"^store: {message}"):
        act(Store(f"s3://{bucket}/x"))


def test_a_tokenizer_that_is_missing_names_its_own_key(bucket: str) -> None:
    with pytest.raises(DataRejected, match=r"^preparation\.tokenizer\.uri: nothing to read at s3://no-such-bucket/t"):
        load_existing("s3://no-such-bucket/t")


def test_a_store_without_its_bucket_is_not_taken_for_an_empty_one(bucket: str) -> None:
    assert Store(f"s3://{bucket}/x").read("a") is None
    with pytest.raises(StoreRefused, match="cannot read s3://no-such-bucket/x/a: the bucket does not exist"):
        Store("s3://no-such-bucket/x").read("a")


def test_a_step_tells_the_error_of_its_source_and_leaves_no_receipt(bucket: str, tmp_path: Path) -> None:
    settings = Settings(home=tmp_path / "home", store=f"s3://{bucket}/slipway")
    spec = {"data": {"source": {"kind": "jsonl", "uri": "s3://no-such-bucket/docs"}}}
    with pytest.raises(DataRejected, match="the bucket no-such-bucket does not exist"):
        execute("validate", settings, spec)
    info = step.RunInfo(model="m", run_id="r1", task_id="validate")
    assert Store(settings.store_url()).read(info.receipt_uri) is None


def is_any(_: Request) -> bool:
    return True


def is_deletion(request: Request) -> bool:
    return request.method == "DELETE"


def is_listing(request: Request) -> bool:
    return "list-type" in request.path


UNUSABLE = [
    pytest.param((is_deletion, "AccessDenied"), "cannot delete .* s3:DeleteObject", id="delete"),
    pytest.param((is_listing, "AccessDenied"), "cannot list .* s3:ListBucket", id="list"),
    pytest.param((is_any, "RequestTimeTooSkewed"), "this machine's clock is wrong; set the clock by NTP", id="clock"),
    pytest.param((is_any, "NoSuchBucket"), "the bucket does not exist; create it, or correct its name", id="bucket"),
    pytest.param((is_any, "SignatureDoesNotMatch"), "the credentials are wrong .*; correct AWS_", id="credentials"),
    pytest.param((is_any, "PermanentRedirect"), "in another region; set AWS_DEFAULT_REGION", id="region"),
]


@pytest.mark.parametrize(("refusal", "message"), UNUSABLE)
def test_a_step_whose_store_cannot_be_used_stops_at_once_and_leaves_nothing(
    bucket: str, line: FaultyLine, refusal: tuple[Callable[[Request], bool], str], message: str, tmp_path: Path
) -> None:
    is_refused, code = refusal
    settings = Settings(home=tmp_path / "home", store=f"s3://{bucket}/slipway")
    spec = {"data": {"source": {"kind": "jsonl", "uri": f"s3://{bucket}/docs"}}}
    line.refuse = lambda request: (403, code, "") if is_refused(request) else None
    with pytest.raises(StoreRefused, match=message) as refused:
        execute("validate", settings, spec)
    assert refused.value.exit_code is ExitCode.REFUSED
    line.refuse = lambda _: None
    store = Store(settings.store_url())
    assert [path for folder in ("artifacts", "keys", "leases") for path in store.list(folder)] == []


def test_a_server_that_does_not_heed_conditions_is_no_store(bucket: str, line: FaultyLine) -> None:
    store = Store(f"s3://{bucket}/x")
    store.check()
    line.dropped = frozenset({"if-none-match"})
    with pytest.raises(StoreRefused, match=r"of two writers of s3://.* not exactly one won; use S3, or a server that"):
        store.check()
    assert list(store.list("checks")) == []

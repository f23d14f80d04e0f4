"""Credentials that end while a store on S3 is used."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from pipelines.errors import StoreUnavailable
from pipelines.storage.connection import Connection
from pipelines.store import Store
from tests.faults.s3_case import LARGE, SMALL, stored
from tests.faulty_line import FaultyLine, Request
from tests.live_s3 import LiveS3


@pytest.fixture
def store(s3: LiveS3, line: FaultyLine) -> Store:
    """Return a store behind the line."""
    return Store(f"s3://{s3.make_bucket()}/slipway")


def refusing(key: str, after: int) -> Callable[[Request], tuple[int, str, str] | None]:
    """Return a rule by which an access key expires after so many requests."""
    left = [after]

    def rule(request: Request) -> tuple[int, str, str] | None:
        if request.access_key != key:
            return None
        left[0] -= 1
        return None if left[0] >= 0 else (400, "ExpiredToken", "")

    return rule


def write_profile(path: Path, key: str) -> None:
    """Replace a file of credentials at once: others may be reading it."""
    whole = path.with_suffix(".new")
    whole.write_text(f"[default]\naws_access_key_id = {key}\naws_secret_access_key = s\naws_session_token = t\n")
    whole.replace(path)


@pytest.fixture
def profile(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a file of credentials, which this process uses."""
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN"):
        monkeypatch.delenv(name)
    path = tmp_path / "credentials"
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(path))
    write_profile(path, "OLD")
    return path


def renewing(profile: Path, after: int) -> Callable[[Request], tuple[int, str, str] | None]:
    """Return a rule by which the old key expires after so many requests; then somebody renews it in its file."""
    expired = refusing("OLD", after)

    def rule(request: Request) -> tuple[int, str, str] | None:
        refusal = expired(request)
        if refusal:
            write_profile(profile, "NEW")
        return refusal

    return rule


@pytest.mark.parametrize("after", [pytest.param(0, id="before-it"), pytest.param(1, id="in-mid-listing")])
def test_a_listing_reads_renewed_credentials_too(
    line: FaultyLine, store: Store, profile: Path, monkeypatch: pytest.MonkeyPatch, after: int
) -> None:
    for name in ("a", "b", "c"):
        store.put(f"runs/{name}", SMALL)
    call = Connection.call
    monkeypatch.setattr(Connection, "call", lambda *about, **more: call(*about, **more, **in_pages(about[1])))
    line.seen.clear()
    line.refuse = renewing(profile, after)
    assert sorted(store.list("runs")) == ["runs/a", "runs/b", "runs/c"]
    assert [request.access_key for request in line.seen] == ["OLD"] * after + ["NEW"] * (2 - after)


def in_pages(operation: str) -> dict[str, int]:
    """Return what makes a listing of three objects one of two pages."""
    return {"MaxKeys": 2} if operation == "list_objects_v2" else {}


def test_credentials_that_are_renewed_in_their_file_are_read_again_in_mid_upload(
    s3: LiveS3, line: FaultyLine, store: Store, profile: Path
) -> None:
    line.refuse = renewing(profile, after=3)
    store.put("a", LARGE)
    assert stored(s3, store) == {"a": LARGE}
    assert {request.access_key for request in line.seen} == {"OLD", "NEW"}


def test_credentials_that_nobody_renews_end_the_upload_with_a_plain_error(
    s3: LiveS3, line: FaultyLine, store: Store, profile: Path
) -> None:
    line.refuse = refusing("OLD", after=3)
    with pytest.raises(StoreUnavailable, match=r"the credentials have expired; .* by the next try; renew those that"):
        store.put("a", LARGE)
    assert stored(s3, store) == {}


GIVE_CREDENTIALS = """
import json, pathlib, sys
count = pathlib.Path(sys.argv[1])
number = int(count.read_text()) + 1 if count.exists() else 1
count.write_text(str(number))
print(json.dumps({"Version": 1, "AccessKeyId": f"KEY{number}", "SecretAccessKey": "s", "SessionToken": "t",
                  "Expiration": sys.argv[2]}))
"""


def test_credentials_that_know_how_are_refreshed_before_they_end(
    s3: LiveS3, line: FaultyLine, store: Store, profile: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program = profile.with_name("give.py")
    program.write_text(GIVE_CREDENTIALS)
    soon = (datetime.now(UTC) + timedelta(minutes=8)).isoformat()
    command = json.dumps(f"{sys.executable} {program} {profile.with_name('count')} {soon}")[1:-1]
    profile.with_name("config").write_text(f"[default]\ncredential_process = {command}\n")
    monkeypatch.setenv("AWS_CONFIG_FILE", str(profile.with_name("config")))
    profile.unlink()
    store.put("a", SMALL)
    store.put("b", SMALL)
    assert len({request.access_key for request in line.seen}) > 1
    assert stored(s3, store) == {"a": SMALL, "b": SMALL}

"""Golden and reference requests as files."""

from __future__ import annotations

from pathlib import Path

import pytest
from pydantic import ValidationError

from pipelines.errors import ArtifactCorrupt
from pipelines.formats.requests import GoldenRequest, ReferenceRequest, read_requests, write_requests

GOLDEN = (
    GoldenRequest(prompt="Return the", max_tokens=2, expected_text=" näme\n", expected_tokens=(5, 7), margin=0.5),
    GoldenRequest(prompt="Raise", max_tokens=1, expected_text=" an", expected_tokens=(9,), margin=0.1),
)
REFERENCES = (ReferenceRequest(id="os.path:join", prompt="Join one", continuation=" or more paths"),)


@pytest.mark.parametrize(
    ("requests", "kind"), [pytest.param(GOLDEN, GoldenRequest, id="golden"), (REFERENCES, ReferenceRequest)]
)
def test_requests_survive_a_file(
    requests: tuple[GoldenRequest, ...], kind: type[GoldenRequest], tmp_path: Path
) -> None:
    path = tmp_path / "requests.jsonl"
    write_requests(path, requests)
    assert read_requests(path, kind) == requests
    assert len(path.read_bytes().splitlines()) == len(requests)


def test_equal_requests_give_equal_bytes(tmp_path: Path) -> None:
    write_requests(tmp_path / "a", GOLDEN)
    write_requests(tmp_path / "b", [GoldenRequest.model_validate(request.model_dump()) for request in GOLDEN])
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_a_damaged_line_is_named(tmp_path: Path) -> None:
    path = tmp_path / "golden.jsonl"
    write_requests(path, GOLDEN)
    path.write_bytes(path.read_bytes()[:-9])
    with pytest.raises(ArtifactCorrupt, match=r"golden\.jsonl, line 2: not a GoldenRequest"):
        read_requests(path, GoldenRequest)


def test_a_golden_answer_without_a_margin_is_no_proof() -> None:
    with pytest.raises(ValidationError, match="margin"):
        GoldenRequest(prompt="a", max_tokens=1, expected_text="b", expected_tokens=(1,), margin=0)

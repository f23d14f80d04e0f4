"""The system user of the embedded PostgreSQL, which several installations may want to make at the same moment."""

from __future__ import annotations

import subprocess

import pytest

from pipelines.errors import StackError
from pipelines.stack import postgres


def refuse(command: list[str], **_: object) -> None:
    raise subprocess.CalledProcessError(9, command)


def test_a_user_that_another_made_meanwhile_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    answers = iter([False, True])
    monkeypatch.setattr(postgres, "_has_system_user", lambda: next(answers))
    monkeypatch.setattr(subprocess, "run", refuse)
    postgres._ensure_system_user()
    assert list(answers) == []


def test_a_user_that_cannot_be_made_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(postgres, "_has_system_user", lambda: False)
    monkeypatch.setattr(subprocess, "run", refuse)
    with pytest.raises(StackError, match=r"the system user 'slipway' could not be made: .*; run as an ordinary user"):
        postgres._ensure_system_user()

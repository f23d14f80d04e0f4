"""Folders of a stack are made private; a stranger's folder is refused."""

from __future__ import annotations

import stat
from pathlib import Path

import pytest

from pipelines.errors import StackError
from pipelines.stack.layout import Layout, tail, write_private


def test_secrets_and_sockets_are_for_their_owner_only(tmp_path: Path) -> None:
    layout = Layout(home=tmp_path / "home", run_dir=tmp_path / "run")

    layout.make()

    for folder in (layout.airflow_home, layout.supervisor_conf.parent):
        assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert stat.S_IMODE(layout.run_dir.stat().st_mode) & 0o066 == 0


def test_socket_folder_that_is_a_link_is_refused(tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "run").symlink_to(tmp_path / "elsewhere")

    with pytest.raises(StackError, match="belongs to somebody else; set TMPDIR"):
        Layout(home=tmp_path / "home", run_dir=tmp_path / "run").make()


def test_private_file_is_readable_by_its_owner_only(tmp_path: Path) -> None:
    write_private(tmp_path / "secret", "s")

    assert stat.S_IMODE((tmp_path / "secret").stat().st_mode) == 0o600
    assert [path.name for path in tmp_path.iterdir()] == ["secret"]


def test_tail_returns_the_last_lines_of_a_long_file(tmp_path: Path) -> None:
    (tmp_path / "log").write_text("\n".join(f"line {number}" for number in range(100_000)))

    assert tail(tmp_path / "log", lines=2) == "line 99998\nline 99999"
    assert tail(tmp_path / "absent") == ""

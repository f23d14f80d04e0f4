"""Which code a bento carries."""

from __future__ import annotations

from pathlib import Path

import pytest

from pipelines import keys
from pipelines.errors import BadInput
from pipelines.packaging import sources


@pytest.fixture
def tree(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A source tree with one service that needs two of three modules."""
    files = {
        "bentos/__init__.py": "",
        "bentos/echo/__init__.py": "",
        "bentos/echo/service.py": "from pipelines.formats import headers\n",
        "pipelines/__init__.py": "",
        "pipelines/errors.py": "",
        "pipelines/formats/__init__.py": "",
        "pipelines/formats/headers.py": "from pipelines.errors import BadInput\n",
        "pipelines/step.py": "import pipelines.formats.headers\n",
    }
    for path, text in files.items():
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).write_text(text)
    monkeypatch.setattr(keys, "_ROOT", tmp_path)
    return tmp_path


def test_a_service_takes_what_it_imports_and_no_more(tree: Path) -> None:
    found = [path.as_posix() for path in sources.service_files("echo", tree)]
    assert found == [
        "bentos/__init__.py",
        "bentos/echo/__init__.py",
        "bentos/echo/service.py",
        "pipelines/__init__.py",
        "pipelines/errors.py",
        "pipelines/formats/__init__.py",
        "pipelines/formats/headers.py",
    ]


def test_copies_are_the_same_files(tree: Path, tmp_path: Path) -> None:
    target = tmp_path / "target"
    sources.copy_service("echo", target, tree)
    for path in sources.service_files("echo", tree):
        assert (target / path).read_bytes() == (tree / path).read_bytes()


def test_digest_changes_with_the_code_that_serves_and_with_nothing_else(tree: Path) -> None:
    before = sources.code_digest("echo", tree)
    (tree / "pipelines/step.py").write_text("# another step\n")
    assert sources.code_digest("echo", tree) == before
    (tree / "pipelines/errors.py").write_text("# another error\n")
    assert sources.code_digest("echo", tree) != before


def test_unknown_service_is_refused(tree: Path) -> None:
    with pytest.raises(BadInput, match=r"packaging\.service.*bentos/sing"):
        sources.service_files("sing", tree)


def test_locked_versions_have_no_local_part() -> None:
    versions = sources.library_versions()
    assert set(versions) == set(sources.LIBRARIES)
    assert all("+" not in version for version in versions.values())

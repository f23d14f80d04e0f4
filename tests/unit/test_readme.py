"""The README says what is there: settings, targets, commands, paths and pictures."""

from __future__ import annotations

import re

import pytest
import yaml

from pipelines import __main__ as cli
from pipelines.settings import REPOSITORY, Settings
from pipelines.spec import parse_spec
from tests.benchmarks.bench_release.summary import TABLES, short_table

README = (REPOSITORY / "README.md").read_text(encoding="utf-8")


def test_every_setting_is_explained_with_its_default() -> None:
    for name, field in Settings.model_fields.items():
        row = next((line for line in README.splitlines() if f"`SLIPWAY_{name.upper()}`" in line), "")
        assert row, f"SLIPWAY_{name.upper()} is not in the README"
        if isinstance(field.default, int):
            assert str(field.default) in row


def test_no_setting_is_invented() -> None:
    known = {f"SLIPWAY_{name.upper()}" for name in Settings.model_fields}
    assert set(re.findall(r"SLIPWAY_[A-Z_]+", README)) <= known


def test_every_target_and_command_exists() -> None:
    makefile = (REPOSITORY / "Makefile").read_text(encoding="utf-8")
    for target in re.findall(r"make ([a-z][a-z-]+)", README):
        assert re.search(rf"^{target}:", makefile, re.MULTILINE), f"make {target}"
    commands = {
        command.name or command.callback.__name__ for command in cli.app.registered_commands if command.callback
    }
    groups = {group.name for group in cli.app.registered_groups}
    for command in re.findall(r"python -m pipelines ([a-z]+)", README):
        assert command in commands | groups, command


def test_every_linked_file_exists() -> None:
    for target in re.findall(r"\]\(([^)#]+)\)", README):
        assert target.startswith("http") or (REPOSITORY / target).exists(), target


def test_the_example_spec_is_valid() -> None:
    example = next(block for block in re.findall(r"```yaml\n(.*?)```", README, re.DOTALL) if "tickets" in block)
    assert parse_spec({"name": "tickets", **yaml.safe_load(example)}).data.source.text_column == "body"


@pytest.mark.parametrize("path", re.findall(r"^([a-z]+/[\w./*]*)", README.partition("## Layout")[2], re.MULTILINE))
def test_the_layout_is_true(path: str) -> None:
    assert list(REPOSITORY.glob(path.rstrip("/"))), path


def test_the_table_of_the_release_rule_is_that_of_the_last_run() -> None:
    assert short_table(TABLES.read_text(encoding="utf-8")) in README

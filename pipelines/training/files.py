"""How the ranks of a training and those who follow them speak: small files, of which nobody sees half a line."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TypeVar

from pydantic import BaseModel, ValidationError

Line = TypeVar("Line", bound=BaseModel)


def append_line(file: Path, value: BaseModel) -> None:
    """Write a value as one line of JSON to the end of a file."""
    with file.open("a", encoding="utf-8") as stream:
        stream.write(value.model_dump_json() + "\n")


def read_lines(file: Path, kind: type[Line]) -> list[Line]:
    """Return the values in a file, none when it is not there."""
    return [*parse_lines(file.read_text(encoding="utf-8").splitlines(), kind)] if file.is_file() else []


def parse_lines(lines: Iterable[str], kind: type[Line]) -> Iterator[Line]:
    """Yield the values of lines, up to one that is not whole: it is still being written."""
    for line in lines:
        try:
            yield kind.model_validate_json(line)
        except ValidationError:
            return


def replace_text(file: Path, text: str) -> None:
    """Give a file new content in one step."""
    draft = file.with_suffix(".draft")
    draft.write_text(text, encoding="utf-8")
    draft.replace(file)

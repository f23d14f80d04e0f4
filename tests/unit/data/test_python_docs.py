"""The demo corpus: which documentation strings are found, and how they are named."""

from __future__ import annotations

from pipelines.data import python_docs

SOURCE = '''# -*- coding: latin-1 -*-
"""A module."""

import sys

def plain():
    """A function."""
    def inner():
        """An inner function."""

class Box:
    """A class."""

    def open(self):
        """
        A method,
            on two lines.
        """

    if sys.platform == "win32":
        async def close(self):
            """On Windows."""
    else:
        async def close(self):
            """Elsewhere: caf\xe9."""

    class Lid:
        """A class in a class."""

try:
    import fast
except ImportError:
    def slow():
        """Without fast."""
else:
    def slow():
        """With fast."""

def silent():
    return "not a documentation string"

def blank():
    """   """
'''.encode("latin-1")


def test_every_documentation_string_is_a_document_with_a_name_of_its_own() -> None:
    rows = list(python_docs.documents("pkg/box.py", SOURCE))

    assert [(row["id"], row["kind"], row["text"]) for row in rows] == [
        ("pkg.box", "module", "A module."),
        ("pkg.box:plain", "function", "A function."),
        ("pkg.box:plain.inner", "function", "An inner function."),
        ("pkg.box:Box", "class", "A class."),
        ("pkg.box:Box.open", "method", "A method,\n    on two lines."),
        ("pkg.box:Box.close", "method", "On Windows."),
        ("pkg.box:Box.close#2", "method", "Elsewhere: café."),
        ("pkg.box:Box.Lid", "class", "A class in a class."),
        ("pkg.box:slow", "function", "Without fast."),
        ("pkg.box:slow#2", "function", "With fast."),
    ]
    assert {row["module"] for row in rows} == {"pkg.box"}
    assert all(tuple(row) == python_docs.COLUMNS for row in rows)


def test_a_package_is_named_without_its_file() -> None:
    assert [row["id"] for row in python_docs.documents("json/__init__.py", b'"""JSON."""')] == ["json"]


def test_the_library_is_listed_in_order_without_tests_and_installed_packages() -> None:
    names = [name for name, _ in python_docs.source_files()]

    assert names == sorted(names)
    assert {"json/decoder.py", "argparse.py", "asyncio/events.py"} <= set(names)
    assert not [name for name in names if {"test", "tests", "site-packages"} & set(name.split("/"))]

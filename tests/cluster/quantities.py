"""Amounts of resources, such as `500m` and `64Gi`."""

from __future__ import annotations

import re
from decimal import Decimal

_FACTORS = {
    "n": Decimal("1e-9"), "u": Decimal("1e-6"), "m": Decimal("1e-3"), "": Decimal(1),
    "k": Decimal("1e3"), "M": Decimal("1e6"), "G": Decimal("1e9"), "T": Decimal("1e12"), "P": Decimal("1e15"),
    "Ki": Decimal(2**10), "Mi": Decimal(2**20), "Gi": Decimal(2**30), "Ti": Decimal(2**40), "Pi": Decimal(2**50),
}  # fmt: skip
_PATTERN = re.compile(r"^(?P<number>[+-]?\d+(\.\d*)?|[+-]?\.\d+)(?P<unit>[numkMGTP]|[KMGTP]i|[eE][+-]?\d+)?$")


def amount(text: str | int | float) -> Decimal:
    """Return a quantity as a number.

    Raises:
        ValueError: when it is none.
    """
    found = _PATTERN.match(str(text))
    if not found:
        raise ValueError(f"quantities must match the regular expression '{_PATTERN.pattern}', got {text!r}")
    unit = found["unit"] or ""
    if unit[:1] in ("e", "E"):
        return Decimal(found["number"]) * Decimal(f"1{unit}")
    return Decimal(found["number"]) * _FACTORS[unit]

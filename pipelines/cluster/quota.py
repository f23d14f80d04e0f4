"""Whether a request that a ResourceQuota refuses could ever be granted."""

from __future__ import annotations

import re
from decimal import Decimal

_REFUSED = re.compile(r"exceeded quota: (?P<name>[^,]+), requested: (?P<asked>\S+), used: \S+, limited: (?P<limit>\S+)")
_QUANTITY = re.compile(r"^(?P<number>[0-9.]+)(?P<unit>[A-Za-z]*)$")
_UNITS = {
    **{unit: Decimal(10) ** power for unit, power in {"m": -3, "": 0, "k": 3, "M": 6, "G": 9, "T": 12}.items()},
    **{f"{letter}i": Decimal(1024) ** power for power, letter in enumerate("KMGTP", start=1)},
}


def is_quota(message: str) -> bool:
    """Return whether a refusal's message is about a quota."""
    return "exceeded quota" in message


def is_beyond_quota(message: str) -> bool:
    """Return whether a refused request asks for more than the whole quota, so that waiting would not help."""
    refused = _REFUSED.search(message)
    return refused is not None and _exceeds(refused["asked"], refused["limit"])


def _exceeds(asked: str, limit: str) -> bool:
    """Return whether any amount that is asked for is more than all there is; both are written `name=amount,...`."""
    limits = dict(part.split("=", 1) for part in limit.split(","))
    return any(
        _quantity(amount) > _quantity(limits[name])
        for name, amount in (part.split("=", 1) for part in asked.split(","))
        if name in limits
    )


def _quantity(text: str) -> Decimal:
    found = _QUANTITY.match(text)
    if found is None or found["unit"] not in _UNITS:
        return Decimal(0)
    return Decimal(found["number"]) * _UNITS[found["unit"]]

"""Values of numpy and pandas as plain JSON values."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np


def plain(value: Any) -> Any:
    """Return a value as JSON knows it: numpy scalars and arrays unpacked, what is not finite as None, the rest as text.

    Great Expectations answers with numpy scalars, which no JSON encoder takes.
    """
    match value:
        case np.generic() | np.ndarray():
            return plain(value.tolist())
        case float():
            return value if math.isfinite(value) else None
        case None | bool() | int() | str():
            return value
        case Mapping():
            return {str(key): plain(each) for key, each in value.items()}
        case list() | tuple() | set() | frozenset():
            return [plain(each) for each in value]
        case _:
            return str(value)

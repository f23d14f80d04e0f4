"""Values of numpy as plain JSON values."""

from __future__ import annotations

import datetime
import json

import numpy as np
import pytest

from pipelines.data.plain import plain


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (np.bool_(True), True),
        (np.int64(3), 3),
        (np.float32(0.5), 0.5),
        (float("nan"), None),
        (np.float64("inf"), None),
        (np.array([[1, 2]]), [[1, 2]]),
        (np.str_("x"), "x"),
        ({1: (np.int8(1), None)}, {"1": [1, None]}),
        (datetime.date(2026, 1, 2), "2026-01-02"),
    ],
)
def test_values_become_what_json_knows(value: object, expected: object) -> None:
    assert plain(value) == expected
    assert type(plain(value)) is type(expected)
    assert json.loads(json.dumps(plain(value), allow_nan=False)) == expected

"""Random inputs fit their spec and are no constants."""

from __future__ import annotations

import numpy as np
import pytest

from foveate.engines import TensorSpec
from foveate.engines.random_inputs import random_rows


@pytest.mark.parametrize(
    ("dtype", "low", "high"),
    [
        ("uint8", 0, 255),
        ("int8", 0, 127),
        ("int64", 0, 255),
        ("float16", 0, 1),
        ("float32", 0, 1),
        ("bool", 0, 1),
    ],
)
def test_rows_fit_the_spec(dtype: str, low: int, high: int) -> None:
    spec = TensorSpec("pixels", np.dtype(dtype), (20, 20, 3))
    rows = random_rows(spec, 4, np.random.default_rng(0))
    assert rows.shape == (4, 20, 20, 3)
    assert rows.dtype == spec.dtype
    assert low <= rows.min() < rows.max() <= high
    assert not np.array_equal(rows[0], rows[1])

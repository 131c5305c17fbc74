"""Random inputs in the place of pixels, for measuring and checking engines.

Random and not zero: zeros hide mistakes (a zero is right in too many wrong places) and flatter latencies (a
top-K of equal scores, caches that hold one line).
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from foveate.engines.contract import TensorSpec

__all__ = ["random_rows"]


def random_rows(spec: TensorSpec, rows: int, rng: np.random.Generator) -> NDArray[Any]:
    """Random rows that fit an input: 0..1 for floats, 0..255 for integers, coin flips for booleans.

    Shapes: (rows, *spec.shape) of spec.dtype, owned by the caller.
    """
    shape = (rows, *spec.shape)
    if spec.dtype.kind == "f":
        return rng.random(shape, dtype=np.float32).astype(spec.dtype)
    if spec.dtype.kind == "b":
        return rng.integers(0, 2, shape, dtype=np.uint8).astype(spec.dtype)
    largest = min(255, int(np.iinfo(spec.dtype).max))
    return rng.integers(0, largest + 1, shape, dtype=np.uint8).astype(spec.dtype, copy=False)

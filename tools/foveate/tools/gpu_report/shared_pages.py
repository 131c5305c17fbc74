"""Memory that other processes may map, as the slots of an engine process have it."""

from __future__ import annotations

import math
import mmap
import os
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

__all__ = ["shared_pages"]


def shared_pages(shape: tuple[int, ...], dtype: DTypeLike) -> NDArray[Any]:
    """Zeroed memory of a file without a name, beginning on a page; mapped for as long as the array lives."""
    count = math.prod(shape)
    handle = os.memfd_create("foveate-report", os.MFD_CLOEXEC)
    try:
        os.ftruncate(handle, max(1, count * np.dtype(dtype).itemsize))
        return np.frombuffer(mmap.mmap(handle, 0), dtype, count).reshape(shape)
    finally:
        os.close(handle)

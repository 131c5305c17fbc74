"""Whole numbers that one process counts and another reads, in memory that outlives both."""

from __future__ import annotations

import mmap
import os
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

__all__ = ["Histogram", "SharedCounts"]


class SharedCounts:
    """Counts of 64 bits. One process counts, from one thread at a time; others may read at any time."""

    def __init__(self, length: int, handle: int | None = None) -> None:
        """Over the file `handle`, which stays the caller's to close; without one, over memory of this process alone."""
        self.values = memoryview(mmap.mmap(-1 if handle is None else handle, 8 * length)).cast("q")
        """For those who count."""
        self._array = np.frombuffer(self.values, np.int64)

    @staticmethod
    def new_file(length: int) -> int:
        """A file without a name for that many counts, all of them 0; it goes with the last process that has it."""
        handle = os.memfd_create("foveate-counts", os.MFD_CLOEXEC)
        os.ftruncate(handle, 8 * length)
        return handle

    def read(self) -> NDArray[np.int64]:
        """A copy of the counts as they are now. Shapes: (length,)."""
        return self._array.copy()

    def clear(self) -> None:
        """All start at 0 again."""
        self._array[:] = 0


@dataclass(frozen=True, slots=True)
class Histogram:
    """Numbers by size, as `counted` found them."""

    bounds: tuple[int, ...]
    """The largest number of each bucket but the last, which has none."""
    counts: tuple[int, ...]
    """By bucket, not cumulated; one more than the bounds."""
    total: int
    """The sum of the numbers."""

    @classmethod
    def counted(cls, bounds: tuple[int, ...], values: NDArray[np.int64]) -> Histogram:
        """Out of its place in memory: the counts by bucket, and behind them the sum."""
        places = tuple(int(value) for value in values[: cls.places(bounds)])
        return cls(bounds, places[:-1], places[-1])

    @staticmethod
    def places(bounds: tuple[int, ...]) -> int:
        """How many counts a histogram takes."""
        return len(bounds) + 2

    @property
    def count(self) -> int:
        return sum(self.counts)

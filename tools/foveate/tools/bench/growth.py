"""Whether a process grows: a robust line through samples of its memory, and how sure it is."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations

__all__ = ["Growth", "growth"]

_SIGMAS = 2.0


@dataclass(frozen=True, slots=True)
class Growth:
    """A slope and its bounds, in units of the samples per second."""

    per_s: float
    lowest_per_s: float
    highest_per_s: float
    """The slope lies between the bounds in about 95 of 100 cases."""


def growth(samples: Sequence[tuple[float, float]]) -> Growth:
    """The growth of a value over (second, value) samples: the Theil-Sen slope with its rank bounds.

    One jump, or an allocator that gives memory back now and then, moves it little, unlike a least-squares line.
    Source: Sen, "Estimates of the regression coefficient based on Kendall's tau", JASA 63, 1968.
    Raises: ValueError for fewer than three samples.
    """
    if len(samples) < 3:
        raise ValueError(f"growth needs at least three samples, not {len(samples)}")
    slopes = sorted((b[1] - a[1]) / (b[0] - a[0]) for a, b in combinations(samples, 2) if b[0] > a[0])
    count = len(samples)
    doubt = _SIGMAS * math.sqrt(count * (count - 1) * (2 * count + 5) / 18)
    middle = len(slopes) / 2
    low, high = max(0, int(middle - doubt / 2)), min(len(slopes) - 1, int(middle + doubt / 2))
    return Growth(statistics.median(slopes), slopes[low], slopes[high])

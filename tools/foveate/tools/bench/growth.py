"""Whether a process grows: a robust line through the floor of its memory, and how sure it is."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations, groupby

__all__ = ["Growth", "Settled", "floor", "growth", "settled_growth"]

_SIGMAS = 2.0
_WINDOWS = 60
"""Of which the lowest samples are taken; few enough that neighbours have little to do with each other."""
_STARTS = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6)

Samples = Sequence[tuple[float, float]]
"""(second, value), in the order of time."""


@dataclass(frozen=True, slots=True)
class Growth:
    """A slope and its bounds, in units of the samples per second."""

    per_s: float
    lowest_per_s: float
    highest_per_s: float
    """The slope lies between the bounds in about 95 of 100 cases."""


@dataclass(frozen=True, slots=True)
class Settled:
    """The growth after a warm-up."""

    growth: Growth
    since_s: float
    """When the warm-up ended."""
    settled: bool
    """False: the growth was still changing when three fifths of the time had passed."""


def growth(samples: Samples, sigmas: float = _SIGMAS) -> Growth:
    """The growth of a value over (second, value) samples: the Theil-Sen slope with its rank bounds.

    One jump, or an allocator that gives memory back now and then, moves it little, unlike a least-squares line.
    The bounds are `sigmas` standard deviations off; two of them leave 95 of 100 cases between.
    Source: Sen, "Estimates of the regression coefficient based on Kendall's tau", JASA 63, 1968.
    Raises: ValueError for fewer than three samples.
    """
    if len(samples) < 3:
        raise ValueError(f"growth needs at least three samples, not {len(samples)}")
    slopes = sorted((b[1] - a[1]) / (b[0] - a[0]) for a, b in combinations(samples, 2) if b[0] > a[0])
    count = len(samples)
    doubt = sigmas * math.sqrt(count * (count - 1) * (2 * count + 5) / 18)
    middle = len(slopes) / 2
    low, high = max(0, int(middle - doubt / 2)), min(len(slopes) - 1, int(middle + doubt / 2))
    return Growth(statistics.median(slopes), slopes[low], slopes[high])


def floor(samples: Samples, window_s: float) -> list[tuple[float, float]]:
    """The lowest sample of each window of time.

    What leaks is never given back, so it raises the floor; what is in use for a moment only raises what is above it.
    Samples that follow each other closely also tell the same thing twice, and bounds from them would be too narrow.
    """
    windows = groupby(samples, key=lambda sample: int((sample[0] - samples[0][0]) / window_s))
    return [min(window, key=lambda sample: sample[1]) for _, window in windows]


def settled_growth(samples: Samples) -> Settled:
    """The growth of the floor since it has been the same in both halves of the time that is left.

    A process that warms up grows ever less, so its halves differ; one that leaks grows alike in both, from the start.
    Raises: ValueError for fewer than three samples after the warm-up.
    """
    first_s, last_s = samples[0][0], samples[-1][0]
    lows = floor(samples, (last_s - first_s) / _WINDOWS)
    settled = False
    for share in _STARTS:
        since_s = first_s + share * (last_s - first_s)
        rest = [sample for sample in lows if sample[0] >= since_s]
        halves = rest[: len(rest) // 2], rest[len(rest) // 2 :]
        settled = min(map(len, halves)) >= 3 and _alike(*halves)
        if settled:
            break
    return Settled(growth(rest), since_s, settled)


def _alike(first: Samples, second: Samples) -> bool:
    """Whether one slope may be behind both; they differ by chance in about 5 of 100 cases."""
    earlier, later = (growth(each, _SIGMAS / math.sqrt(2)) for each in (first, second))
    return earlier.lowest_per_s <= later.highest_per_s and later.lowest_per_s <= earlier.highest_per_s

"""Whether a share of on-time frames is proven, and the largest load for which it is.

As MLPerf does it: a load passes once so many frames were seen that the true share is below the wanted one with a
probability of at most one in a hundred, and fails once it is above it with as little. Source: MLPerf Inference,
"early stopping", 2021.
"""

from __future__ import annotations

import math
from collections.abc import Awaitable, Callable

__all__ = ["judge", "largest_passing"]

_DOUBT = 0.01


def judge(frames: int, late: int, wanted_share: float = 0.99) -> bool | None:
    """Whether at least `wanted_share` of all frames are on time, from a sample; None: more frames are needed."""
    allowed = 1.0 - wanted_share
    if _binomial_cdf(late, frames, allowed) <= _DOUBT:
        return True
    if late and 1.0 - _binomial_cdf(late - 1, frames, allowed) <= _DOUBT:
        return False
    return None


async def largest_passing(passes: Callable[[int], Awaitable[bool]], start: int, most: int) -> int:
    """The largest number of streams that passes, 0 if one does not: by doubling, then by halves.

    Tries around a limit can contradict each other; what is returned has passed, and the next larger one tried failed.
    """
    low, high = 0, min(max(1, start), most)
    while await passes(high):
        low = high
        if high == most:
            return most
        high = min(2 * high, most)
    while high - low > max(1, low // 50):
        middle = (low + high) // 2
        if await passes(middle):
            low = middle
        else:
            high = middle
    return low


def _binomial_cdf(successes: int, trials: int, probability: float) -> float:
    """P(X <= successes) for a binomial X."""
    if successes >= trials:
        return 1.0
    log_p, log_q = math.log(probability), math.log1p(-probability)
    log_choose = [
        math.lgamma(trials + 1) - math.lgamma(k + 1) - math.lgamma(trials - k + 1) + k * log_p + (trials - k) * log_q
        for k in range(successes + 1)
    ]
    top = max(log_choose)
    return min(1.0, math.exp(top) * math.fsum(math.exp(value - top) for value in log_choose))

"""Quantiles of what was seen lately."""

from __future__ import annotations

import math
from bisect import bisect_left, insort
from collections import deque

__all__ = ["RecentValues"]


class RecentValues:
    """The values of the last while, ranked. No clock: the time comes with each value.

    A while is `window_ns`, and on to the last `least` values where fewer came in it; at most `most` are kept.
    """

    def __init__(self, window_ns: int, least: int, most: int) -> None:
        self._window_ns = window_ns
        self._least = least
        self._most = most
        self._seen: deque[tuple[int, int]] = deque()
        self._ranked: list[int] = []

    def __len__(self) -> int:
        return len(self._ranked)

    def add(self, value: int, now_ns: int) -> None:
        """One more, seen now."""
        self._seen.append((now_ns, value))
        insort(self._ranked, value)
        since_ns = now_ns - self._window_ns
        while len(self) > self._most or (len(self) > self._least and self._seen[0][0] < since_ns):
            self._forget_oldest()

    def quantile(self, share: float) -> int:
        """The smallest value that at least `share` of the values do not exceed; 0 of none."""
        return self._ranked[math.ceil(share * len(self)) - 1] if self._ranked else 0

    def forget_half(self) -> None:
        """Forget the older half, the odd one too."""
        for _ in range(math.ceil(len(self) / 2)):
            self._forget_oldest()

    def _forget_oldest(self) -> None:
        _, value = self._seen.popleft()
        del self._ranked[bisect_left(self._ranked, value)]

"""How long before its deadline a frame has to be answered, so that the answer is out in time."""

from __future__ import annotations

import math
from collections import deque

__all__ = ["WayOut"]

_WINDOW = 256
_SHARE = 0.99
_TURNS = 2
"""Of the event loop, that the answer waits for: one to be given, one to be written."""
_SHORTEST_NS = 3_000_000
_LONGEST_NS = 20_000_000
"""A stall of the machine must not take every later frame's time."""


class WayOut:
    """Learns from how long the event loop takes to come round. Units: nanoseconds."""

    def __init__(self) -> None:
        self._turns: deque[int] = deque(maxlen=_WINDOW)
        self._takes_ns = _SHORTEST_NS

    @property
    def takes_ns(self) -> int:
        """Enough for 99 in 100 answers, as the loop is now."""
        return self._takes_ns

    def observe_turn(self, took_ns: int) -> None:
        """The loop came round to a call after so long."""
        self._turns.append(took_ns)
        late_ns = sorted(self._turns)[math.ceil(_SHARE * len(self._turns)) - 1]
        self._takes_ns = min(max(_TURNS * late_ns, _SHORTEST_NS), _LONGEST_NS)

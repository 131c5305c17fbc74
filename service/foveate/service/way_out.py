"""How long before its deadline a frame has to be answered, so that the answer is out in time."""

from __future__ import annotations

from foveate.service.recent import RecentValues

__all__ = ["WayOut"]

_REMEMBERED_NS = 2_000_000_000
_REMEMBERED_AT_LEAST = 32
_REMEMBERED_AT_MOST = 1024
_SHARE = 0.999
"""Of the answers may be late one in a thousand."""
_TURNS = 2
"""Of the event loop, that the answer waits for: one to be given, one to be written."""
_SHORTEST_NS = 3_000_000
_LONGEST_NS = 40_000_000


class WayOut:
    """Learns from how long the event loop takes to come round. Units: nanoseconds. No clock: the time comes along.

    With each turn it grows to at most twice what it was, so that a stall of the machine is taken for how the loop is
    only if it comes again.
    """

    def __init__(self) -> None:
        self._turns = RecentValues(_REMEMBERED_NS, _REMEMBERED_AT_LEAST, _REMEMBERED_AT_MOST)
        self._takes_ns = _SHORTEST_NS

    @property
    def takes_ns(self) -> int:
        """Enough for 999 in 1000 answers, as the loop is now."""
        return self._takes_ns

    def observe_turn(self, took_ns: int, now_ns: int) -> None:
        """The loop came round to a call after so long."""
        self._turns.add(min(took_ns, self._takes_ns), now_ns)
        self._takes_ns = min(max(_TURNS * self._turns.quantile(_SHARE), _SHORTEST_NS), _LONGEST_NS)

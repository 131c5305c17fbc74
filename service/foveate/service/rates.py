"""Frame rates: how fast streams send, what an engine has for each of them, and when to tell them so."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from operator import attrgetter

__all__ = ["Demand", "RateMeter", "fair_rates", "rate_notice_due"]

_WINDOW_NS = 1_000_000_000
_GROWTH = 1.25
_GROWTH_FPS = 1.0
"""A stream that sends less than it might may grow by so much at once; what it leaves beyond that goes to others."""
_NOTICE_CHANGE = 0.2
_NOTICE_EVERY_NS = 1_000_000_000


class RateMeter:
    """How many frames a second come in, over the last second. No clock: the time comes with each call."""

    def __init__(self, now_ns: int) -> None:
        self._since_ns = self._window_ns = now_ns
        self._before = self._now = 0

    def count(self, now_ns: int) -> None:
        """A frame has come."""
        self._roll(now_ns)
        self._now += 1

    def fps(self, now_ns: int) -> float | None:
        """Frames per second; None while there is less than a second to judge by."""
        self._roll(now_ns)
        if now_ns - self._since_ns < _WINDOW_NS:
            return None
        return self._now + self._before * (1.0 - (now_ns - self._window_ns) / _WINDOW_NS)

    def _roll(self, now_ns: int) -> None:
        windows = (now_ns - self._window_ns) // _WINDOW_NS
        if windows > 0:
            self._before, self._now = (self._now if windows == 1 else 0), 0
            self._window_ns += windows * _WINDOW_NS


@dataclass(frozen=True, slots=True)
class Demand:
    """What one stream asks of an engine."""

    stream_id: str
    priority: int = 0
    weight: float = 1.0
    fps: float = 0.0
    """Declared when the stream opened; 0: unknown."""
    guaranteed: bool = False
    sending_fps: float | None = None
    """Measured lately; None: too new to tell."""
    cost: float = 1.0
    """Of one frame, in units of what is shared out."""

    @property
    def most_fps(self) -> float:
        """What it may ever ask for."""
        return self.fps or math.inf

    @property
    def soon_fps(self) -> float:
        """What it may ask for in the next moment."""
        if self.sending_fps is None:
            return self.most_fps
        return min(self.most_fps, self.sending_fps * _GROWTH + _GROWTH_FPS)


def fair_rates(demands: Sequence[Demand], capacity: float) -> dict[str, float]:
    """Frames per second that each stream may expect to be answered OK, by stream id.

    What is shared out is `capacity` a second: frames of one engine, or a device's time where frames differ in what they
    cost. It goes to the highest class first, within a class to guaranteed streams first, and what that
    leaves to the next. Within these it is shared out by weight, and what a stream does not ask for goes to the others
    (max-min fair): first what streams may send soon, going by what they send now, so that one which is open and idle
    holds nothing back; then what is left over. A guaranteed stream is never advised less than it declared.
    """
    rates = dict.fromkeys((demand.stream_id for demand in demands), 0.0)
    ranked = sorted({(demand.priority, not demand.guaranteed) for demand in demands})
    left = capacity
    for wanted in (attrgetter("soon_fps"), attrgetter("most_fps")):
        for rank in ranked:
            peers = [demand for demand in demands if (demand.priority, not demand.guaranteed) == rank]
            asked = [(demand, (wanted(demand) - rates[demand.stream_id]) * demand.cost) for demand in peers]
            for demand, share in _max_min(asked, left):
                rates[demand.stream_id] += share / demand.cost
                left = max(0.0, left - share)
    for demand in demands:
        if demand.guaranteed:
            rates[demand.stream_id] = max(rates[demand.stream_id], demand.fps)
    return rates


def rate_notice_due(told_fps: float, told_ns: int, fps: float, now_ns: int) -> bool:
    """Whether a stream should hear of its new advised rate before its next answer would tell it.

    It should once the rate is a fifth off what it was told last, at most every second.
    """
    return now_ns - told_ns >= _NOTICE_EVERY_NS and abs(fps - told_fps) > _NOTICE_CHANGE * max(fps, told_fps)


def _max_min(asked: Iterable[tuple[Demand, float]], left: float) -> list[tuple[Demand, float]]:
    """Shares of what is left, by weight; nobody gets more than is asked."""
    shares = []
    ranked = sorted(asked, key=lambda each: each[1] / each[0].weight)
    open_weight = math.fsum(demand.weight for demand, _ in ranked)
    for demand, most in ranked:
        share = min(most, left * demand.weight / open_weight) if open_weight > 0 else 0.0
        shares.append((demand, share))
        left = max(0.0, left - share)
        open_weight -= demand.weight
    return shares

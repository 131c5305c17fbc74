"""Which streams have series of their own in the metrics: so many at most, however many come and go."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

__all__ = ["StreamSeries"]

_KEPT_S = 600.0
"""A stream that has been gone for so long loses its series. Longer than any usual time between two scrapes, so that its
last counts are seen, and than a camera takes to be restarted, so that its counters go on."""


@dataclass(slots=True)
class _Series:
    number: int
    seen_s: float
    """When it was last found open."""
    latest: bool = True
    """Whether the stream was opened on this pipeline the last time."""


class StreamSeries:
    """The series by stream and pipeline. No clock: the time, in seconds, comes with each call."""

    def __init__(self, most: int, is_open: Callable[[str], bool], on_free: Callable[[int], None]) -> None:
        """At most so many series, numbered from 1.

        `is_open` says whether a stream of that name is open now; `on_free` is told of each number that will be given
        to another stream, so that it starts at 0.
        """
        self._is_open = is_open
        self._on_free = on_free
        self._free = list(range(most, 0, -1))
        self._series: dict[tuple[str, str], _Series] = {}

    def number(self, stream: str, pipeline: str, now_s: float, *, named: bool) -> int:
        """The series of a stream that opens now; 0: none of its own.

        Only a stream that its client has `named` gets a new one: names that were made up here do not come again.
        """
        for (name, on), other in self._series.items():
            if name == stream:
                other.latest = on == pipeline
        series = self._series.get((stream, pipeline))
        if series is None and named:
            if not self._free:
                self._forget(now_s)
            if self._free:
                series = self._series[stream, pipeline] = _Series(self._free.pop(), now_s)
        if series is None:
            return 0
        series.seen_s = now_s
        return series.number

    def current(self, now_s: float) -> dict[tuple[str, str], int]:
        """The series that are shown now, by stream and pipeline."""
        self._forget(now_s)
        return {key: series.number for key, series in self._series.items()}

    def connected(self) -> set[tuple[str, str]]:
        """Those of the series whose streams are open now."""
        return {key for key, series in self._series.items() if series.latest and self._is_open(key[0])}

    def _forget(self, now_s: float) -> None:
        connected = self.connected()
        for key, series in list(self._series.items()):
            if key in connected:
                series.seen_s = now_s
            elif now_s - series.seen_s > _KEPT_S:
                del self._series[key]
                self._free.append(series.number)
                self._on_free(series.number)

"""The frames that wait for one engine, kept in columns so that a decision over hundreds of them is a few array steps.

A frame's *place* is its row: a frame that replaces another takes over its place, others come last. Places break ties,
so that decisions depend on nothing but what has happened.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Generic, NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray

__all__ = ["Standing", "StreamShare", "Waiting", "WaitingRoom"]

F = TypeVar("F")
Ints = NDArray[np.int64]
Floats = NDArray[np.float64]

_ROOM_AT_FIRST = 64
_STREAM, _DEADLINE, _PREPARE, _ARRIVED = range(4)
_PRIORITY, _VIRTUAL, _WEIGHT, _ASSURED_FROM, _INTERVAL = range(5)
_LONGEST_NS = float(1 << 62)
_GUARANTEED_BURST = 2
"""Frames that a guaranteed stream may be ahead of its declared rate: cameras are not punctual."""


@dataclass(slots=True, eq=False)
class StreamShare:
    """One stream's standing with the scheduler."""

    priority: int = 0
    weight: float = 1.0
    queue_depth: int | None = None
    """Frames that may wait; None: only the newest (LATEST)."""
    virtual_ns: float = 0.0
    """Engine time received so far, over the weight: the stream with the least is served first."""
    guaranteed_fps: float = 0.0
    """Frames per second that go before best effort of the class; 0: the stream is best effort."""
    due_ns: float = -math.inf
    """When the next frame is due at the guaranteed rate, after those that have been served under the guarantee."""

    @property
    def interval_ns(self) -> float:
        """Between two guaranteed frames; 0 where there are none."""
        return 1e9 / self.guaranteed_fps if self.guaranteed_fps else 0.0

    @property
    def assured_from_ns(self) -> float:
        """From when on the stream's next frame has the guarantee; infinite where there is none."""
        return self.due_ns - _GUARANTEED_BURST * self.interval_ns if self.guaranteed_fps else math.inf

    def charge(self, cost_ns: float, now_ns: int) -> None:
        """One frame of the stream is served, for so much of the engine's time."""
        self.virtual_ns += cost_ns / self.weight
        if self.guaranteed_fps and now_ns >= self.assured_from_ns:
            self.due_ns = max(self.due_ns, now_ns) + 1e9 / self.guaranteed_fps


@dataclass(slots=True, eq=False)
class Waiting(Generic[F]):
    """A frame that waits, with all that the scheduler needs to know of it. Units: monotonic nanoseconds."""

    frame: F
    share: StreamShare
    deadline_ns: int
    prepare_ns: int = 0
    """Predicted time to decode it."""


class Standing(NamedTuple):
    """How each waiting frame stands, by place.

    Shapes: all (n,). Units: nanoseconds. Frames of a stream stand in line: one behind another ranks after it, and
    does not fit where that one does not.
    """

    band: Floats
    """2 * class for frames within their stream's guarantee, and 1 more for all others."""
    priority: Floats
    virtual_ns: Floats
    """Virtual time of the stream once the frames ahead in its line are charged."""
    ahead: Ints
    """Frames of the same stream that come first."""
    weight: Floats
    fits_until_ns: Ints
    """The earliest deadline of the frame and those ahead of it."""
    by_ns: Ints
    """The latest deadline of the frame and those ahead of it."""
    prepare_ns: Ints
    arrived_ns: Ints
    coarse: Floats
    """Rises with (class, guarantee, virtual time), but may hold for equal what is not quite."""

    def first(self, count: int, among: Ints) -> Ints:
        """So many of some places, or all, ranked by (class, guarantee, virtual time, deadline, place).

        `among` rises. Only those that may come to be among the first are sorted by all of that.
        """
        if count < len(among):
            coarse = self.coarse[among]
            among = among[coarse <= np.partition(coarse, count - 1)[count - 1]]
        ranked = np.lexsort((self.by_ns[among], self.virtual_ns[among], self.band[among]))
        return among[ranked[:count]]


class WaitingRoom(Generic[F]):
    """Holds waiting frames. A stream takes up room only while frames of it wait."""

    def __init__(self) -> None:
        self._waiting: list[Waiting[F]] = []
        self._rows: Ints = np.empty((4, _ROOM_AT_FIRST), np.int64)
        self._streams: Floats = np.empty((5, _ROOM_AT_FIRST), np.float64)
        self._columns: dict[StreamShare, int] = {}
        self._counts: list[int] = []
        """Frames that wait, by the stream's column."""
        self._unused: list[int] = []

    def __len__(self) -> int:
        return len(self._waiting)

    def count(self, share: StreamShare) -> int:
        """How many frames of a stream wait."""
        column = self._columns.get(share)
        return 0 if column is None else self._counts[column]

    def add(self, waiting: Waiting[F], now_ns: int) -> None:
        """Let a frame wait, in the last place."""
        place = len(self._waiting)
        if place == self._rows.shape[1]:
            self._rows = _widened(self._rows)
        self._waiting.append(waiting)
        column = self._column(waiting.share)
        self._counts[column] += 1
        self._rows[:, place] = column, waiting.deadline_ns, waiting.prepare_ns, now_ns

    def replace(self, waiting: Waiting[F], now_ns: int) -> Waiting[F]:
        """Let a frame take the place of the first one of its stream, which is returned."""
        column = self._columns[waiting.share]
        place = int(np.argmax(self._rows[_STREAM, : len(self)] == column))
        replaced, self._waiting[place] = self._waiting[place], waiting
        self._rows[:, place] = column, waiting.deadline_ns, waiting.prepare_ns, now_ns
        return replaced

    def of(self, share: StreamShare) -> Ints:
        """The places of a stream's frames, in their order."""
        column = self._columns.get(share)
        return np.flatnonzero(self._rows[_STREAM, : len(self)] == (-1 if column is None else column))

    def take(self, places: Ints) -> list[Waiting[F]]:
        """Take frames out, in the order of the places given."""
        rows, waiting, counts = self._rows, self._waiting, self._counts
        taken = [waiting[place] for place in places.tolist()]
        for column, each in zip(rows[_STREAM, places].tolist(), taken, strict=True):
            counts[column] -= 1
            if not counts[column]:
                del self._columns[each.share]
                self._unused.append(column)
        kept = np.ones(len(waiting), np.bool_)
        kept[places] = False
        rows[:, : len(waiting) - len(taken)] = rows.take(kept.nonzero()[0], axis=1)
        for place in sorted(places.tolist(), reverse=True):  # a new list would touch every frame that stays
            del waiting[place]
        return taken

    def charged(self, share: StreamShare) -> None:
        """A stream's standing has changed."""
        column = self._columns.get(share)
        if column is not None:
            self._note(column, share)

    def late(self, now_ns: int, free_ns: int, needed_ns: int) -> Ints:
        """The places of frames that miss their deadline even if they run next and alone."""
        _, deadline_ns, prepare_ns, _ = self._rows[:, : len(self)]
        late: Ints = (np.maximum(prepare_ns + now_ns, free_ns) > deadline_ns - needed_ns).nonzero()[0]
        return late

    def earliest_start_by_ns(self) -> int | None:
        """The least of the times by which preparing some frame has to begin if its run took no time; None of none."""
        _, deadline_ns, prepare_ns, _ = self._rows[:, : len(self)]
        return int((deadline_ns - prepare_ns).min()) if len(self) else None

    def tightest(self, now_ns: int, free_ns: int) -> tuple[int, int] | None:
        """The highest class of which frames wait, and the least time between a start and a deadline in it."""
        if not len(self):
            return None
        stream, deadline_ns, prepare_ns, _ = self._rows[:, : len(self)]
        priority = self._streams[_PRIORITY, stream]
        left_ns = deadline_ns - np.maximum(prepare_ns + now_ns, free_ns)
        return int(priority.min()), int(left_ns[priority == priority.min()].min())

    def costliest_ns(self, most: int) -> Ints:
        """The longest preparation times, longest first."""
        costs_ns: Ints = self._rows[_PREPARE, : len(self)].copy()
        costs_ns.sort()
        return costs_ns[: -most - 1 : -1]

    def standing(self, now_ns: int, service_ns: float) -> Standing:
        """How the frames stand now, where one more service will charge a stream about `service_ns`."""
        stream, deadline_ns, prepare_ns, arrived_ns = self._rows[:, : len(self)]
        priority, virtual_ns, weight, assured_from_ns, interval_ns = self._streams.take(stream, axis=1)
        if len(self._columns) == len(self):
            ahead, fits_until_ns, by_ns = np.zeros(len(stream), np.int64), deadline_ns, deadline_ns
        else:
            ahead, fits_until_ns, by_ns = _in_line(stream, deadline_ns)
            virtual_ns = virtual_ns + ahead * service_ns / weight
            assured_from_ns = assured_from_ns + ahead * interval_ns
        band = 2 * priority + (assured_from_ns > now_ns)
        coarse = band * _LONGEST_NS + np.minimum(virtual_ns, _LONGEST_NS)
        return Standing(band, priority, virtual_ns, ahead, weight, fits_until_ns, by_ns, prepare_ns, arrived_ns, coarse)

    def _column(self, share: StreamShare) -> int:
        column = self._columns.get(share)
        if column is None:
            if not self._unused:
                self._unused.append(len(self._counts))
                self._counts.append(0)
                if len(self._counts) > self._streams.shape[1]:
                    self._streams = _widened(self._streams)
            column = self._columns[share] = self._unused.pop()
            self._note(column, share)
        return column

    def _note(self, column: int, share: StreamShare) -> None:
        standing = (share.priority, share.virtual_ns, share.weight, share.assured_from_ns, share.interval_ns)
        self._streams[:, column] = standing


def _in_line(stream: Ints, deadline_ns: Ints) -> tuple[Ints, Ints, Ints]:
    """Of each place: how many of its stream come before it, and the earliest and latest deadline up to it.

    Running minima restart with each stream because the ranks of every stream's deadlines are moved below those of the
    stream before.
    """
    order = np.argsort(stream, kind="stable")
    starts = np.concatenate(([True], np.diff(stream[order]) != 0))
    group = np.cumsum(starts) - 1
    deadlines_ns, rank = np.unique(deadline_ns, return_inverse=True)
    moved = group * len(deadlines_ns)
    ahead, earliest_ns, latest_ns = np.empty((3, len(stream)), np.int64)
    ahead[order] = np.arange(len(stream)) - np.flatnonzero(starts)[group]
    earliest_ns[order] = deadlines_ns[np.minimum.accumulate(rank[order] - moved) + moved]
    latest_ns[order] = deadlines_ns[np.maximum.accumulate(rank[order] + moved) - moved]
    return ahead, earliest_ns, latest_ns


def _widened(table: NDArray[Any]) -> NDArray[Any]:
    return np.concatenate((table, np.empty_like(table)), axis=1)

"""How the whole service does, in numbers: the counts of all its processes added up, and how things stand.

`metrics_text` has them for Prometheus.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence, Set
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from foveate.service.boundary import LaneStatus
from foveate.service.frame import Grant
from foveate.service.ledger import Ledger, ledger_of
from foveate.service.metrics_series import StreamSeries
from foveate.service.metrics_tables import (
    IngestLayout,
    IngestTable,
    LaneCounts,
    LaneTable,
    PipelineCounts,
    StreamCounts,
    lane_counts,
)

__all__ = ["IngestStanding", "LaneTotals", "ProcessLife", "ServiceCounts", "ServiceMetrics"]


@dataclass(slots=True)
class IngestStanding:
    """How the frames and streams of an ingest stand at one moment; of several ingests, added up."""

    open: Counter[tuple[str, Grant]] = field(default_factory=Counter)
    """Streams by pipeline and grant."""
    oldest_ns: dict[str, int] = field(default_factory=dict)
    """How long ago the oldest frame that has no answer yet was received, by pipeline."""
    imbalance: Counter[str] = field(default_factory=Counter)
    """Frames in flight by the ledger less those that are there, by pipeline: always 0."""
    held_bytes: int = 0
    """Of frames that are not answered yet."""

    def add(self, other: IngestStanding) -> None:
        """Add another ingest's."""
        self.open.update(other.open)
        self.imbalance.update(other.imbalance)
        self.held_bytes += other.held_bytes
        for pipeline, age_ns in other.oldest_ns.items():
            self.oldest_ns[pipeline] = max(age_ns, self.oldest_ns.get(pipeline, 0))


@dataclass(frozen=True, slots=True)
class ProcessLife:
    """A process of the service, over all its lives."""

    name: str
    pid: int | None
    """None while it is down."""
    starts: int


@dataclass(frozen=True, slots=True)
class ServiceMetrics:
    """A snapshot of all that the service tells about itself."""

    pipelines: Mapping[str, PipelineCounts]
    streams: Mapping[tuple[str, str], StreamCounts]
    """By stream and pipeline; those of the stream "" are all that have no series of their own."""
    connected: Set[tuple[str, str]]
    """Of the streams that have series, those that are open."""
    lanes: Mapping[tuple[str, str], LaneCounts]
    """By pipeline and device, also of devices that are down."""
    running: Sequence[LaneStatus]
    """The lanes that serve now."""
    standing: IngestStanding
    processes: Sequence[ProcessLife]


class ServiceCounts:
    """The counts of all ingests of a service, those of their earlier lives included. They never go back."""

    def __init__(self, pipelines: Iterable[str], most_series: int, is_open: Callable[[str], bool]) -> None:
        """`is_open` says whether a stream of that name is open now."""
        self.layout = IngestLayout(tuple(pipelines), most_series)
        self._series = StreamSeries(most_series, is_open, self._free)
        self._tables: list[IngestTable] = []
        self._base = np.zeros(self.layout.length, np.int64)
        """What is added to the counts of those that run: those of earlier lives, less what series began with."""

    def add(self, table: IngestTable) -> None:
        """An ingest of the service, over all its lives."""
        self._tables.append(table)

    def series(self, stream: str, pipeline: str, *, named: bool) -> int:
        """See `StreamSeries.number`."""
        return self._series.number(stream, pipeline, time.monotonic(), named=named)

    def bury(self, table: IngestTable) -> None:
        """An ingest has died: its counts are kept, what it had in flight is cancelled."""
        self._base += table.close_books()

    def ledger(self) -> Ledger:
        """Of all pipelines."""
        values, total = self._total(), Ledger()
        for index in range(len(self.layout.pipelines)):
            total.add(ledger_of(values[self.layout.pipeline_at(index) :]))
        return total

    def metrics(
        self,
        lanes: LaneTotals,
        running: Sequence[LaneStatus],
        standing: IngestStanding,
        processes: Sequence[ProcessLife],
    ) -> ServiceMetrics:
        """A snapshot, with what others know."""
        named = self._series.current(time.monotonic())
        total, layout = self._total(), self.layout
        pipelines = {name: layout.pipeline_counts(total, at) for at, name in enumerate(layout.pipelines)}
        streams = {("", name): layout.stream_counts(total, at, 0) for at, name in enumerate(layout.pipelines)}
        streams |= {key: layout.stream_counts(total, 0, number) for key, number in named.items()}
        return ServiceMetrics(
            pipelines, streams, self._series.connected(), lanes.counts(), running, standing, processes
        )

    def _total(self) -> NDArray[np.int64]:
        total = self._base.copy()
        for table in self._tables:
            total += table.read()
        return total

    def _free(self, number: int) -> None:
        places = self.layout.stream_places(number)
        self._base[places] -= self._total()[places]


class LaneTotals:
    """The counts of all lanes of a service, by pipeline and device, those of earlier lives included."""

    def __init__(self) -> None:
        self._ended: dict[tuple[str, str], NDArray[np.int64]] = {}
        self._tables: list[tuple[str, LaneTable]] = []

    def add(self, device: str, table: LaneTable) -> None:
        """A device runs."""
        self._tables.append((device, table))

    def bury(self, table: LaneTable) -> None:
        """The process of a device has died: its counts are kept."""
        for entry in [entry for entry in self._tables if entry[1] is table]:
            _add(self._ended, *entry)
            self._tables.remove(entry)

    def counts(self) -> dict[tuple[str, str], LaneCounts]:
        """By pipeline and device."""
        total = {key: row.copy() for key, row in self._ended.items()}
        for device, table in self._tables:
            _add(total, device, table)
        return {key: lane_counts(row) for key, row in total.items()}


def _add(rows: dict[tuple[str, str], NDArray[np.int64]], device: str, table: LaneTable) -> None:
    for lane, row in table.rows().items():
        earlier = rows.get((lane, device))
        rows[lane, device] = row if earlier is None else earlier + row

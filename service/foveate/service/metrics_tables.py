"""What is counted for metrics, and where each count lies in memory.

The tables of an ingest and of a device are in memory that their supervisor reads, so counting asks for no message, and
a process that crashes takes no count along. Buckets are the same everywhere: histograms of several services add up.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from foveate.service.frame import Answer, Frame, StageTimes
from foveate.service.ledger import LEDGER_PLACES, CountedLedger, Ledger, ledger_of
from foveate.service.shared_counts import Histogram, SharedCounts
from foveate.service.stream import CameraStream

__all__ = [
    "BATCH_SIZES",
    "ERROR_NS",
    "FRAME_NS",
    "STAGES",
    "STAGE_NS",
    "IngestLayout",
    "IngestTable",
    "LaneCounts",
    "LaneMeter",
    "LaneTable",
    "PipelineCounts",
    "StreamCounts",
    "lane_counts",
]

_MS = 1_000_000


def _ns(*milliseconds: float) -> tuple[int, ...]:
    return tuple(round(ms * _MS) for ms in milliseconds)


FRAME_NS = _ns(
    *(1, 2.5, 5, 10, 15, 20, 25, 33, 50, 75, 100, 150, 200, 250, 350, 500, 750),
    *(1000, 1500, 2500, 5000, 10_000),
)  # fmt: skip
"""Buckets of times that have a budget, from 5 ms to 10 s: a bucket ends at each budget that is usual."""
STAGE_NS = _ns(
    *(0.05, 0.1, 0.25, 0.5, 1, 2, 3, 5, 7.5, 10, 15, 25, 50, 100, 250, 500),
    *(1000, 2500),
)  # fmt: skip
"""Buckets of the parts of such a time; finest at the milliseconds that decoding and inference take."""
ERROR_NS = _ns(-100, -25, -10, -5, -2.5, -1, -0.5, -0.25, 0, 0.25, 0.5, 1, 2.5, 5, 10, 25, 100, 500)
"""Buckets of how much later a run ended than was foreseen; earlier is negative."""
BATCH_SIZES = (1, 2, 4, 8, 16, 32, 64, 128, 256)
STAGES = (
    "receive_queue",
    "decode",
    "wait",
    "copy_in",
    "infer",
    "copy_out",
    "postprocess",
    "cascade",
    "reply_queue",
)
"""Of `StageTimes`: one after another they are a frame's whole way."""

_STAGE_PLACES, _FRAME_PLACES = Histogram.places(STAGE_NS), Histogram.places(FRAME_NS)
_STAGE_SUM, _FRAME_SUM = len(STAGE_NS) + 1, len(FRAME_NS) + 1
_LEDGER = len(LEDGER_PLACES)
_FRAME_AT = _LEDGER
_QUEUE_AT = _FRAME_AT + _FRAME_PLACES
_MISSING_AT = _QUEUE_AT + _FRAME_PLACES
_STAGES_AT = _MISSING_AT + 1
_PIPELINE_PLACES = _STAGES_AT + len(STAGES) * _STAGE_PLACES
_ENGINE_AT = _FRAME_AT + _FRAME_PLACES
_SUMS_AT = _ENGINE_AT + 1
_STREAM_PLACES = _SUMS_AT + len(STAGES)


@dataclass(frozen=True, slots=True)
class PipelineCounts:
    """What happened to the frames of a pipeline. Units: nanoseconds."""

    ledger: Ledger
    frame: Histogram
    """From receipt until gRPC had the answer, of the frames that ran."""
    queue: Histogram
    """From receipt until their batch started."""
    stages: Mapping[str, Histogram]
    attributes_missing: int
    """Detections that a cascade did not look at for lack of time."""


@dataclass(frozen=True, slots=True)
class StreamCounts:
    """What happened to the frames of a stream. Units: nanoseconds."""

    ledger: Ledger
    frame: Histogram
    engine_ns: int
    """Its share of the runs of engines, those of its cascade included."""
    stages_ns: Mapping[str, int]
    """The sums of its frames' stages."""


@dataclass(frozen=True, slots=True)
class IngestLayout:
    """The order of an ingest's counts: rows for the pipelines, then for the streams."""

    pipelines: tuple[str, ...]
    series: int
    """Streams that have rows of their own; those of the others are one row per pipeline, which come first."""

    @property
    def length(self) -> int:
        return len(self.pipelines) * (_PIPELINE_PLACES + _STREAM_PLACES) + self.series * _STREAM_PLACES

    @property
    def ledgers(self) -> NDArray[np.intp]:
        """Where the ledgers begin. Shapes: (rows,)."""
        pipelines = [self.pipeline_at(index) for index in range(len(self.pipelines))]
        return np.array(pipelines + [self._stream_at(row) for row in range(len(self.pipelines) + self.series)])

    def pipeline_at(self, index: int) -> int:
        """Where a pipeline's counts begin."""
        return index * _PIPELINE_PLACES

    def stream_at(self, index: int, series: int) -> int:
        """Where a stream's counts begin; of series 0: those of all such streams of the pipeline of this index."""
        return self._stream_at(len(self.pipelines) + series - 1 if series else index)

    def stream_places(self, series: int) -> slice:
        """All counts of a series."""
        at = self.stream_at(0, series)
        return slice(at, at + _STREAM_PLACES)

    def pipeline_counts(self, values: NDArray[np.int64], index: int) -> PipelineCounts:
        """A pipeline's counts out of a whole table's."""
        row = values[self.pipeline_at(index) :]
        stages = {
            stage: Histogram.counted(STAGE_NS, row[_STAGES_AT + place * _STAGE_PLACES :])
            for place, stage in enumerate(STAGES)
        }
        frame, queue = (Histogram.counted(FRAME_NS, row[at:]) for at in (_FRAME_AT, _QUEUE_AT))
        return PipelineCounts(ledger_of(row), frame, queue, stages, int(row[_MISSING_AT]))

    def stream_counts(self, values: NDArray[np.int64], index: int, series: int) -> StreamCounts:
        """A stream's counts out of a whole table's; see `stream_at`."""
        row = values[self.stream_at(index, series) :]
        sums = {stage: int(row[_SUMS_AT + place]) for place, stage in enumerate(STAGES)}
        return StreamCounts(ledger_of(row), Histogram.counted(FRAME_NS, row[_FRAME_AT:]), int(row[_ENGINE_AT]), sums)

    def _stream_at(self, row: int) -> int:
        return len(self.pipelines) * _PIPELINE_PLACES + row * _STREAM_PLACES


class IngestTable:
    """The counts of one ingest: its ledgers, and, as it observes answers, its times. Belongs to the loop's thread."""

    def __init__(self, layout: IngestLayout, handle: int | None = None) -> None:
        """Over a file of the layout's length; None: in memory of this process alone."""
        self.layout = layout
        self._counts = SharedCounts(layout.length, handle)
        self._values = self._counts.values
        self._index = {name: index for index, name in enumerate(layout.pipelines)}
        self._ledgers = layout.ledgers

    def of(self, pipeline: str, series: int) -> tuple[CountedLedger, CountedLedger]:
        """See `stream.Accounts`."""
        index = self._index[pipeline]
        starts = (self.layout.pipeline_at(index), self.layout.stream_at(index, series))
        first, second = (CountedLedger(self._values[at : at + _LEDGER]) for at in starts)
        return first, second

    def in_flight(self) -> dict[str, int]:
        """See `stream.Accounts`."""
        starts = {name: self.layout.pipeline_at(index) for name, index in self._index.items()}
        return {name: ledger_of(self._values[at : at + _LEDGER].tolist()).in_flight for name, at in starts.items()}

    def answered(self, stream: CameraStream, frame: Frame, answer: Answer) -> None:
        """See `AnswerObserver`. Written out, since it is on every answer's way out: 4 µs."""
        ran, times, values = answer.run, answer.times, self._values
        if ran is None:
            return
        index = self._index[stream.options.pipeline]
        row, own = self.layout.pipeline_at(index), self.layout.stream_at(index, stream.series)
        total, bucket = times.total, bisect_left(FRAME_NS, times.total)
        for at in (row + _FRAME_AT, own + _FRAME_AT):
            values[at + bucket] += 1
            values[at + _FRAME_SUM] += total
        queued = ran.started_ns - frame.received_ns
        values[row + _QUEUE_AT + bisect_left(FRAME_NS, queued)] += 1
        values[row + _QUEUE_AT + _FRAME_SUM] += queued
        values[own + _ENGINE_AT] += ran.share_ns + answer.crops_ns
        values[row + _MISSING_AT] += answer.attributes_missing
        at, sums = row + _STAGES_AT, own + _SUMS_AT
        for took in _stages(times):
            values[at + bisect_left(STAGE_NS, took)] += 1
            values[at + _STAGE_SUM] += took
            values[sums] += took
            at += _STAGE_PLACES
            sums += 1

    def read(self) -> NDArray[np.int64]:
        """A copy of all counts. What was received is read last: no frame seems to be answered before it came."""
        values = self._counts.read()
        values[self._ledgers] = self._counts.read()[self._ledgers]
        return values

    def close_books(self) -> NDArray[np.int64]:
        """The counts of a process that is gone: what it had in flight is cancelled, and all starts at 0 again."""
        values = self.read()
        for at in self._ledgers:
            values[at + LEDGER_PLACES["cancelled"]] += ledger_of(values[at:]).in_flight
        self._counts.clear()
        return values


def _stages(times: StageTimes) -> tuple[int, ...]:
    """In the order of `STAGES`."""
    return (
        times.receive_queue,
        times.decode,
        times.wait,
        times.copy_in,
        times.infer,
        times.copy_out,
        times.postprocess,
        times.cascade,
        times.reply_queue,
    )


_SIZE_PLACES, _ERROR_PLACES = Histogram.places(BATCH_SIZES), Histogram.places(ERROR_NS)
_RUN_AT = _SIZE_PLACES
_ERROR_AT = _RUN_AT + _STAGE_PLACES
_OVER_AT = _ERROR_AT + _ERROR_PLACES
_UNDER_AT = _OVER_AT + 1
_LANE_PLACES = _UNDER_AT + 1


@dataclass(frozen=True, slots=True)
class LaneCounts:
    """What a lane has run. Units: nanoseconds."""

    sizes: Histogram
    """Of its batches, in frames."""
    runs: Histogram
    """How long they took."""
    errors: Histogram
    """How much later they ended than was foreseen when they were planned."""
    over_ns: int
    """The sum of what they ended late by, those alone that did."""
    under_ns: int
    """The sum of what they ended early by, those alone that did."""


class LaneTable:
    """The counts of a device's lanes."""

    def __init__(self, lanes: Sequence[str], handle: int | None = None) -> None:
        """Over a file of `length` counts; None: in memory of this process alone."""
        self.lanes = tuple(lanes)
        self._counts = SharedCounts(self.length(self.lanes), handle)

    @staticmethod
    def length(lanes: Sequence[str]) -> int:
        return max(1, len(lanes)) * _LANE_PLACES

    def meter(self, lane: str) -> LaneMeter:
        """What counts the runs of one lane."""
        at = self.lanes.index(lane) * _LANE_PLACES
        return LaneMeter(self._counts.values[at : at + _LANE_PLACES])

    def rows(self) -> dict[str, NDArray[np.int64]]:
        """A copy of each lane's counts, to be added up and made into `lane_counts`. Shapes: (n,)."""
        values = self._counts.read()
        return {lane: values[at * _LANE_PLACES :][:_LANE_PLACES] for at, lane in enumerate(self.lanes)}


class LaneMeter:
    """Counts the runs of one lane. One thread at a time may call it."""

    def __init__(self, values: memoryview) -> None:
        self._values = values

    def ran(self, size: int, took_ns: int, late_ns: int) -> None:
        """A batch has run, and ended so much later than was foreseen."""
        values = self._values
        counted = ((0, BATCH_SIZES, size), (_RUN_AT, STAGE_NS, took_ns), (_ERROR_AT, ERROR_NS, late_ns))
        for at, bounds, number in counted:
            values[at + bisect_left(bounds, number)] += 1
            values[at + len(bounds) + 1] += number
        values[_OVER_AT if late_ns > 0 else _UNDER_AT] += abs(late_ns)


def lane_counts(row: NDArray[np.int64]) -> LaneCounts:
    """What stands in a row of a `LaneTable`."""
    sizes, runs, errors = (
        Histogram.counted(bounds, row[at:])
        for at, bounds in ((0, BATCH_SIZES), (_RUN_AT, STAGE_NS), (_ERROR_AT, ERROR_NS))
    )
    return LaneCounts(sizes, runs, errors, int(row[_OVER_AT]), int(row[_UNDER_AT]))

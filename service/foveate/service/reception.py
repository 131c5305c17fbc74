"""Where streams and frames come in: what is refused, what is answered at once, what goes on to a lane."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from foveate.engines.errors import ShuttingDown
from foveate.service import admission
from foveate.service.batch import Answered
from foveate.service.config import ServiceConfig
from foveate.service.frame import Answer, Frame, StreamOptions, Verdict
from foveate.service.ledger import Ledger
from foveate.service.pipeline import Pipeline, PipelineSet
from foveate.service.registry import StreamRegistry
from foveate.service.stream import CameraStream, DrainNotice, HeldBytes

__all__ = ["OpenedStream", "Reception", "deliver"]

_RATES_KEPT_NS = 500_000_000


@dataclass(frozen=True, slots=True)
class OpenedStream:
    """A stream, and the pipeline that answers it."""

    stream: CameraStream
    pipeline: Pipeline


def deliver(answers: Sequence[Answered]) -> None:
    """Give each answer to its stream."""
    for job, answer in answers:
        job.stream.settle(job, answer)


class Reception:
    """The streams of a server and their way to the lanes. Belongs to the event loop's thread."""

    def __init__(self, config: ServiceConfig, pipelines: PipelineSet) -> None:
        self.config = config
        self.pipelines = pipelines
        self.streams = StreamRegistry(config.limits.max_streams, config.resume_s)
        self.draining = False
        self._held = HeldBytes()
        self._singles: set[CameraStream] = set()
        self._rates: dict[str, tuple[int, dict[str, float]]] = {}

    def open(
        self,
        pipeline: Pipeline,
        options: StreamOptions,
        *,
        stream_id: str,
        resume_token: str,
        disconnect: Callable[[], None],
    ) -> OpenedStream:
        """Open a stream, or take an earlier one up again; `disconnect` ends its connection from this side.

        Raises: BudgetTooSmall, Overloaded, StreamTaken, ShuttingDown.
        """
        self.refuse_while_draining()
        earlier = self.streams.resumable(resume_token)  # first: what it held is free again
        cap, spoken_for = pipeline.lane.statistics().batch_cap, self._spoken_for(options.priority)
        grant = admission.admit_stream(options, pipeline.lane.latency, cap, spoken_for)
        window = admission.stream_window(options)
        if earlier:
            stream = earlier.successor(options, window)
        else:
            name, token = stream_id or self.streams.new_id(), self.streams.new_token()
            stream = CameraStream(name, options, window, token, self._held)
        stream.grant = grant
        self.streams.open(stream, disconnect)
        return OpenedStream(stream, pipeline)

    def open_single(self, pipeline: Pipeline, options: StreamOptions) -> OpenedStream:
        """A stream of one frame, which is not listed. Raises: ShuttingDown."""
        self.refuse_while_draining()
        stream = CameraStream("", options, 1, "", self._held)
        self._singles.add(stream)
        return OpenedStream(stream, pipeline)

    def take(self, opened: OpenedStream, frame: Frame) -> None:
        """Start a frame on its way, or answer it at once."""
        stream = opened.stream
        job = stream.receive(frame)
        if job.answer is not None:
            return
        if self.draining:
            stream.settle(job, Answer(Verdict.DRAINING, "the server is going away: send it elsewhere"))
        elif refusal := admission.admit_frame(job, self.config.limits, self.config.shared_memory):
            stream.settle(job, refusal)
        elif self._held.total > self.config.limits.max_waiting_bytes:
            stream.settle(
                job, Answer(Verdict.REJECTED, "the server holds as many unanswered bytes as it may: send less")
            )
        else:
            deliver(opened.pipeline.lane.submit(job))

    def abandon(self, opened: OpenedStream) -> None:
        """The client is gone, or done: nothing of the stream waits any more."""
        if opened.stream.abandon():
            opened.pipeline.lane.withdraw(opened.stream.share)

    def close(self, opened: OpenedStream) -> None:
        """A connection is over; its stream may be taken up again for a while."""
        self.abandon(opened)
        self.streams.park(opened.stream)

    def close_single(self, opened: OpenedStream) -> None:
        """A single picture is answered, or its client is gone."""
        self.abandon(opened)
        self._singles.discard(opened.stream)
        self.streams.count(opened.stream.ledger)

    def start_draining(self, grace_ms: int) -> None:
        """Take nothing new, and tell every stream to go elsewhere; what waits is still answered."""
        self.draining = True
        for stream in self.streams:
            stream.notify(DrainNotice(grace_ms))

    @property
    def single_pictures(self) -> int:
        """Pictures that are not answered yet."""
        return len(self._singles)

    def refuse_while_draining(self) -> None:
        if self.draining:
            raise ShuttingDown("the server is going away: connect elsewhere, or again once it is back")

    def advised_fps(self, opened: OpenedStream) -> float:
        """What the stream may expect to be answered OK, counted anew every half second."""
        name, stream_id, now_ns = opened.pipeline.name, opened.stream.stream_id, time.monotonic_ns()
        counted_ns, rates = self._rates.get(name, (0, {}))
        if stream_id not in rates or now_ns - counted_ns > _RATES_KEPT_NS:
            lane = opened.pipeline.lane
            rates = admission.advised_rates(self._streams_of(name), lane.latency, lane.statistics().batch_cap)
            self._rates[name] = (now_ns, rates)
        return rates.get(stream_id, 0.0)

    def ledger(self) -> Ledger:
        """Over all streams and single pictures since the start."""
        total = self.streams.ledger()
        for stream in self._singles:
            total.add(stream.ledger)
        return total

    def _streams_of(self, pipeline: str) -> list[CameraStream]:
        return [stream for stream in self.streams if stream.options.pipeline == pipeline]

    def _spoken_for(self, priority: int) -> float:
        """The share of the device that streams of this class and higher ones ask for, over all pipelines."""
        total = 0.0
        for stream in self.streams:
            if stream.options.priority <= priority:
                lane = self.pipelines.get(stream.options.pipeline).lane
                total += admission.load(stream.options, lane.latency, lane.statistics().batch_cap)
        return total

"""Where streams and frames come in: what is refused, what is answered at once, what goes on to a device."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from foveate.engines.errors import EngineUnavailable, ShuttingDown
from foveate.service import admission
from foveate.service.boundary import DevicePort
from foveate.service.config import ServiceConfig
from foveate.service.frame import Answer, Frame, StreamOptions, Verdict
from foveate.service.frame_trace import FrameTrace
from foveate.service.ingest import Ingest
from foveate.service.pipeline import Pipeline, PipelineSet
from foveate.service.stream import Books, CameraStream, DrainNotice, StreamRecord
from foveate.service.whole_service import ServicePort, StreamStatus

__all__ = ["OpenedStream", "Reception", "Station"]


@dataclass(frozen=True, slots=True)
class Station:
    """A device, and the frames of this ingest that it has."""

    device: DevicePort
    ingest: Ingest


@dataclass(frozen=True, slots=True)
class OpenedStream:
    """A stream, the pipeline that answers it, and where it runs."""

    stream: CameraStream
    pipeline: Pipeline
    station: Station


class Reception:
    """The streams of an ingest and their way to the devices. Belongs to the event loop's thread."""

    def __init__(
        self,
        config: ServiceConfig,
        pipelines: PipelineSet,
        stations: Mapping[int, Station],
        service: ServicePort,
        books: Books,
        trace: FrameTrace | None = None,
    ) -> None:
        self.config = config
        self.pipelines = pipelines
        self.service = service
        self.trace = trace
        self.draining = False
        self._drain_grace_ms = 0
        self._stations = stations
        self._books = books
        self._open: dict[str, tuple[OpenedStream, Callable[[], None]]] = {}
        self._singles: set[CameraStream] = set()

    async def open(
        self,
        pipeline: Pipeline,
        options: StreamOptions,
        *,
        stream_id: str,
        resume_token: str,
        disconnect: Callable[[], None],
    ) -> OpenedStream:
        """Open a stream, or take an earlier one up again; `disconnect` ends its connection from this side.

        Raises: BudgetTooSmall, Overloaded, StreamTaken, ShuttingDown, EngineUnavailable.
        """
        self.refuse_while_draining()
        claim = await self.service.claim(stream_id, resume_token)
        station = self._stations[claim.device]
        stream = CameraStream(claim.record, options, admission.stream_window(options), self._books)
        try:
            admitted = await station.device.admit(stream.number, options)
        except BaseException:
            station.device.leave(stream.number)
            self.service.release(claim.record, resumable=claim.resumed)
            raise
        stream.grant, stream.smallest_budget_ns = admitted.grant, admitted.smallest_budget_ns
        opened = OpenedStream(stream, station.ingest.pipeline(pipeline.name), station)
        self._open[stream.stream_id] = (opened, disconnect)
        if self.draining:  # it began while this one was being admitted
            stream.notify(DrainNotice(self._drain_grace_ms))
        return opened

    def open_single(self, pipeline: Pipeline, options: StreamOptions) -> OpenedStream:
        """A stream of one frame, which is not listed. Raises: ShuttingDown, EngineUnavailable."""
        self.refuse_while_draining()
        serving = [station for station in self._stations.values() if station.device.serving]
        if not serving:
            raise EngineUnavailable("no engine serves now: it is being started again, try again in some seconds")
        station = min(serving, key=lambda each: each.ingest.in_flight)
        stream = CameraStream(StreamRecord("", ""), options, 1, self._books)
        station.device.enter(stream.number, options)
        self._singles.add(stream)
        return OpenedStream(stream, pipeline, station)

    def take(self, opened: OpenedStream, frame: Frame) -> None:
        """Start a frame on its way, or answer it at once."""
        stream = opened.stream
        if stream.closed:
            return
        job = stream.receive(frame)
        if job.answer is not None:
            return
        if self.draining:
            stream.settle(job, Answer(Verdict.DRAINING, "the server is going away: send it elsewhere"))
        elif refusal := admission.admit_frame(job, self.config.limits, self.config.shared_memory):
            stream.settle(job, refusal)
        elif self._books.held_bytes > self.config.limits.max_waiting_bytes:
            stream.settle(
                job, Answer(Verdict.REJECTED, "the server holds as many unanswered bytes as it may: send less")
            )
        else:
            opened.station.ingest.submit(job, opened.station.device)

    def close(self, opened: OpenedStream) -> None:
        """A connection is over; its stream may be taken up again for a while."""
        stream = opened.stream
        self._leave(opened)
        if self._open.get(stream.stream_id, (None,))[0] is opened:
            del self._open[stream.stream_id]
            self.service.release(stream.record(), resumable=True)

    def close_single(self, opened: OpenedStream) -> None:
        """A single picture is answered, or its client is gone."""
        self._leave(opened)
        self._singles.discard(opened.stream)

    def evict(self, stream_id: str) -> None:
        """Let go of a stream whose client has come back over another connection."""
        if found := self._open.get(stream_id):
            opened, disconnect = found
            self.close(opened)
            disconnect()

    def start_draining(self, grace_ms: int) -> None:
        """Take nothing new, and tell every stream to go elsewhere; what waits is still answered."""
        self.draining, self._drain_grace_ms = True, grace_ms
        for opened, _ in self._open.values():
            opened.stream.notify(DrainNotice(grace_ms))

    def advise(self) -> None:
        """Tell the streams of which the advised rate has changed, and that have no answer coming to tell them."""
        now_ns = time.monotonic_ns()
        for opened, _ in self._open.values():
            opened.stream.notice_rate(opened.station.device.advised_fps(opened.stream.number), now_ns)

    @property
    def single_pictures(self) -> int:
        """Pictures that are not answered yet."""
        return len(self._singles)

    def refuse_while_draining(self) -> None:
        if self.draining:
            raise ShuttingDown("the server is going away: connect elsewhere, or again once it is back")

    def streams(self) -> list[StreamStatus]:
        """How the open streams stand."""
        now_ns = time.monotonic_ns()
        return [_status(opened, now_ns) for opened, _ in self._open.values()]

    def _leave(self, opened: OpenedStream) -> None:
        stream, station = opened.stream, opened.station
        if stream.closed:
            return
        if stream.abandon():
            station.ingest.forget(stream)
        station.device.leave(stream.number)


def _status(opened: OpenedStream, now_ns: int) -> StreamStatus:
    stream, options = opened.stream, opened.stream.options
    return StreamStatus(
        stream.stream_id,
        options.pipeline,
        stream.grant,
        options.budget_ns,
        options.priority,
        opened.station.device.advised_fps(stream.number),
        (now_ns - stream.opened_ns) / 1e9,
        stream.ledger,
    )

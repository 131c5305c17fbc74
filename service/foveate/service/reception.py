"""Where streams and frames come in: what is refused, what is answered at once, what goes on to a device."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import partial

from foveate.engines.errors import EngineUnavailable, ShuttingDown
from foveate.service import admission
from foveate.service.answer_observer import AnswerObserver
from foveate.service.boundary import DevicePort
from foveate.service.config import ServiceConfig
from foveate.service.frame import Answer, Frame, StreamOptions, Verdict
from foveate.service.ingest import Ingest
from foveate.service.job import DecodeCost, Job
from foveate.service.metrics import IngestStanding
from foveate.service.pipeline import Pipeline, PipelineSet
from foveate.service.stream import Books, CameraStream, DrainNotice, StreamRecord
from foveate.service.video import PICTURE_NS_PER_PIXEL, VideoDecoding, VideoStream
from foveate.service.whole_service import ServicePort, StreamStatus

__all__ = ["OpenedStream", "Reception", "Station"]

_ROOM_FOR_UNITS = 2
"""Times the bytes that may wait, before an access unit is refused: that costs all up to the next key frame. Pictures
keep to one time, so that the other is left to the units."""
_HOLDS_ENOUGH = Answer(Verdict.REJECTED, "the server holds as many unanswered bytes as it may: send less")


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
    video: VideoStream | None = None
    """Of access units on their way to pictures; None: its frames are pictures."""


class Reception:
    """The streams of an ingest and their way to the devices. Belongs to the event loop's thread."""

    def __init__(
        self,
        config: ServiceConfig,
        pipelines: PipelineSet,
        stations: Mapping[int, Station],
        service: ServicePort,
        books: Books,
        observers: Iterable[AnswerObserver] = (),
    ) -> None:
        self.config = config
        self.pipelines = pipelines
        """What the devices serve together; another set as they come and go."""
        self.service = service
        self.observers = list(observers)
        """Told of every answer; whoever comes later adds itself, and goes again."""
        self.draining = False
        self._drain_grace_ms = 0
        self._stations = stations
        self._books = books
        self._open: dict[str, tuple[OpenedStream, Callable[[], None]]] = {}
        self._singles: set[CameraStream] = set()
        self._video = VideoDecoding(config)

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

        Raises: BudgetTooSmall, Overloaded, StreamTaken, ShuttingDown, EngineUnavailable, UnsupportedFormat.
        """
        self.refuse_while_draining()
        claim = await self.service.claim(stream_id, resume_token, pipeline.name)
        station = self._stations[claim.device]
        stream = CameraStream(claim.record, options, admission.stream_window(options), self._books, claim.series)
        decoder = None
        try:
            if options.format.video:
                decoder = await self._video.decoder(options.format, station.device, stream.number)
            admitted = await station.device.admit(stream.number, options)
        except BaseException:
            station.device.leave(stream.number)
            self.service.release(claim.record, resumable=claim.resumed)
            raise
        stream.grant, stream.smallest_budget_ns = admitted.grant, admitted.smallest_budget_ns
        video = self._video.stream(decoder, partial(self._forward, station)) if decoder else None
        if video and not claim.resumed:
            stream.decode_cost = DecodeCost(PICTURE_NS_PER_PIXEL)
        opened = OpenedStream(stream, station.ingest.pipeline(pipeline.name), station, video)
        self._open[stream.stream_id] = (opened, disconnect)
        if self.draining:  # it began while this one was being admitted
            stream.notify(DrainNotice(self._drain_grace_ms))
        return opened

    def open_single(self, pipeline: Pipeline, options: StreamOptions) -> OpenedStream:
        """A stream of one frame, which is not listed. Raises: ShuttingDown, EngineUnavailable."""
        self.refuse_while_draining()
        serving = [station for station in self._stations.values() if station.device.serves(pipeline.name)]
        if not serving:
            raise EngineUnavailable(
                f"no engine serves pipeline {pipeline.name!r} now: it is being started again, try again in some seconds"
            )
        station = min(serving, key=lambda each: each.ingest.in_flight)
        stream = CameraStream(StreamRecord("", ""), options, 1, self._books)
        station.device.enter(stream.number, options)
        self._singles.add(stream)
        return OpenedStream(stream, station.ingest.pipeline(pipeline.name), station)

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
        elif self._holds_enough(_ROOM_FOR_UNITS if opened.video else 1):
            stream.settle(job, _HOLDS_ENOUGH)
        elif opened.video:
            opened.video.take(job)
        else:
            opened.station.ingest.submit(job, opened.station.device)

    def tell(self, opened: OpenedStream, frame: Frame, answer: Answer, *, caught_up: bool = True) -> None:
        """Tell those who learn from it of an answer that is handed to gRPC now.

        Behind another one (not `caught_up`) it may have waited for its client, which is not the service's delay.
        """
        stream = opened.stream
        if answer.run is not None and caught_up:
            took_ns = frame.received_ns + answer.times.total - answer.run.ended_ns - answer.times.cascade
            opened.station.device.observe_reply(stream.number, took_ns)
        for observer in self.observers:
            observer.answered(stream, frame, answer)

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

    def serves(self, pipeline: str) -> bool:
        """Whether a new stream of this pipeline can be taken now."""
        return not self.draining and any(station.device.serves(pipeline) for station in self._stations.values())

    @property
    def single_pictures(self) -> int:
        """Pictures that are not answered yet."""
        return len(self._singles)

    def refuse_while_draining(self) -> None:
        if self.draining:
            raise ShuttingDown("the server is going away: connect elsewhere, or again once it is back")

    def opened(self, stream_id: str) -> OpenedStream | None:
        """The stream of that name, if it is open."""
        found = self._open.get(stream_id)
        return found[0] if found else None

    def streams(self) -> list[StreamStatus]:
        """How the open streams stand."""
        now_ns = time.monotonic_ns()
        return [_status(opened, now_ns) for opened, _ in self._open.values()]

    def standing(self) -> IngestStanding:
        """How frames and streams stand, for metrics."""
        now_ns, streams = time.monotonic_ns(), [opened.stream for opened, _ in self._open.values()]
        standing = IngestStanding(Counter((stream.options.pipeline, stream.grant) for stream in streams))
        standing.imbalance.update(self._books.accounts.in_flight())
        standing.held_bytes = self._books.held_bytes
        for stream in (*streams, *self._singles):
            pipeline, waiting = stream.options.pipeline, list(stream.in_flight())
            standing.imbalance[pipeline] -= len(waiting)
            if waiting:
                age_ns = now_ns - waiting[0].received_ns
                standing.oldest_ns[pipeline] = max(age_ns, standing.oldest_ns.get(pipeline, 0))
        return standing

    def stop_decoding(self) -> None:
        """The server has stopped: no video is decoded any more."""
        self._video.close()

    def _holds_enough(self, times: int = 1) -> bool:
        return self._books.held_bytes > times * self.config.limits.max_waiting_bytes

    def _forward(self, station: Station, job: Job) -> None:
        """A video's frame has become a picture, whose bytes count now."""
        if self._holds_enough():
            job.stream.settle(job, _HOLDS_ENOUGH)
        else:
            station.ingest.submit(job, station.device)

    def _leave(self, opened: OpenedStream) -> None:
        stream, station = opened.stream, opened.station
        if stream.closed:
            return
        if opened.video:
            opened.video.close()
        stream.abandon()
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

"""What follows detection in one camera's stream: its objects are tracked, and a cascade looks closer at them."""

from __future__ import annotations

import itertools
import logging
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from typing import NamedTuple, Protocol

from foveate.models.outputs import Detections
from foveate.service.boundary import DevicePort, Refused
from foveate.service.cascade import NO_TIME, Cascade, Crop, Look, Seen, Timer, missing_message
from foveate.service.cascade_time import CascadeTime
from foveate.service.crops import Size, looked_at
from foveate.service.frame import Answer, Attribute, Delivery, Grant, StreamOptions, Verdict
from foveate.service.frame_crops import FrameCrops
from foveate.service.job import DecodeCost, Job
from foveate.service.pipeline import CascadeStage, Pipeline
from foveate.service.stream import CameraStream
from foveate.service.track_memory import TrackMemory
from foveate.service.tracking import StreamTracker
from foveate.service.way_out import WayOut
from foveate.service.whole_frame import WholeFrame

__all__ = ["Desk", "StreamCascade"]

_log = logging.getLogger(__name__)

_stage_numbers = itertools.count(-1, -1)
"""Of streams of crops at a device, beside those of cameras, which count upwards."""

_IDLE_FRAMES = 8
"""After so many frames without anything to look at no time is kept free for it: an empty scene, or known objects."""
_FRAMES_IN_FLIGHT = 4
"""Whose crops may wait at once, beside those that the stream itself lets wait."""
_WAY_OUT_SHARE = 0.2
"""Of a budget, at most, is what the answer's way out is given."""


class Desk(Protocol):
    """What a cascade needs of its ingest."""

    def hand_over(
        self, held: Crop | WholeFrame, device: DevicePort, stream: int, deadline_ns: int, *, again: bool = False
    ) -> int:
        """Let the device have it, and return its number there."""

    def take_back(self, number: int) -> None:
        """Nobody waits for it any more."""

    def pipeline(self, name: str) -> Pipeline:
        """A pipeline of the device."""

    def observe_loop(self) -> None:
        """Learn how late the event loop is: an answer has been given."""

    @property
    def way_out(self) -> WayOut:
        """How long an answer takes from there."""

    @property
    def later(self) -> Callable[[float, Callable[[], None]], Timer]:
        """Has a call made after so many seconds."""


class _Found(NamedTuple):
    """A frame's detections, tracked."""

    job: Job
    answer: Answer
    detections: Detections
    track_ids: tuple[int, ...]
    """By detection; empty: the pipeline does not track."""


class StreamCascade:
    """See `whole_frame.Afterwards`. Belongs to the event loop's thread."""

    def __init__(
        self, stream: CameraStream, pipeline: Pipeline, expected: CascadeTime, device: DevicePort, desk: Desk
    ) -> None:
        """`expected` is what cascades of the pipeline take, and learns from these."""
        self._stream = stream
        self._pipeline = pipeline
        self._expected = expected
        self._device = device
        self._desk = desk
        self._single = not stream.stream_id
        self._crop_streams: dict[str, int] = {}
        """The numbers at the device of the streams of crops, by stage; each is entered with its first crop."""
        self._running: set[Cascade] = set()
        self._picture_cost = DecodeCost()
        self._newest: Job | None = None
        self._idle = 0
        """Frames in a row in which there was nothing to look at."""
        self._tracker: StreamTracker | None = None
        self._memory: TrackMemory | None = None
        if pipeline.track is not None and not self._single:
            self._tracker = StreamTracker(pipeline.track, stream.options.fps, stream.next_track_id)
            self._memory = TrackMemory(pipeline.track)

    @staticmethod
    def is_for(pipeline: Pipeline) -> bool:
        """Whether anything follows detection."""
        return bool(pipeline.cascade) or pipeline.track is not None

    def reserve_ns(self, job: Job) -> int:
        """What the device should leave of a new frame's budget for its cascade: as much of it as the frame can spare,
        since one without attributes is better than none. Nothing where cascades have become rare.
        """
        self._newest = job
        if self._idle >= _IDLE_FRAMES:
            return 0
        decode_ns = self._stream.decode_cost.predict_ns(job.width * job.height, time.monotonic_ns())
        spare_ns = job.frame.deadline_ns - time.monotonic_ns() - decode_ns - self._stream.smallest_budget_ns
        return max(0, min(self._expected.predicted_ns, spare_ns))

    def asked_again(self, frame: WholeFrame, refusal: Refused) -> bool:
        """See `Afterwards`. One that is too late for its cascade may be in time without."""
        if not frame.reserve_ns or refusal.verdict not in (Verdict.INFEASIBLE, Verdict.EXPIRED):
            return False
        job, frame.reserve_ns = frame.job, 0
        if self._stream.options.delivery is Delivery.LATEST and job is not self._newest:
            self._stream.settle(job, Answer(Verdict.SUPERSEDED, "a newer frame of the stream replaced it"))
        else:
            self._desk.hand_over(frame, self._device, self._stream.number, job.frame.deadline_ns, again=True)
        return True

    def detected(self, frame: WholeFrame, answer: Answer) -> None:
        """See `Afterwards`."""
        job, detections = frame.job, answer.output
        if not isinstance(detections, Detections):
            self._stream.settle(job, answer)
            return
        with self._keeping(job, answer):
            found = _Found(job, answer, detections, self._track(job, detections))
            if looks := self._looks(found):
                self._idle = 0
                self._start(found, looks)
            else:
                self._idle += 1
                self._settle(found, {}, {}, "")

    def close(self) -> None:
        """The stream is over."""
        for cascade in self._running:
            cascade.abandon()
        self._running.clear()
        for number in self._crop_streams.values():
            self._device.leave(number)
        self._crop_streams.clear()

    @contextmanager
    def _keeping(self, job: Job, answer: Answer) -> Iterator[None]:
        """Whatever goes wrong in it must not cost a frame its detections, and those after it their answers."""
        try:
            yield
        except Exception as error:  # noqa: BLE001 - the outer edge of what follows the detection
            _log.exception("what follows the detection in stream %s failed", self._stream.stream_id)
            message = f"no attributes: the service failed: {type(error).__name__}"
            self._stream.settle(job, replace(answer, message=message))

    def _track(self, job: Job, detections: Detections) -> tuple[int, ...]:
        if self._tracker is None or self._memory is None:
            return ()
        tracks = self._tracker.update(detections, job.frame.sequence, job.frame.received_ns)
        self._stream.next_track_id = self._tracker.next_id
        self._memory.forget(tracks.ended)
        return tracks.track_ids

    def _looks(self, found: _Found) -> list[Look]:
        """What the stages are to look at."""
        detections, needed = found.detections, None
        size, looks = Size(found.answer.frame_width, found.answer.frame_height), []
        for stage in self._pipeline.cascade:
            if self._memory is not None and found.track_ids:
                now_ns = found.job.frame.received_ns
                needed = self._memory.needs(found.track_ids, detections.boxes, stage.name, now_ns)
            looks += [Look(stage, index, rect) for index, rect in looked_at(detections, stage, size, needed)]
        return looks

    def _start(self, found: _Found, looks: Sequence[Look]) -> None:
        job, answer = found.job, found.answer
        models = [self._desk.pipeline(look.stage.pipeline).model for look in looks]
        size = Size(answer.frame_width, answer.frame_height)
        crops = [(look.rect, model) for look, model in zip(looks, models, strict=True)]
        pixels = FrameCrops(job, size, crops, self._picture_cost)
        cascade = Cascade(job, looks, pixels, partial(self._over, found))
        now_ns, ends_ns = time.monotonic_ns(), self._ends_ns(job)
        self._running.add(cascade)
        if ends_ns <= now_ns:
            cascade.give_up()
            return
        cascade.timer = self._desk.later((ends_ns - now_ns) / 1e9, partial(self._give_up, cascade))
        for crop in cascade.crops:
            crop.number = self._desk.hand_over(crop, self._device, self._crop_stream(crop.stage), ends_ns)

    def _give_up(self, cascade: Cascade) -> None:
        for crop in cascade.waiting:
            if crop.number is not None:
                self._desk.take_back(crop.number)
        cascade.give_up()

    def _over(self, found: _Found, cascade: Cascade) -> None:
        """Answer the frame of a cascade that is over."""
        self._running.discard(cascade)
        self._desk.observe_loop()
        with self._keeping(found.job, found.answer):
            self._learn(found, cascade)
            self._vote(found, cascade)
            known = {seen for seen in cascade.missed if self._remembered(found, seen)}
            missed = {seen: why for seen, why in cascade.missed.items() if seen not in known}
            asked = [Seen(crop.stage.name, crop.detection) for crop in cascade.crops]
            found = found._replace(answer=replace(found.answer, crops_ns=cascade.engine_ns))
            self._settle(found, cascade.said, missed, missing_message(missed, asked))

    def _learn(self, found: _Found, cascade: Cascade) -> None:
        """Note how long the cascade took."""
        now_ns = time.monotonic_ns()
        if NO_TIME in cascade.missed.values():
            had_ns = max(0, self._ends_ns(found.job) - found.answer.ready_ns)
            self._expected.fell_short(had_ns, self._stream.options.budget_ns)
        elif not cascade.missed:
            self._expected.took(now_ns - found.answer.ready_ns)
        if cascade.last:
            stage, ran = cascade.last
            self._device.observe_reply(self._crop_stream(stage), now_ns - ran.ended_ns)

    def _vote(self, found: _Found, cascade: Cascade) -> None:
        if self._memory is None or not found.track_ids:
            return
        for (stage, detection), said in cascade.said.items():
            if track_id := found.track_ids[detection]:
                now_ns = found.job.frame.received_ns
                self._memory.vote(track_id, stage, said.class_id, said.label, said.score, now_ns, said.embedding)

    def _remembered(self, found: _Found, seen: Seen) -> Attribute | None:
        """What is known of a detection's track."""
        track_id = found.track_ids[seen.detection] if found.track_ids else 0
        return self._memory.said(track_id, seen.stage) if self._memory is not None and track_id else None

    def _settle(self, found: _Found, said: Mapping[Seen, Attribute], missed: Mapping[Seen, str], message: str) -> None:
        """Answer with what was said of each detection, or is known of its track."""
        attributes = []
        for detection in range(len(found.detections.boxes)) if self._pipeline.cascade else ():
            seen = [(stage, Seen(stage.name, detection)) for stage in self._pipeline.cascade]
            words = ((stage, self._remembered(found, each) or said.get(each)) for stage, each in seen)
            attributes.append(tuple(word for stage, word in words if word and _counts(word, stage)))
        now_ns, answer = time.monotonic_ns(), found.answer
        answer = replace(
            answer,
            message=message,
            track_ids=found.track_ids,
            attributes=tuple(attributes),
            attributes_missing=len({detection for _, detection in missed}),
            times=replace(answer.times, cascade=now_ns - answer.ready_ns),
            ready_ns=now_ns,
        )
        self._stream.settle(found.job, answer)

    def _ends_ns(self, job: Job) -> int:
        """When a frame is answered at the latest."""
        most_ns = int(_WAY_OUT_SHARE * self._stream.options.budget_ns)
        return job.frame.deadline_ns - min(self._desk.way_out.takes_ns, most_ns)

    def _crop_stream(self, stage: CascadeStage) -> int:
        """The number of the stream's crops at the device."""
        if (number := self._crop_streams.get(stage.name)) is None:
            number = self._crop_streams[stage.name] = next(_stage_numbers)
            own = self._stream.options
            frames = _FRAMES_IN_FLIGHT + (own.queue_depth if own.delivery is Delivery.QUEUE else 0)
            options = StreamOptions(
                pipeline=stage.pipeline,
                budget_ns=own.budget_ns,
                priority=own.priority,
                weight=own.weight,
                delivery=Delivery.QUEUE,
                queue_depth=frames * stage.max_crops,
                crops_of=own.pipeline,
            )
            # Best effort: what is guaranteed is the frame's answer. Single pictures have no share of their own.
            self._device.enter(number, options, None if self._single else Grant.BEST_EFFORT)
        return number


def _counts(attribute: Attribute, stage: CascadeStage) -> bool:
    return attribute.embedding is not None or attribute.score >= stage.min_score

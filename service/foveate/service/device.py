"""A device: its lanes, and the streams of all ingests that they serve."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from functools import partial

import numpy as np
from numpy.typing import NDArray

from foveate.engines.errors import ConfigError, EngineUnavailable
from foveate.service import admission
from foveate.service.batch import Entry
from foveate.service.boundary import (
    Admission,
    FrameTicket,
    IngestPort,
    LaneStatus,
    PictureTicket,
    Refused,
    VideoUnit,
)
from foveate.service.device_stream import DeviceStream
from foveate.service.device_time import DeviceTime
from foveate.service.device_video import DeviceVideo, VideoSession
from foveate.service.frame import Grant, PixelFormat, StreamOptions, Verdict
from foveate.service.lane import Lane

__all__ = ["Device", "DeviceSession"]

_RATES_KEPT_NS = 500_000_000
_FEW_FPS = 1e-3
"""Of a stream that has sent nothing: next to no load."""


class Device:
    """The engines of one device and what has been promised of their time. Thread-safe."""

    def __init__(self, lanes: Iterable[Lane], video: DeviceVideo | None = None) -> None:
        """`video` is this object's from now on; None: the device decodes none."""
        self.video = video or DeviceVideo.none("nobody has asked for it")
        self.lanes: Mapping[str, Lane] = {lane.pipeline: lane for lane in lanes}
        self._lock = threading.Lock()
        self._streams: dict[DeviceStream, Lane] = {}
        self._sessions = 0
        self._rated_ns = 0

    def session(self, ingest: IngestPort) -> DeviceSession:
        """The port of one ingest."""
        with self._lock:
            self._sessions += 1
            return DeviceSession(self, ingest, self._sessions)

    def when_lost(self, call: Callable[[str, str], object]) -> None:
        """Have `call` told, from a lane's thread, of a pipeline that can be run no more in this process, and why."""
        for lane in self.lanes.values():
            lane.when_lost = partial(call, lane.pipeline)

        def lost(reason: str) -> None:
            for pipeline in self.lanes:
                call(pipeline, reason)

        self.video.when_lost = lost

    @property
    def overdue_ns(self) -> int:
        """For how long some run, or work of the video decoder, has been expected to end."""
        return max((self.video.overdue_ns, *(lane.overdue_ns for lane in self.lanes.values())))

    def status(self) -> tuple[LaneStatus, ...]:
        """How the lanes stand."""
        return tuple(lane.status() for lane in self.lanes.values())

    def close(self) -> None:
        """Run what waits in every lane, then release the engines."""
        for lane in self.lanes.values():
            lane.close()
        self.video.close()

    def lane(self, pipeline: str) -> Lane:
        """The lane of a pipeline. Raises: ConfigError if there is none."""
        if pipeline not in self.lanes:
            raise ConfigError(f"pipeline {pipeline!r} is not served here: expected one of {', '.join(self.lanes)}")
        return self.lanes[pipeline]

    def admit(self, stream: DeviceStream, lane: Lane) -> None:
        """Enter a stream with what can be promised it. Raises: BudgetTooSmall, Overloaded, EngineUnavailable."""
        if lane.lost:
            raise EngineUnavailable(f"pipeline {lane.pipeline!r} is not served any more: {lane.lost}")
        options, latency, cap = stream.options, lane.latency, lane.batch_cap
        with self._lock:
            cost_s, now_ns = admission.frame_s(latency, cap), time.monotonic_ns()
            fits_fps = admission.fitting_rate(options, cost_s, self._streams_beside(lane), now_ns)
            shares = self._spoken_for(lane, options, now_ns)
            here = shares.pop(lane.device_time)
            elsewhere = max(shares.values(), default=0.0)
            stream.grant = admission.admit_stream(options, latency, cap, here, fits_fps, elsewhere)
            self._streams[stream] = lane
        self.rate(at_once=True)

    def enter(self, stream: DeviceStream, lane: Lane) -> None:
        """Enter a stream that was admitted before."""
        with self._lock:
            self._streams[stream] = lane

    def leave(self, stream: DeviceStream) -> None:
        """A stream is over."""
        with self._lock:
            self._streams.pop(stream, None)

    def rate(self, *, at_once: bool = False) -> None:
        """Share out the engines' time anew, where that was done more than half a second ago."""
        now_ns = time.monotonic_ns()
        if not at_once and now_ns - self._rated_ns < _RATES_KEPT_NS:
            return
        with self._lock:
            self._rated_ns = now_ns
            for lane in {lane.device_time: lane for lane in self.lanes.values()}.values():
                streams = self._streams_beside(lane)
                rates = admission.advised_rates(streams, now_ns)
                for stream in streams:
                    stream.advised_fps = rates[stream.stream_id]

    def _streams_beside(self, lane: Lane) -> dict[DeviceStream, float]:
        """The streams of all lanes that share a lane's device time, and what a frame of each takes of it in seconds."""
        lanes = [each for each in self.lanes.values() if each.device_time is lane.device_time]
        costs_s = {each: admission.frame_s(each.latency, each.batch_cap) for each in lanes}
        return {stream: costs_s[runs_on] for stream, runs_on in self._streams.items() if runs_on in costs_s}

    def _spoken_for(self, lane: Lane, options: StreamOptions, now_ns: int) -> dict[DeviceTime, float]:
        """What is spoken for of a lane's device, and of those that a new stream's crops run on, with these crops.

        Of crops it may be expected to have, for each of its frames, as many as the streams of its pipeline have now.
        """
        frames = (
            each for each in self._streams if each.options.pipeline == options.pipeline and not each.options.crops
        )
        frames_fps = math.fsum(each.arrivals.fps(now_ns) or 0.0 for each in frames)
        crops = [(lane, 0.0)]
        for stream, runs_on in self._streams.items():
            crops_fps = stream.arrivals.fps(now_ns) if stream.options.crops_of == options.pipeline else 0.0
            if crops_fps and frames_fps and options.fps:
                asks = replace(stream.options, fps=options.fps * crops_fps / frames_fps)
                crops.append((runs_on, admission.load(asks, runs_on.latency, runs_on.batch_cap)))
        shares: dict[DeviceTime, float] = {}
        for runs_on, share in crops:
            if runs_on.device_time not in shares:
                streams = list(self._streams_beside(runs_on))
                shares[runs_on.device_time] = admission.guaranteed_load(streams, options.priority, self._load_of)
            shares[runs_on.device_time] += share
        return shares

    def _load_of(self, stream: DeviceStream) -> float:
        """The share of the device that a stream asks for."""
        lane, options = self._streams[stream], stream.options
        if options.crops:
            options = replace(options, fps=stream.arrivals.fps(time.monotonic_ns()) or _FEW_FPS)
        return admission.load(options, lane.latency, lane.batch_cap)


class DeviceSession:
    """A device as one ingest sees it: `boundary.DevicePort` in the device's own process."""

    def __init__(self, device: Device, ingest: IngestPort, number: int) -> None:
        self._device = device
        self._ingest = ingest
        self._number = number
        self._streams: dict[int, tuple[DeviceStream, Lane]] = {}
        self._video = VideoSession(device.video, self._streams.__contains__)

    def serves(self, pipeline: str) -> bool:
        """See `DevicePort`."""
        lane = self._device.lanes.get(pipeline)
        return lane is not None and not lane.lost

    async def admit(self, stream: int, options: StreamOptions) -> Admission:
        """See `DevicePort`."""
        return self.admit_now(stream, options)

    def admit_now(self, stream: int, options: StreamOptions) -> Admission:
        """Take a stream in. Raises: BudgetTooSmall, Overloaded, ConfigError, EngineUnavailable."""
        entered, lane = self._new_stream(stream, options)
        self._device.admit(entered, lane)
        self._streams[stream] = (entered, lane)
        return Admission(entered.grant, lane.latency.smallest_budget_ns, entered.advised_fps)

    def enter(self, stream: int, options: StreamOptions, grant: Grant | None = None) -> None:
        """See `DevicePort`."""
        entered, lane = self._streams[stream] = self._new_stream(stream, options)
        if grant is not None:
            entered.grant = grant
            self._device.enter(entered, lane)

    def leave(self, stream: int) -> None:
        """See `DevicePort`."""
        left, lane = self._streams.pop(stream, (None, None))
        if left and lane:
            lane.withdraw(left.share)
            self._device.leave(left)
            self._video.leave(stream)

    def submit(self, ticket: FrameTicket) -> None:
        """See `DevicePort`."""
        if ticket.stream not in self._streams:  # as it came back, the device could not serve its pipeline any more
            why = "the engine process was started again, and does not serve the stream's pipeline now"
            self._ingest.refuse([Refused(ticket.frame, Verdict.FAILED, why)])
            return
        stream, lane = self._streams[ticket.stream]
        if not ticket.again:
            stream.arrivals.count(time.monotonic_ns())
        entry = Entry(self._ingest, ticket.frame, ticket.deadline_ns, self._video.pictures)
        lane.submit(entry, stream.share, ticket.prepare_ns)

    def observe_reply(self, stream: int, took_ns: int) -> None:
        """See `DevicePort`."""
        if stream in self._streams:
            self._streams[stream][1].observe_reply(took_ns)

    def advised_fps(self, stream: int) -> float:
        """See `DevicePort`."""
        self._device.rate()
        return self._streams[stream][0].advised_fps if stream in self._streams else 0.0

    def video_refusal(self, kind: PixelFormat) -> str:
        """See `DevicePort`."""
        return self._device.video.refusal(kind)

    def decode_unit(self, stream: int, unit: VideoUnit) -> PictureTicket | None:
        """See `DevicePort`."""
        return self._video.decode(stream, unit)

    def picture_pixels(self, picture: int, size: tuple[int, int]) -> NDArray[np.uint8]:
        """See `DevicePort`."""
        return self._video.pixels(picture, size)

    def drop_picture(self, picture: int) -> None:
        """See `DevicePort`."""
        self._video.drop([picture])

    def rates(self) -> dict[int, float]:
        """What each stream of the ingest may expect now."""
        self._device.rate()
        return {number: stream.advised_fps for number, (stream, _) in list(self._streams.items())}

    def close(self) -> None:
        """The ingest is gone: so are its streams, and nobody is told of their frames."""
        for stream in list(self._streams):
            self.leave(stream)
        self._video.close()

    def _new_stream(self, stream: int, options: StreamOptions) -> tuple[DeviceStream, Lane]:
        return DeviceStream(f"{self._number}/{stream}", options), self._device.lane(options.pipeline)

"""What is let in: streams whose budget can be kept, frames within the limits. Nothing here decodes a pixel."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

from foveate.engines.errors import BadFrame, BudgetTooSmall, FrameError, Overloaded, UnsupportedFormat
from foveate.service.config import Limits
from foveate.service.device_stream import DeviceStream
from foveate.service.frame import (
    Answer,
    Delivery,
    Grant,
    PixelFormat,
    SharedMemoryRef,
    StreamOptions,
    Verdict,
)
from foveate.service.job import Job
from foveate.service.picture_header import picture_format, picture_size
from foveate.service.prediction import LatencyModel
from foveate.service.rates import Demand, fair_rates

__all__ = [
    "admit_frame",
    "admit_stream",
    "advised_rates",
    "demand_of",
    "fitting_rate",
    "frame_s",
    "guaranteed_load",
    "load",
    "stream_window",
]

_GUARANTEED_LOAD = 0.85
"""Of the engine's time that guaranteed streams may fill together; the rest absorbs jitter."""
_LEAST_FPS = 1.0
"""A stream that would get less than this, and less than it asks for, is better served elsewhere."""
_WINDOW_LATEST = 32
_WINDOW_BESIDE_QUEUE = 16


def admit_stream(
    options: StreamOptions,
    latency: LatencyModel,
    batch_cap: int,
    spoken_for: float,
    fits_fps: float = math.inf,
    elsewhere: float = 0.0,
) -> Grant:
    """Decide what a new stream can be promised where a share `spoken_for` of the device (0..1 and beyond) is taken.

    `fits_fps` is the frame rate that it would get as best effort; `elsewhere` the share that would be taken, with its
    crops, of the fullest of the other devices that its cascade runs on.
    Raises: BudgetTooSmall if no frame could ever make its budget; Overloaded if next to nothing is left for it.
    """
    smallest_ns = latency.smallest_budget_ns
    if options.budget_ns < smallest_ns:
        raise BudgetTooSmall(
            f"a budget of {options.budget_ns / 1e6:g} ms cannot be kept by pipeline {options.pipeline!r}: "
            f"the smallest possible is {smallest_ns / 1e6:.1f} ms (two runs of {latency.latency_ns(1) / 1e6:.1f} ms "
            f"and {latency.margin_ns / 1e6:.1f} ms kept free); open the stream with at least that"
        )
    if max(spoken_for + load(options, latency, batch_cap), elsewhere) <= _GUARANTEED_LOAD:
        return Grant.GUARANTEED
    if fits_fps < min(options.fps or _LEAST_FPS, _LEAST_FPS):
        raise Overloaded(
            f"the streams open on pipeline {options.pipeline!r} leave {fits_fps:.2g} frames per second to one more of "
            f"priority {options.priority}: open it later or elsewhere, or with a higher priority"
        )
    return Grant.BEST_EFFORT


def load(options: StreamOptions, latency: LatencyModel, batch_cap: int) -> float:
    """The share of a device's time that a stream asks for; all of it where it does not say how much it sends.

    A frame costs its part of the largest batch for which the stream's budget leaves time.
    """
    if not options.fps:
        return 1.0
    budget_ns = options.budget_ns - latency.margin_ns
    batch = next((size for size in range(batch_cap, 1, -1) if 2 * latency.latency_ns(size) <= budget_ns), 1)
    return options.fps * latency.latency_ns(batch) / batch / 1e9


def guaranteed_load(streams: Sequence[DeviceStream], priority: int, load_of: Callable[[DeviceStream], float]) -> float:
    """The share of a device's time that is spoken for when a stream of this class asks for a guarantee.

    All that higher classes ask for, since they go first, what is guaranteed to others of the same class, and what the
    cascades of that class take: nothing is guaranteed to a crop, but it runs beside what is.
    """
    return sum(
        load_of(stream)
        for stream in streams
        if stream.options.priority < priority
        or (stream.options.priority == priority and (stream.grant is Grant.GUARANTEED or stream.options.crops))
    )


def frame_s(latency: LatencyModel, batch_cap: int) -> float:
    """The device time that a frame takes in a full batch, in seconds."""
    return latency.latency_ns(batch_cap) / batch_cap / 1e9


def advised_rates(streams: Mapping[DeviceStream, float], now_ns: int | None = None) -> dict[str, float]:
    """Frames per second that each stream of a device may expect to be answered OK, by stream id.

    `streams` says what a frame of each takes of the device, in seconds: engines that share one differ in that. With
    the time, what streams send lately is considered; see `fair_rates`.
    """
    return fair_rates([demand_of(stream, cost_s, now_ns) for stream, cost_s in streams.items()], 1.0)


def fitting_rate(options: StreamOptions, cost_s: float, streams: Mapping[DeviceStream, float], now_ns: int) -> float:
    """Frames per second that one more stream would get as best effort beside those of its device."""
    newcomer = Demand("", options.priority, options.weight, options.fps, cost=cost_s)
    demands = [newcomer, *(demand_of(stream, each_s, now_ns) for stream, each_s in streams.items())]
    return fair_rates(demands, 1.0)[newcomer.stream_id]


def demand_of(stream: DeviceStream, cost_s: float, now_ns: int | None) -> Demand:
    """What a stream asks of its device. Crops come as they are found: their stream asks for no more than it does."""
    options = stream.options
    demand = Demand(
        stream.stream_id,
        options.priority,
        options.weight,
        options.fps,
        stream.grant is Grant.GUARANTEED,
        None if now_ns is None else stream.arrivals.fps(now_ns),
        cost_s,
    )
    return replace(demand, fps=demand.soon_fps) if options.crops and demand.sending_fps is not None else demand


def stream_window(options: StreamOptions) -> int:
    """How many frames of a stream may be unanswered at once."""
    if options.delivery is Delivery.QUEUE:
        return options.queue_depth + _WINDOW_BESIDE_QUEUE
    return _WINDOW_LATEST


def admit_frame(job: Job, limits: Limits, shared_memory: bool) -> Answer | None:
    """Look at a frame's size and header, and note its format and size in the job.

    `shared_memory` says whether frames may lie there.
    Returns the answer of a frame that is not let in; None for one that is.
    """
    data, options = job.frame.data, job.stream.options
    if isinstance(data, SharedMemoryRef) and not shared_memory:
        return Answer(Verdict.REJECTED, "shared memory is switched off on this server: send the frame's bytes")
    length = data.size if isinstance(data, SharedMemoryRef) else len(data)
    if length > limits.max_frame_bytes:
        return Answer(
            Verdict.REJECTED,
            f"the frame has {length} bytes, at most {limits.max_frame_bytes} are taken: "
            "send it smaller or encoded more tightly",
        )
    try:
        if options.format.raw:
            job.format, job.width, job.height = options.format, options.width, options.height
            _check_raw_length(job, length)
        elif isinstance(data, SharedMemoryRef):
            raise UnsupportedFormat("shared memory carries raw frames only: open the stream with a raw format")
        elif options.format.video:
            job.format = options.format  # what its parameter sets declare is read in the order of decoding
        else:
            _read_header(job, data)
    except FrameError as error:
        return Answer(Verdict.BAD_FRAME, str(error))
    if job.width * job.height > limits.max_pixels:
        return Answer(
            Verdict.REJECTED,
            f"the picture has {job.width}x{job.height} pixels, at most {limits.max_pixels} are taken: "
            "scale it down before sending",
            frame_width=job.width,
            frame_height=job.height,
        )
    return None


def _read_header(job: Job, data: bytes) -> None:
    found = picture_format(data)
    expected = job.stream.options.format
    if expected not in (PixelFormat.AUTO, found):
        raise BadFrame(f"the stream was opened for {expected.name}, this frame is {found.name}")
    job.format = found
    job.width, job.height = picture_size(data, found)


def _check_raw_length(job: Job, length: int) -> None:
    pixels = job.width * job.height
    expected = pixels * 3 // 2 if job.format is PixelFormat.RAW_NV12 else pixels * 3
    if length != expected:
        raise BadFrame(
            f"a {job.format.name} frame of {job.width}x{job.height} has {expected} bytes, this one has {length}"
        )

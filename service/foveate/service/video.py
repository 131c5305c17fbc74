"""Video streams: every access unit is decoded when it comes, in order; the device then chooses among pictures.

A unit that is left out would leave those after it without what they build on. So a unit is decoded whatever becomes
of its frame, and only its frame is superseded, refused or inferred like any other.
"""

from __future__ import annotations

import asyncio
import logging
import os
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import Executor, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple, Protocol

from foveate.engines.errors import EngineError, EngineUnavailable, FrameError, LimitExceeded, Overloaded
from foveate.service.boundary import UNITS_AT_ONCE, DevicePort
from foveate.service.config import ServiceConfig
from foveate.service.device_codec import DeviceCodec
from foveate.service.ffmpeg_video import FfmpegCodec, has_ffmpeg
from foveate.service.frame import Answer, PixelFormat, StageTimes, Verdict
from foveate.service.job import DecodedPicture, Job
from foveate.service.video_decoder import VideoDecoder

__all__ = ["PICTURE_NS_PER_PIXEL", "StreamDecoding", "UnitDecoder", "VideoDecoding", "VideoStream"]

PICTURE_NS_PER_PIXEL = 2.0
"""What a picture takes to be scaled and converted into a row, with room to spare, before a stream has shown it."""
_log = logging.getLogger(__name__)

Post = Callable[[Callable[[], None]], object]


class UnitDecoder(Protocol):
    """Decodes a stream's units; `video_decoder.VideoDecoder` is one."""

    def decode(self, data: bytes, *, follows: bool = True) -> DecodedPicture:
        """The picture of the next unit. Raises: FrameError, LimitExceeded, Overloaded, EngineError."""


@dataclass(frozen=True, slots=True)
class _Outcome:
    """What decoding a unit came to. Units: nanoseconds on the host's monotonic clock."""

    began_ns: int
    ended_ns: int
    picture: DecodedPicture | None = None
    verdict: Verdict = Verdict.OK
    message: str = ""


class VideoStream:
    """The units of one stream on their way to pictures. Belongs to the event loop's thread."""

    def __init__(self, decoder: UnitDecoder, threads: Executor, post: Post, forward: Callable[[Job], None]) -> None:
        """`post` has a call made in the loop; `forward` gets each frame that is not answered, with its picture."""
        self._decoder: UnitDecoder | None = decoder
        self._threads = threads
        self._post = post
        self._forward = forward
        self._waiting: deque[tuple[Job, bytes, bool]] = deque()
        self._busy = False
        self._last_sequence: int | None = None

    def take(self, job: Job) -> None:
        """Have the next unit decoded. Those that were refused before are missed by their numbers."""
        sequence, last = job.frame.sequence, self._last_sequence
        assert isinstance(job.frame.data, bytes), "units in shared memory are refused before"
        self._last_sequence = sequence
        # Of the unit itself, since a frame that is answered forgets its data.
        self._waiting.append((job, job.frame.data, last is None or sequence == last + 1))
        self._next()

    def close(self) -> None:
        """The stream is over: what waits is not decoded any more, and the decoder is let go of."""
        self._waiting.clear()
        self._decoder = None

    def _next(self) -> None:
        if not self._busy and self._waiting and self._decoder:
            self._busy = True
            job, data, follows = self._waiting.popleft()
            with suppress(RuntimeError):  # the threads have been shut down, and with them the service
                self._threads.submit(self._decode, self._decoder, job, data, follows)

    def _decode(self, decoder: UnitDecoder, job: Job, data: bytes, follows: bool) -> None:
        began_ns, picture, verdict, message = time.monotonic_ns(), None, Verdict.OK, ""
        try:
            picture = decoder.decode(data, follows=follows)
        except FrameError as error:
            verdict, message = Verdict.BAD_FRAME, str(error)
        except (LimitExceeded, Overloaded) as error:
            verdict, message = Verdict.REJECTED, str(error)
        except EngineError as error:
            verdict, message = Verdict.FAILED, str(error)
        except Exception as error:  # noqa: BLE001 - the edge of the thread: the frame must be answered
            _log.exception("decoding an access unit failed")
            verdict, message = Verdict.FAILED, f"the decoder failed: {type(error).__name__}"
        outcome = _Outcome(began_ns, time.monotonic_ns(), picture, verdict, message)
        with suppress(RuntimeError):  # the loop has ended, and with it the service
            self._post(partial(self._settle, job, outcome))

    def _settle(self, job: Job, outcome: _Outcome) -> None:
        self._busy = False
        self._next()
        if job.over:
            return
        job.unit_began_ns, job.unit_decode_ns = outcome.began_ns, outcome.ended_ns - outcome.began_ns
        if outcome.picture is not None:
            job.stream.hold_picture(job, outcome.picture)
            try:
                self._forward(job)
            except Exception as error:  # noqa: BLE001 - nobody but this knows of the frame, which must be answered
                _log.exception("a picture of stream %s could not be handed on", job.stream.stream_id)
                job.stream.settle(job, Answer(Verdict.FAILED, f"the service failed: {type(error).__name__}"))
        else:
            waited_ns = outcome.began_ns - job.frame.received_ns
            times = StageTimes(receive_queue=waited_ns, decode=job.unit_decode_ns)
            job.stream.settle(job, Answer(outcome.verdict, outcome.message, times=times, ready_ns=outcome.ended_ns))


class StreamDecoding(NamedTuple):
    """What decodes a stream."""

    decoder: UnitDecoder
    device: DevicePort | None
    """That it waits for; None: it is done here."""


class VideoDecoding:
    """Opens video streams. Their decoders share threads, apart from those that fill batches: a batch has a deadline.

    Streams that wait for a device share others, those of each device its own: one that hangs stops no other's streams.
    """

    def __init__(self, config: ServiceConfig) -> None:
        self._most_pixels, self._where = config.limits.max_pixels, config.video_decode
        self._side_by_side = config.decode_threads or len(os.sched_getaffinity(0))
        # They are started by the first stream.
        self._threads = ThreadPoolExecutor(self._side_by_side, "video")
        self._waiting: dict[DevicePort, ThreadPoolExecutor] = {}

    async def decoder(self, kind: PixelFormat, device: DevicePort, stream: int) -> StreamDecoding:
        """The decoder of a stream of a device, which may be the one to decode it.

        Raises: UnsupportedFormat without PyAV where it is needed, EngineUnavailable where the device is to decode it
        and cannot.
        """
        return await asyncio.to_thread(self._decoder, kind, device, stream)  # which loads libraries

    def _decoder(self, kind: PixelFormat, device: DevicePort, stream: int) -> StreamDecoding:
        refusal = "" if self._where == "cpu" else device.video_refusal(kind)
        if self._where == "gpu" and refusal:
            raise EngineUnavailable(
                f'video_decode is "gpu", and the device decodes no {kind.name} here: {refusal}; or set it to "cpu"'
            )
        on_cpu = partial(FfmpegCodec, kind, self._most_pixels)
        if self._where == "cpu" or refusal:
            return StreamDecoding(VideoDecoder(kind, self._most_pixels, on_cpu()), None)
        otherwise = on_cpu if self._where == "auto" and has_ffmpeg() else None
        return StreamDecoding(VideoDecoder(kind, self._most_pixels, DeviceCodec(device, stream, otherwise)), device)

    def stream(self, decoding: StreamDecoding, forward: Callable[[Job], None]) -> VideoStream:
        """The stream of a decoder; `forward` gets each frame that is not answered, with its picture."""
        decoder, device = decoding
        threads = self._waiting_for(device) if device else self._threads
        return VideoStream(decoder, threads, asyncio.get_running_loop().call_soon_threadsafe, forward)

    def _waiting_for(self, device: DevicePort) -> ThreadPoolExecutor:
        if device not in self._waiting:
            most = max(UNITS_AT_ONCE, self._side_by_side)  # where it has no room for streams, they decode themselves
            self._waiting[device] = ThreadPoolExecutor(most, "device video units")
        return self._waiting[device]

    def close(self) -> None:
        """Nothing is decoded any more."""
        for threads in (self._threads, *self._waiting.values()):
            threads.shutdown(wait=False, cancel_futures=True)

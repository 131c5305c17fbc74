"""The video of all ingests that a device decodes: a decoder for each stream, and the pictures that wait there."""

from __future__ import annotations

import itertools
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress

import numpy as np
from numpy.typing import NDArray

from foveate.engines.contract import HeldPicture
from foveate.engines.errors import (
    BadFrame,
    DeviceLost,
    EngineUnavailable,
    NoRoomForPicture,
    Overloaded,
    UnsupportedFormat,
)
from foveate.engines.video_decoding import StreamDecoder, VideoDecoders, VideoFormat
from foveate.service.boundary import UNITS_AT_ONCE, PictureTicket, VideoUnit
from foveate.service.frame import PixelFormat

__all__ = ["DeviceVideo", "VideoSession"]

_FETCHING_THREADS = 2
"""One brings a picture down while the other hands one over."""
_CODECS = {PixelFormat.H264: "h264", PixelFormat.H265: "h265"}
_GONE = "the decoder of its device is gone: it has been started again"


class DeviceVideo:
    """What decodes video on a device; or why nothing does. Thread-safe."""

    def __init__(self, decoders: VideoDecoders | None, why_not: str = "") -> None:
        self._decoders = decoders
        self._why_not = why_not
        self._threads = ThreadPoolExecutor(UNITS_AT_ONCE, "device video")
        # A lane waits for a picture that is brought down: it must not queue behind units.
        self._fetching = ThreadPoolExecutor(_FETCHING_THREADS, "device pictures")
        self._begun_ns: dict[object, int] = {}
        self._told_lost = False
        self.when_lost: Callable[[str], object] | None = None
        """Told once why its device can do nothing more in this process: where no picture comes, no run finds out."""

    @classmethod
    def none(cls, why_not: str) -> DeviceVideo:
        """Of a device that decodes no video."""
        return cls(None, why_not)

    @property
    def decoders(self) -> VideoDecoders:
        """Raises: EngineUnavailable where there are none."""
        if self._decoders is None:
            raise EngineUnavailable(self._why_not)
        return self._decoders

    def refusal(self, kind: PixelFormat) -> str:
        """See `DevicePort.video_refusal`."""
        return self._decoders.refusal(_CODECS[kind]) if self._decoders else self._why_not

    def refusals(self) -> dict[PixelFormat, str]:
        """The same for each format."""
        return {kind: self.refusal(kind) for kind in _CODECS}

    @property
    def overdue_ns(self) -> int:
        """For how long the device has been at the oldest thing asked of it; all take milliseconds."""
        now_ns = time.monotonic_ns()
        return max((now_ns - began_ns for began_ns in list(self._begun_ns.values())), default=0)

    @contextmanager
    def watched(self) -> Iterator[None]:
        """Work of the device that may show it to be lost, or to hang."""
        work = object()
        self._begun_ns[work] = time.monotonic_ns()
        try:
            yield
        except DeviceLost as error:
            told, self._told_lost = self._told_lost, True
            if self.when_lost and not told:
                self.when_lost(str(error))
            raise
        finally:
            del self._begun_ns[work]

    def later(self, work: Callable[[], object]) -> None:
        """Have something done that waits for the device's decoders."""
        with suppress(RuntimeError):  # it has been closed
            self._threads.submit(work)

    def fetch_later(self, work: Callable[[], object]) -> None:
        """Have something done that waits for a picture to be brought down."""
        with suppress(RuntimeError):
            self._fetching.submit(work)

    def close(self) -> None:
        """Let go of all decoders, after what they are at and what waits; no lane may run any more."""
        for threads in (self._threads, self._fetching):
            threads.shutdown()
        if self._decoders:
            self._decoders.close()


class VideoSession:
    """The streams and pictures of one ingest. Thread-safe; a stream is one thread's at a time."""

    def __init__(self, video: DeviceVideo, serves: Callable[[int], bool] = lambda stream: True) -> None:
        """`serves` says whether a stream is there, which it is not any more when `leave` is told of it."""
        self._video = video
        self._serves = serves
        self._lock = threading.Lock()
        # Those that an earlier process has given, and that somebody may still hold, are all lower.
        self._numbers = itertools.count(time.monotonic_ns())
        self._streams: dict[int, tuple[VideoFormat, StreamDecoder]] = {}
        self._busy = set[int]()
        self._left = set[int]()
        """Streams that left while a unit of theirs was being decoded."""
        self._closed = False
        self.pictures: dict[int, HeldPicture] = {}
        """By the numbers that the ingest knows them by."""

    def decode(self, stream: int, unit: VideoUnit) -> PictureTicket | None:
        """See `DevicePort.decode_unit`."""
        with self._lock:
            if self._closed:
                raise EngineUnavailable("the ingest has gone")
            if not self._serves(stream):  # asked here, so that `leave` finds it busy, or it finds no decoder
                raise EngineUnavailable("the device does not serve the stream's pipeline now")
            self._busy.add(stream)
        try:
            with self._video.watched():
                picture = self._decoder(stream, unit).decode(unit.data, anew=unit.anew)
        except NoRoomForPicture:
            raise
        except (Overloaded, UnsupportedFormat):  # it is of no use for the stream, which the CPU may decode from now on
            self._close_decoder(stream)
            raise
        finally:
            with self._lock:
                self._busy.discard(stream)
                gone = self._closed or stream in self._left
                self._left.discard(stream)
            if gone:
                self.leave(stream)
        return None if picture is None or gone else self._ticket(picture)

    def pixels(self, picture: int, size: tuple[int, int]) -> NDArray[np.uint8]:
        """See `DevicePort.picture_pixels`."""
        held = self.pictures.get(picture)
        if held is None:
            raise EngineUnavailable("the device does not hold the picture any more")
        with self._video.watched():
            return self._video.decoders.pixels(held, size)

    def drop(self, pictures: Iterable[int]) -> None:
        """Nobody needs them any more."""
        for picture in pictures:
            self.pictures.pop(picture, None)

    def leave(self, stream: int) -> None:
        """A stream is over. Does not wait for its decoder."""
        with self._lock:
            if stream in self._busy:
                self._left.add(stream)
                return
            _, decoder = self._streams.pop(stream, (None, None))
        if decoder:
            self._video.later(decoder.close)

    def close(self) -> None:
        """The ingest has gone."""
        with self._lock:
            self._closed = True
            streams = list(self._streams)
        for stream in streams:
            self.leave(stream)
        self.pictures.clear()

    def _decoder(self, stream: int, unit: VideoUnit) -> StreamDecoder:
        declared, decoder = self._streams.get(stream, (None, None))
        if decoder and (not unit.key or declared == unit.declared):
            return decoder
        if not unit.key:
            raise BadFrame(_GONE)
        if unit.declared is None:
            raise BadFrame("a key frame without parameter sets")
        self._close_decoder(stream)  # its pictures are of another size now
        try:
            made = self._video.decoders.open_stream(unit.declared)
        except EngineUnavailable as error:  # when the stream came it did, and has been started again since
            raise Overloaded(f"the device decodes no {unit.declared.codec} any more: {error}") from error
        self._streams[stream] = unit.declared, made
        return made

    def _close_decoder(self, stream: int) -> None:
        _, decoder = self._streams.pop(stream, (None, None))
        if decoder:
            decoder.close()

    def _ticket(self, picture: HeldPicture) -> PictureTicket:
        number = next(self._numbers)
        self.pictures[number] = picture
        return PictureTicket(number, picture.width, picture.height)

"""A device's video decoders that decode by FFmpeg; their pictures count as being on the device."""

from __future__ import annotations

import threading
import weakref

import numpy as np
from numpy.typing import NDArray

from foveate.engines.contract import HeldPicture
from foveate.engines.errors import NoRoomForPicture, Overloaded
from foveate.engines.video_decoding import StreamDecoder, VideoDecoders, VideoFormat
from foveate.service.boundary import VideoUnit
from foveate.service.ffmpeg_video import FfmpegCodec, VideoPicture
from foveate.service.frame import PixelFormat

__all__ = ["CpuVideoDecoders", "CpuVideoPicture"]

_KINDS = {"h264": PixelFormat.H264, "h265": PixelFormat.H265}


class CpuVideoPicture:
    """`HeldPicture` that a `DecodingEngine` takes."""

    def __init__(self, picture: VideoPicture) -> None:
        self.picture = picture
        self.width, self.height = picture.width, picture.height


class CpuVideoDecoders(VideoDecoders):
    """What tests say and ask is in its attributes."""

    def __init__(self) -> None:
        self.most_streams = 100
        self.most_pictures = 1000
        self.refused = ""
        self.fault: Exception | None = None
        """Ends the next decode."""
        self.decoded = 0
        self.brought_down: list[tuple[int, int]] = []
        """The sizes of pictures that came to the host."""
        self.streams = set[_Stream]()
        self.pictures = weakref.WeakSet[CpuVideoPicture]()
        """That somebody holds."""
        self.closed = False
        self._lock = threading.Lock()

    def refusal(self, codec: str) -> str:
        return self.refused

    def open_stream(self, declared: VideoFormat) -> StreamDecoder:
        with self._lock:
            if len(self.streams) == self.most_streams:
                raise Overloaded("the device has no video decoder left")
            made = _Stream(self, declared)
            self.streams.add(made)
            return made

    def pixels(self, picture: HeldPicture, size: tuple[int, int]) -> NDArray[np.uint8]:
        assert isinstance(picture, CpuVideoPicture)
        self.brought_down.append(size)
        return picture.picture.reduced(size)

    def close(self) -> None:
        assert not self.streams, "they are closed with the streams' end"
        self.closed = True


class _Stream:
    def __init__(self, owner: CpuVideoDecoders, declared: VideoFormat) -> None:
        self._owner = owner
        self._codec = FfmpegCodec(_KINDS[declared.codec], 10**7)
        self._using = threading.Lock()

    def decode(self, data: bytes, *, anew: bool) -> CpuVideoPicture | None:
        owner = self._owner
        assert self._using.acquire(blocking=False), "one thread at a time"
        try:
            fault, owner.fault = owner.fault, None
            if fault:
                raise fault
            picture = self._codec.decode(VideoUnit(data, None, False, anew))
            owner.decoded += 1
            if picture is None:
                return None
            if len(owner.pictures) >= owner.most_pictures:
                raise NoRoomForPicture("the device holds as many pictures as it may")
            held = CpuVideoPicture(picture)
            owner.pictures.add(held)
            return held
        finally:
            self._using.release()

    def close(self) -> None:
        self._owner.streams.discard(self)

"""Video decoded on the CPU, by FFmpeg through PyAV, and the pictures that come out of it.

PyAV is imported where it is used first, since it belongs to an extra.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from importlib.util import find_spec
from typing import TYPE_CHECKING

import cv2
import numpy as np
from numpy.typing import NDArray

from foveate.engines.errors import BadFrame, UnsupportedFormat
from foveate.engines.video_decoding import REORDERED, VideoColours
from foveate.service.boundary import VideoUnit
from foveate.service.frame import PixelFormat

if TYPE_CHECKING:
    from av.video.codeccontext import VideoCodecContext
    from av.video.frame import VideoFrame
    from av.video.plane import VideoPlane

__all__ = ["FfmpegCodec", "VideoPicture", "has_ffmpeg"]

_CODECS = {PixelFormat.H264: "h264", PixelFormat.H265: "hevc"}
_LIMITED, _FULL = 1, 2
"""Colour ranges, as FFmpeg numbers them."""


@dataclass(frozen=True, slots=True, eq=False)
class VideoPicture:
    """`job.DecodedPicture` over a picture of FFmpeg's, in the colours and the layout that the stream has."""

    frame: VideoFrame

    @property
    def width(self) -> int:
        """See `DecodedPicture`."""
        return self.frame.width

    @property
    def height(self) -> int:
        """See `DecodedPicture`."""
        return self.frame.height

    @property
    def nbytes(self) -> int:
        """See `DecodedPicture`."""
        return sum(plane.buffer_size for plane in self.frame.planes)

    def rgb(self) -> NDArray[np.uint8]:
        """See `DecodedPicture`."""
        return _reformat(self.frame, (self.width, self.height), "rgb24").to_ndarray().astype(np.uint8, copy=False)

    def reduced(self, size: tuple[int, int]) -> NDArray[np.uint8]:
        """See `DecodedPicture`.

        Scaled down in its own colours, which is less work than converting all of it first, and converted by their
        own matrix and range as the stream declares them; BT.601 and the limited range where it does not.
        """
        if size == (self.width, self.height):
            return self.rgb()
        full_range = _full_range(self.frame)
        # All three planes at the full size: swscale itself would halve the colours' width once more.
        small = _reformat(self.frame, size, "yuv444p", _FULL if full_range else _LIMITED)
        merged = cv2.merge([_samples(plane) for plane in small.planes])
        return cv2.transform(merged, _rgb_from_yuv(self.frame.colorspace, full_range)).astype(np.uint8, copy=False)


def has_ffmpeg() -> bool:
    """Whether PyAV is installed."""
    return find_spec("av") is not None


class FfmpegCodec:
    """`video_decoder.UnitCodec` on the CPU."""

    def __init__(self, kind: PixelFormat, max_pixels: int) -> None:
        """Raises: UnsupportedFormat without PyAV, or where its FFmpeg has no decoder."""
        if not has_ffmpeg():
            raise UnsupportedFormat(
                f"{kind.name} streams are decoded by PyAV, which is not installed on the server: install "
                "`foveate[camera]` there, or send JPEG, PNG, WebP or raw frames"
            )
        self._kind = kind
        self._codec = _open_codec(kind, max_pixels)
        self._decoded = 0

    def decode(self, unit: VideoUnit) -> VideoPicture | None:
        """See `UnitCodec`."""
        import av

        if unit.anew:
            self._codec.flush_buffers()
        self._decoded += 1
        packet = av.Packet(unit.data)
        packet.pts = packet.dts = self._decoded
        what = f"the {self._kind.name} access unit of {len(unit.data)} bytes"
        try:
            frames = self._codec.decode(packet)
        except av.FFmpegError as error:
            raise BadFrame(f"{what} cannot be decoded: it is corrupt, or a key frame without parameter sets") from error
        if self._codec.has_b_frames:
            raise BadFrame(REORDERED)
        own = [frame for frame in frames if frame.pts == self._decoded]
        if any(frame.is_corrupt for frame in frames):
            raise BadFrame(f"{what} is corrupt, or builds on one that is missing")
        return VideoPicture(own[-1]) if own else None


def _reformat(frame: VideoFrame, size: tuple[int, int], layout: str, colour_range: int | None = None) -> VideoFrame:
    from av.video.reformatter import VideoReformatter

    # One of its own for each call: that which a frame keeps is not for several threads.
    return VideoReformatter().reformat(
        frame,
        *size,
        layout,
        interpolation="AREA",
        threads=1,
        src_color_range=colour_range,
        dst_color_range=colour_range,
    )


def _samples(plane: VideoPlane) -> NDArray[np.uint8]:
    """A view of a plane in 8 bits, without the padding of its lines."""
    lines = np.frombuffer(memoryview(plane), np.uint8).reshape(-1, plane.line_size)
    return lines[: plane.height, : plane.width]


def _full_range(frame: VideoFrame) -> bool:
    return frame.color_range == _FULL or frame.format.name.startswith("yuvj")


@cache
def _rgb_from_yuv(matrix: int, full_range: bool) -> NDArray[np.float32]:
    """What turns (Y, U, V, 1) in 8 bits into RGB. Shapes: (3, 4)."""
    colours = VideoColours(matrix, full_range)
    luma, red_v, green_u, green_v, blue_u = colours.rgb_gains()
    rows = np.array([(luma, 0, red_v), (luma, green_u, green_v), (luma, blue_u, 0)])
    return np.column_stack([rows, -rows @ (colours.black, 128, 128)]).astype(np.float32)


def _open_codec(kind: PixelFormat, max_pixels: int) -> VideoCodecContext:
    import av
    from av.codec.codec import UnknownCodecError
    from av.codec.context import Flags
    from av.video.codeccontext import VideoCodecContext

    av.logging.set_level(None)  # a client that sends garbage must not fill the server's log
    try:
        codec = av.CodecContext.create(_CODECS[kind], "r")
        codec.thread_count = 1  # streams are decoded side by side, and threads by frame would hold pictures back
        codec.flags |= Flags.low_delay
        # Errors are errors, also a picture whose own checksum differs; the size is checked before, and here again.
        codec.options = {"err_detect": "crccheck+explode", "max_pixels": str(max_pixels)}
        codec.open()
    except UnknownCodecError as error:
        raise UnsupportedFormat(
            f"the server's FFmpeg was built without a decoder for {kind.name}: send JPEG"
        ) from error
    assert isinstance(codec, VideoCodecContext)
    return codec

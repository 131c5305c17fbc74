"""The decoder of one video stream, and the pictures that come out of it: FFmpeg's, by PyAV.

PyAV is imported where it is used first, since it belongs to an extra.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from importlib.util import find_spec
from typing import TYPE_CHECKING, Literal

import cv2
import numpy as np
from numpy.typing import NDArray

from foveate.engines.errors import BadFrame, EngineUnavailable, LimitExceeded, UnsupportedFormat
from foveate.service.frame import PixelFormat
from foveate.service.video_units import unit_reader

if TYPE_CHECKING:
    from av.video.codeccontext import VideoCodecContext
    from av.video.frame import VideoFrame
    from av.video.plane import VideoPlane

__all__ = ["VideoDecoder", "VideoPicture"]

_CODECS = {PixelFormat.H264: "h264", PixelFormat.H265: "hevc"}
_UNTIL_KEY_FRAME = "nothing is decoded until the next key frame"
_LIMITED, _FULL = 1, 2
"""Colour ranges, as FFmpeg numbers them."""
_BT601 = 6
_LUMA_SHARES = {1: (0.2126, 0.0722), 4: (0.30, 0.11), _BT601: (0.299, 0.114), 7: (0.212, 0.087), 9: (0.2627, 0.0593)}
"""What red and blue count for in the luma, by the number of the matrix. Source: ITU-T H.273, table 4."""
_ONE_CONTEXT: dict[str, object] = {"primary_ctx": "1"}
"""Of CUDA, for all streams of a process: each has hundreds of megabytes."""
_REORDERED = (
    "the video reorders pictures (B-frames), so that a picture comes out only after later ones have come in: encode it "
    "without (x264 and x265: bframes=0)"
)


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


class VideoDecoder:
    """Decodes the access units of one stream, one after the other. For one thread at a time."""

    def __init__(self, kind: PixelFormat, max_pixels: int, where: Literal["cpu", "gpu"] = "cpu") -> None:
        """Raises: UnsupportedFormat without PyAV or a decoder, EngineUnavailable where there is no GPU to decode it."""
        if find_spec("av") is None:
            raise UnsupportedFormat(
                f"{kind.name} streams are decoded by PyAV, which is not installed on the server: install "
                "`foveate[camera]` there, or send JPEG, PNG, WebP or raw frames"
            )
        self._kind = kind
        self._units = unit_reader(kind, max_pixels)
        self._codec = _open_codec(kind, max_pixels, where)
        self._decoded = 0
        self._broken = "the stream has not begun with a key frame"
        """Why the next unit has nothing to build on; empty: it has."""

    def decode(self, data: bytes, *, follows: bool = True) -> VideoPicture:
        """The picture of the next unit; `follows` says whether none before it is missing.

        Raises: BadFrame if it gives none, LimitExceeded if it is too large. Where later units cannot be decoded
        either, the message says so, and they raise BadFrame too.
        """
        broken = self._broken if follows else "at least one access unit before this one is missing"
        self._broken = "decoding an earlier access unit failed"  # whatever it may be that goes wrong
        waiting = ""
        try:
            unit = self._units.read(data)
            if not broken and not unit.follows:
                broken = "by the video's own numbers at least one access unit before this one is missing"
            if broken and not unit.key:
                waiting = broken
                raise BadFrame(waiting)
            if broken:
                self._codec.flush_buffers()
            picture = self._picture(data)
        except (BadFrame, LimitExceeded) as error:
            self._broken = waiting or f"an earlier access unit was refused: {error}"
            raise type(error)(f"{error}; {_UNTIL_KEY_FRAME}") from error
        self._broken = ""
        if picture is None:
            raise BadFrame(
                "no whole picture came out of the access unit: it is a single field, which is not served, or the units "
                "since a recovery point have not renewed all of the picture yet"
            )
        return picture

    def _picture(self, data: bytes) -> VideoPicture | None:
        import av

        self._decoded += 1
        packet = av.Packet(data)
        packet.pts = packet.dts = self._decoded
        what = f"the {self._kind.name} access unit of {len(data)} bytes"
        try:
            frames = self._codec.decode(packet)
        except av.FFmpegError as error:
            raise BadFrame(f"{what} cannot be decoded: it is corrupt, or a key frame without parameter sets") from error
        if self._codec.has_b_frames:
            raise BadFrame(_REORDERED)
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
    """What turns (Y, U, V, 1) in 8 bits into RGB. Shapes: (3, 4). Source: ITU-T H.273, 8.3."""
    red, blue = _LUMA_SHARES.get(matrix, _LUMA_SHARES[_BT601])
    green = 1.0 - red - blue
    luma, chroma, black = (1.0, 1.0, 0) if full_range else (255 / 219, 255 / 224, 16)
    of_u, of_v = 2 * chroma * (1 - blue), 2 * chroma * (1 - red)
    rows = np.array([(luma, 0, of_v), (luma, -of_u * blue / green, -of_v * red / green), (luma, of_u, 0)])
    return np.column_stack([rows, -rows @ (black, 128, 128)]).astype(np.float32)


def _open_codec(kind: PixelFormat, max_pixels: int, where: Literal["cpu", "gpu"]) -> VideoCodecContext:
    import av
    from av.codec.codec import UnknownCodecError
    from av.codec.context import Flags
    from av.codec.hwaccel import HWAccel
    from av.video.codeccontext import VideoCodecContext

    av.logging.set_level(None)  # a client that sends garbage must not fill the server's log
    try:
        hwaccel = HWAccel("cuda", allow_software_fallback=False, options=_ONE_CONTEXT) if where == "gpu" else None
        codec = av.CodecContext.create(_CODECS[kind], "r", hwaccel=hwaccel)
        codec.thread_count = 1  # streams are decoded side by side, and threads by frame would hold pictures back
        codec.flags |= Flags.low_delay
        # Errors are errors, also a picture whose own checksum differs; the size is checked before, and here again.
        codec.options = {"err_detect": "crccheck+explode", "max_pixels": str(max_pixels)}
        codec.open()
    except UnknownCodecError as error:
        raise UnsupportedFormat(
            f"the server's FFmpeg was built without a decoder for {kind.name}: send JPEG"
        ) from error
    except (av.FFmpegError, NotImplementedError) as error:
        raise EngineUnavailable(
            f'video_decode is "gpu", and the GPU decodes no {kind.name} here: {error}; set it to "cpu"'
        ) from error
    assert isinstance(codec, VideoCodecContext)
    return codec

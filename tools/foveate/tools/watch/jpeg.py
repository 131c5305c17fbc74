"""Pictures of cameras as they travel: turned upright, cut to their region, and compressed. Also their small grey ones.

A decoded picture stays in the planes that its decoder made, so that colours are converted neither way.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import simplejpeg
from numpy.typing import NDArray

from foveate.tools.watch.region import Crop, Region
from foveate.tools.watch.shot import Picture

if TYPE_CHECKING:
    import av

__all__ = ["Encoder", "decoded", "is_whole_jpeg"]

_Plane = NDArray[np.uint8]
_SMALL_PX = (160, 120)
_HUFFMAN_TABLES = b"\xff\xc4"


def is_whole_jpeg(data: bytes) -> bool:
    """Whether these bytes are a JPEG that stands for itself: cameras leave out its tables, or send something else."""
    if not data.startswith(b"\xff\xd8") or _HUFFMAN_TABLES not in data[:4096]:
        return False
    try:
        simplejpeg.decode_jpeg_header(data)
    except ValueError:
        return False
    return True


class Encoder:
    """Makes what is sent of a camera's pictures. Safe in any thread."""

    def __init__(self, region: Region, rotate: int, quality: int) -> None:
        """`rotate` in degrees clockwise; `quality` of JPEGs, 1..100."""
        self._region = region
        self._turns = rotate // 90
        self._quality = quality

    @property
    def keeps_bytes(self) -> bool:
        """Whether a picture that comes compressed can be sent as it is."""
        return self._region.is_whole and not self._turns

    def crop_of(self, picture: Picture) -> Crop | None:
        """What of the upright picture is sent; None where its bytes are sent as they are.

        Raises: CameraTrouble if the region lies outside the picture.
        """
        if isinstance(picture.content, bytes):
            return None
        width, height = picture.content.width, picture.content.height
        return self._region.crop(height, width) if self._turns % 2 else self._region.crop(width, height)

    def encode(self, picture: Picture) -> tuple[bytes, Crop | None]:
        """The bytes to send, and where they lie in the upright picture; None where it is sent whole.

        Raises: CameraTrouble if the region lies outside the picture.
        """
        if isinstance(picture.content, bytes):
            return picture.content, None
        upright = [np.rot90(plane, -self._turns) for plane in _planes(picture.content)]
        height, width = upright[0].shape
        crop = self._region.crop(width, height)
        cut = [_cut(plane, crop, 1 if number == 0 else 2) for number, plane in enumerate(upright)]
        jpeg: bytes = simplejpeg.encode_jpeg_yuv_planes(*cut, quality=self._quality)
        return jpeg, None if crop.is_whole else crop

    def small_grey(self, picture: Picture) -> _Plane:
        """The region of the picture, in grey and small enough to be compared with others at no cost. Shapes: (H, W)."""
        content = picture.content
        crop = self.crop_of(picture)
        frame = _grey_frame(content) if isinstance(content, bytes) else content
        upright = np.rot90(_small(frame), -self._turns)
        if crop is None:
            return upright
        height, width = upright.shape
        across, down = width / crop.full_width, height / crop.full_height
        left, top = int(crop.x * across), int(crop.y * down)
        right, bottom = round((crop.x + crop.width) * across), round((crop.y + crop.height) * down)
        return upright[top : max(bottom, top + 1), left : max(right, left + 1)]


def _planes(frame: av.VideoFrame) -> list[_Plane]:
    """Y, U and V as JPEG means them: full range, the colours of BT.601, U and V of half the size both ways."""
    full = frame.reformat(format="yuvj420p", dst_colorspace="ITU601", dst_color_range="JPEG")
    planes = []
    for plane in full.planes:
        rows = np.frombuffer(memoryview(plane), np.uint8).reshape(-1, plane.line_size)
        planes.append(rows[: plane.height, : plane.width])
    return planes


def _small(frame: av.VideoFrame) -> _Plane:
    return np.asarray(frame.reformat(*_SMALL_PX, "gray", interpolation="AREA").to_ndarray(), np.uint8)


def _grey_frame(data: bytes) -> av.VideoFrame:
    import av

    if data.startswith(b"\xff\xd8"):
        grey = simplejpeg.decode_jpeg(data, "GRAY", min_width=_SMALL_PX[0], min_height=_SMALL_PX[1], min_factor=1)
        return av.VideoFrame.from_ndarray(np.ascontiguousarray(grey[:, :, 0]), "gray")
    return decoded(data)


def decoded(data: bytes) -> av.VideoFrame:
    """The picture in the bytes of a file. Raises: ValueError if it is none."""
    import io

    import av

    try:
        with av.open(io.BytesIO(data), "r") as container:
            return next(container.decode(video=0))
    except (av.FFmpegError, StopIteration, IndexError) as error:
        raise ValueError(f"no picture that FFmpeg can read: {type(error).__name__}") from None


def _cut(plane: _Plane, crop: Crop, step: int) -> _Plane:
    bottom, right = -(-(crop.y + crop.height) // step), -(-(crop.x + crop.width) // step)
    return np.ascontiguousarray(plane[crop.y // step : bottom, crop.x // step : right])

"""A small JPEG of a frame, for people to look at."""

from __future__ import annotations

import cv2
import numpy as np
import simplejpeg
from numpy.typing import NDArray

from foveate.engines.errors import BadFrame
from foveate.service.frame import PixelFormat
from foveate.service.job import DecodedPicture
from foveate.service.picture_header import jpeg_orientation

__all__ = ["preview_jpeg"]

_QUALITY = 78

Pixels = NDArray[np.uint8]


def preview_jpeg(
    data: bytes, kind: PixelFormat, size: tuple[int, int], picture: DecodedPicture | None, longest_px: int
) -> bytes:
    """A frame as it is to be seen, upright, its longer side at most `longest_px`.

    Units: size is the (width, height) in pixels that the header declares.
    Raises: BadFrame if the bytes are not a picture.
    """
    try:
        if picture:
            pixels = _picture_pixels(picture, longest_px)
        else:
            pixels = _pixels(data, kind, size, min(1.0, longest_px / max(size)))
    except (ValueError, cv2.error) as error:
        raise BadFrame(f"the {kind.name} of {len(data)} bytes cannot be shown: {error}") from error
    scale = longest_px / max(pixels.shape[:2])
    if scale < 1.0:
        shown = (max(1, round(pixels.shape[1] * scale)), max(1, round(pixels.shape[0] * scale)))
        pixels = np.asarray(cv2.resize(pixels, shown, interpolation=cv2.INTER_AREA), np.uint8)
    order = "BGR" if picture is None and kind is PixelFormat.RAW_BGR else "RGB"
    jpeg: bytes = simplejpeg.encode_jpeg(np.ascontiguousarray(pixels), _QUALITY, order, "420")
    return jpeg


def _picture_pixels(picture: DecodedPicture, longest_px: int) -> Pixels:
    scale = longest_px / max(picture.width, picture.height)
    if scale >= 1.0:
        return picture.rgb()
    return picture.reduced((max(1, round(picture.width * scale)), max(1, round(picture.height * scale))))


def _pixels(data: bytes, kind: PixelFormat, size: tuple[int, int], scale: float) -> Pixels:
    """The picture, perhaps reduced while it is decoded, but not below that scale."""
    width, height = size
    if kind is PixelFormat.JPEG:
        least = (max(1, int(width * scale)), max(1, int(height * scale)))
        image = simplejpeg.decode_jpeg(data, "RGB", min_width=least[0], min_height=least[1], strict=False)
        return np.asarray(jpeg_orientation(data).applied(image), np.uint8)
    flat = np.frombuffer(data, np.uint8)
    if kind is PixelFormat.RAW_NV12:
        return np.asarray(cv2.cvtColor(flat.reshape(height * 3 // 2, width), cv2.COLOR_YUV2RGB_NV12), np.uint8)
    if kind.raw:
        return flat.reshape(height, width, 3)
    decoded = cv2.imdecode(flat, cv2.IMREAD_COLOR_RGB | cv2.IMREAD_IGNORE_ORIENTATION)
    if decoded is None:
        raise ValueError("it is cut off or corrupt")
    return np.asarray(decoded, np.uint8)

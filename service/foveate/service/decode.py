"""Encoded or raw pixels into one row of a batch: decoded, resized to the model's input, as uint8 RGB."""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

from foveate.engines.errors import BadFrame
from foveate.models.geometry import Placement, Rect
from foveate.models.package import PreparedModel
from foveate.service.frame import PixelFormat

__all__ = ["Decoded", "decode_into"]

Pixels = NDArray[np.uint8]

# The reducing modes are those of 8-bit colour; RGB order is asked for in place of their BGR.
_REDUCED = tuple(
    (divisor, mode & ~cv2.IMREAD_COLOR | cv2.IMREAD_COLOR_RGB)
    for divisor, mode in (
        (8, cv2.IMREAD_REDUCED_COLOR_8),
        (4, cv2.IMREAD_REDUCED_COLOR_4),
        (2, cv2.IMREAD_REDUCED_COLOR_2),
        (1, cv2.IMREAD_COLOR),
    )
)
_JPEG_END = b"\xff\xd9"
_JPEG_END_WITHIN = 4096
"""Bytes at the end of a JPEG in which its end marker must lie: some cameras pad their pictures."""


class Decoded:
    """What decoding found out about a frame: its size in pixels, and where it lies in the model's input."""

    __slots__ = ("height", "placement", "width")

    def __init__(self, width: int, height: int, placement: Placement) -> None:
        self.width = width
        self.height = height
        self.placement = placement


def decode_into(
    row: Pixels, data: bytes | memoryview, kind: PixelFormat, size: tuple[int, int], model: PreparedModel
) -> Decoded:
    """Decode one frame into a row of a batch; every pixel of the row is written.

    Shapes: row (H, W, 3) uint8 of the model's input, RGB.
    Units: size is the (width, height) in pixels that the header declares; what comes back is the size of the
    frame as it was seen, an EXIF orientation applied.
    Raises: BadFrame if the bytes are not a picture.
    """
    if kind.raw:
        image, (width, height) = _raw_picture(np.frombuffer(data, np.uint8), kind, size), size
    else:
        image, (width, height) = _decode_picture(data, kind, size, model)
    placement = model.place(width, height)
    # A reduced picture stands for the whole one: the same rectangle, in its own fewer pixels.
    scale = (image.shape[1] / width, image.shape[0] / height)
    _place(row, image, placement, model.manifest.input.pad_value, scale)
    if kind is PixelFormat.RAW_BGR:  # turned last, when it is small; the padding is grey either way
        cv2.cvtColor(row, cv2.COLOR_BGR2RGB, dst=row)
    return Decoded(width, height, placement)


def _decode_picture(
    data: bytes | memoryview, kind: PixelFormat, size: tuple[int, int], model: PreparedModel
) -> tuple[Pixels, tuple[int, int]]:
    """The picture as RGB, perhaps reduced, and its whole size as it is to be seen."""
    divisor, mode = _REDUCED[-1]
    if kind is PixelFormat.JPEG:
        if bytes(data[-_JPEG_END_WITHIN:]).rfind(_JPEG_END) < 0:
            raise BadFrame(f"the JPEG is cut off: {len(data)} bytes and no end marker")
        divisor, mode = _reduction(size, model)
    try:
        image = cv2.imdecode(np.frombuffer(data, np.uint8), mode)
    except cv2.error:
        image = None
    if image is None:
        raise BadFrame(f"the {kind.name} of {len(data)} bytes cannot be decoded: it is cut off or corrupt")
    declared = (-(-size[0] // divisor), -(-size[1] // divisor))
    seen = (image.shape[1], image.shape[0])
    if seen == declared:
        return _as_pixels(image), size
    if seen == declared[::-1]:  # the EXIF orientation turned it
        return _as_pixels(image), (size[1], size[0])
    raise BadFrame(f"the {kind.name} header declares {size[0]}x{size[1]}, its pixels are {seen[0]}x{seen[1]}")


def _reduction(size: tuple[int, int], model: PreparedModel) -> tuple[int, int]:
    """Let the JPEG decoder itself scale by 1/2, 1/4 or 1/8 where the model's input is that much smaller.

    It skips most of the inverse transform and averages what it drops, so it is both faster and no worse than
    decoding every pixel and sampling a few of them.
    """
    placement = model.place(*size)
    ratio = min(placement.scale_x, placement.scale_y)
    return next((reduced for reduced in _REDUCED if ratio >= reduced[0]), _REDUCED[-1])


def _raw_picture(flat: Pixels, kind: PixelFormat, size: tuple[int, int]) -> Pixels:
    width, height = size
    if kind is PixelFormat.RAW_NV12:
        planes = flat.reshape(height * 3 // 2, width)
        return _as_pixels(cv2.cvtColor(planes, cv2.COLOR_YUV2RGB_NV12))
    return flat.reshape(height, width, 3)


def _place(
    row: Pixels, image: Pixels, placement: Placement, pad_value: int, scale: tuple[float, float] = (1.0, 1.0)
) -> None:
    """Resize the placement's source into its destination, and pad around it."""
    source, target = _cut(image, placement.source, scale), placement.destination
    right, bottom = target.x + target.width, target.y + target.height
    shrinks = source.shape[0] >= 2 * target.height and source.shape[1] >= 2 * target.width
    cv2.resize(
        source,
        (target.width, target.height),
        dst=row[target.y : bottom, target.x : right],
        interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR,
    )
    middle = row[target.y : bottom]
    for padding in (row[: target.y], row[bottom:], middle[:, : target.x], middle[:, right:]):
        padding[...] = pad_value


def _cut(image: Pixels, rect: Rect, scale: tuple[float, float]) -> Pixels:
    """The rectangle of the frame, where the image holds the frame's pixels scaled by (x, y)."""
    left, top = round(rect.x * scale[0]), round(rect.y * scale[1])
    right, bottom = round((rect.x + rect.width) * scale[0]), round((rect.y + rect.height) * scale[1])
    return image[top : max(bottom, top + 1), left : max(right, left + 1)]


def _as_pixels(image: NDArray[np.generic]) -> Pixels:
    return image.astype(np.uint8, copy=False)

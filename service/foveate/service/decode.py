"""Encoded or raw pixels into one row of a batch: decoded, resized to the model's input, as uint8 RGB."""

from __future__ import annotations

import math
import re
from dataclasses import astuple

import cv2
import numpy as np
import simplejpeg
from numpy.typing import NDArray

from foveate.engines.errors import BadFrame
from foveate.models.geometry import Placement, Rect
from foveate.models.package import PreparedModel
from foveate.service.boundary import Encoded
from foveate.service.device_codec import DevicePicture
from foveate.service.frame import PixelFormat
from foveate.service.job import DecodedPicture
from foveate.service.picture_header import is_common_jpeg, jpeg_orientation

__all__ = [
    "Decoded",
    "crop_into",
    "decode_into",
    "leave_encoded",
    "leave_held",
    "picture_into",
    "sample_jpeg",
    "whole_picture",
]

Pixels = NDArray[np.uint8]
Size = tuple[int, int]
"""Width and height in pixels."""

_PADDED = re.compile(r"(\d+) extraneous bytes before marker 0xd9")
_JPEG_END = b"\xff\xd9"
_MOST_LEFT_PIXELS = 4096 * 2304
"""Of a picture that is left to the device: whole batches of them lie there, beside the engines."""
_MOST_PADDING = 64
"""Bytes that some cameras put before a JPEG's end marker to round its size; more than that is corruption."""


class Decoded:
    """What decoding found out about a frame: its size in pixels, and where it lies in the model's input."""

    __slots__ = ("height", "placement", "width")

    def __init__(self, width: int, height: int, placement: Placement) -> None:
        self.width = width
        self.height = height
        self.placement = placement


def decode_into(row: Pixels, data: bytes | memoryview, kind: PixelFormat, size: Size, model: PreparedModel) -> Decoded:
    """Decode one frame into a row of a batch; every pixel of the row is written.

    Shapes: row (H, W, 3) uint8 of the model's input, RGB.
    Units: size is the (width, height) in pixels that the header declares; what comes back is the size of the
    frame as it was seen, an EXIF orientation applied.
    Raises: BadFrame if the bytes are not a picture.
    """
    if kind.raw:
        image, (width, height) = _raw_picture(np.frombuffer(data, np.uint8), kind, size), size
    elif kind is PixelFormat.JPEG:
        image, (width, height) = _decode_jpeg(data, size, model)
    else:
        image, (width, height) = _decode_picture(data, kind, size), size
    placement = model.place(width, height)
    # A reduced picture stands for the whole one: the same rectangle, in its own fewer pixels.
    scale = (image.shape[1] / width, image.shape[0] / height)
    _place(row, image, placement, model.manifest.input.pad_value, scale)
    if kind is PixelFormat.RAW_BGR:  # turned last, when it is small; the padding is grey either way
        cv2.cvtColor(row, cv2.COLOR_BGR2RGB, dst=row)
    return Decoded(width, height, placement)


def picture_into(row: Pixels, picture: DecodedPicture, model: PreparedModel) -> Decoded:
    """As `decode_into`, of a video stream's picture: scaled down in its own colours, then converted."""
    width, height = picture.width, picture.height
    placement = model.place(width, height)
    least = (math.ceil(width / placement.scale_x), math.ceil(height / placement.scale_y))
    image = picture.reduced((min(least[0], width), min(least[1], height)))
    scale = (image.shape[1] / width, image.shape[0] / height)
    _place(row, image, placement, model.manifest.input.pad_value, scale)
    return Decoded(width, height, placement)


def whole_picture(data: bytes | memoryview, kind: PixelFormat, size: Size, least: Size | None = None) -> Pixels:
    """A frame as it is to be seen, an EXIF orientation applied, for `crop_into`; a JPEG perhaps reduced by eighths.

    Shapes: (height, width, 3) uint8, RGB; perhaps a view of the data. Units: size as in `decode_into`; `least` is the
    (width, height) in pixels that is enough of the picture as it is to be seen, None: all of them.
    Raises: BadFrame if the bytes are not a picture.
    """
    if kind is PixelFormat.JPEG:
        orientation = jpeg_orientation(data)
        seen = size[::-1] if orientation.transposed else size
        enough = seen if least is None else (min(least[0], seen[0]), min(least[1], seen[1]))
        return orientation.applied(_jpeg_pixels(data, enough[::-1] if orientation.transposed else enough))
    if kind.raw:
        image = _raw_picture(np.frombuffer(data, np.uint8), kind, size)
        return image[:, :, ::-1] if kind is PixelFormat.RAW_BGR else image
    return _decode_picture(data, kind, size)


def crop_into(row: Pixels, image: Pixels, crop: Rect, seen: Size, model: PreparedModel) -> None:
    """Write one rectangle of a picture into a row of a batch, as if it were a whole frame.

    Shapes: row (H, W, 3) uint8 of the model's input, RGB; image (height, width, 3) uint8, RGB, perhaps reduced.
    Units: crop in pixels of the frame as it is seen, whose (width, height) `seen` is.
    """
    scale = (image.shape[1] / seen[0], image.shape[0] / seen[1])
    cut = np.ascontiguousarray(_cut(image, crop, scale))
    placement = model.place(crop.width, crop.height)
    scale = (cut.shape[1] / crop.width, cut.shape[0] / crop.height)
    _place(row, cut, placement, model.manifest.input.pad_value, scale)


def leave_encoded(
    row: Pixels, data: bytes | memoryview, kind: PixelFormat, size: Size, model: PreparedModel
) -> tuple[Decoded, Encoded] | None:
    """Put a JPEG as it is into a row's memory, for a device to decode; None for a frame that is for `decode_into`.

    That is one which the row is too small for, which has very many pixels, which ends too early, or which is none of
    the common ones, on which decoders differ. Shapes and units as `decode_into`.
    """
    if kind is not PixelFormat.JPEG or len(data) > row.nbytes or size[0] * size[1] > _MOST_LEFT_PIXELS:
        return None
    if not is_common_jpeg(data) or _JPEG_END not in bytes(data[-_MOST_PADDING - len(_JPEG_END) :]):
        return None
    row.reshape(-1)[: len(data)] = np.frombuffer(data, np.uint8)
    placement = model.place(*size)
    encoded = Encoded(
        len(data), astuple(placement.source), astuple(placement.destination), model.manifest.input.pad_value
    )
    return Decoded(*size, placement), encoded


def leave_held(picture: DevicePicture, model: PreparedModel) -> tuple[Decoded, Encoded]:
    """A video stream's picture left where it is, on the device, which scales it into the row by itself."""
    placement, pad_value = model.place(picture.width, picture.height), model.manifest.input.pad_value
    source, target = astuple(placement.source), astuple(placement.destination)
    return Decoded(picture.width, picture.height, placement), Encoded(0, source, target, pad_value, picture.number)


def sample_jpeg(size: Size) -> bytes:
    """A made-up picture as a camera may send it, for timing decoders. Units: (width, height) in pixels."""
    coarse = np.random.default_rng(0).integers(0, 256, (size[1] // 16, size[0] // 16, 3)).astype(np.uint8)
    image = cv2.resize(coarse, size, interpolation=cv2.INTER_CUBIC)
    return bytes(simplejpeg.encode_jpeg(_as_pixels(image), 85, "RGB", "420"))


def _decode_jpeg(data: bytes | memoryview, size: Size, model: PreparedModel) -> tuple[Pixels, Size]:
    """The picture as it is to be seen, perhaps reduced, and its whole size.

    The decoder itself scales to a half, a quarter or an eighth where the model's input is smaller than that. It skips
    most of the inverse transform and averages what it drops, so it is both faster and no worse than sampling a full
    decode. It has other eighths too, which take up to twice as long as the next larger of these.
    """
    orientation = jpeg_orientation(data)
    seen = size[::-1] if orientation.transposed else size
    placement = model.place(*seen)
    needed = (math.ceil(seen[0] / placement.scale_x), math.ceil(seen[1] / placement.scale_y))
    parts = ((math.ceil(seen[0] / part), math.ceil(seen[1] / part)) for part in (8, 4, 2))
    least = next((part for part in parts if part[0] >= needed[0] and part[1] >= needed[1]), seen)
    image = _jpeg_pixels(data, least[::-1] if orientation.transposed else least)
    return np.ascontiguousarray(orientation.applied(image)), seen


def _jpeg_pixels(data: bytes | memoryview, least: Size, *, strict: bool = True) -> Pixels:
    try:
        image = simplejpeg.decode_jpeg(data, "RGB", min_width=least[0], min_height=least[1], strict=strict)
    except ValueError as error:
        padded = _PADDED.search(str(error))
        if strict and padded and int(padded[1]) <= _MOST_PADDING:
            return _jpeg_pixels(data, least, strict=False)
        raise BadFrame(f"the JPEG of {len(data)} bytes is cut off or corrupt: {error}") from error
    return _as_pixels(image)


def _decode_picture(data: bytes | memoryview, kind: PixelFormat, size: Size) -> Pixels:
    try:
        image = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR_RGB | cv2.IMREAD_IGNORE_ORIENTATION)
    except cv2.error:
        image = None
    if image is None:
        raise BadFrame(f"the {kind.name} of {len(data)} bytes cannot be decoded: it is cut off or corrupt")
    if image.shape[:2] != size[::-1]:
        raise BadFrame(f"the {kind.name} header declares {size[0]}x{size[1]}, its pixels say otherwise")
    return _as_pixels(image)


def _raw_picture(flat: Pixels, kind: PixelFormat, size: Size) -> Pixels:
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

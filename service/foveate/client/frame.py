"""What a caller hands over: one picture, and the bytes that travel for it."""

from __future__ import annotations

import time
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from foveate.client.settings import PictureSettings, PixelFormat

__all__ = ["Frame", "FrameLike", "Payload", "Pixels", "oversize", "payload_from_frame", "sized_for"]

Pixels = bytes | NDArray[np.uint8]
_ENVELOPE_BYTES = 64
"""Bounds what a message adds to the bytes of its frame: sequence, age, budget and their tags."""
_PACKED_FORMATS = (PixelFormat.RAW_RGB, PixelFormat.RAW_BGR)


@dataclass(frozen=True, slots=True, eq=False)
class Frame:
    """One picture of a stream."""

    data: Pixels
    """Encoded bytes, or with a raw format an array (H, W, 3), for NV12 (H * 3 / 2, W), uint8. It is copied
    when the stream takes the frame, so that a camera may reuse its buffer."""
    captured_at: float | None = None
    """`time.monotonic()` when it was captured: its age then counts against the budget, also while it waits
    in the client. None: it is as new as its sending."""
    budget_ms: int = 0
    """This frame's own budget; 0: the stream's."""


FrameLike = Frame | Pixels
"""What a source of frames may yield."""


@dataclass(frozen=True, slots=True, eq=False)
class Payload:
    """A frame that is ready to travel."""

    data: bytes
    captured_at: float | None
    budget_ms: int


def payload_from_frame(item: FrameLike, settings: PictureSettings, *, live: bool = False) -> Payload:
    """What travels for a frame; one of a live source was captured now unless it says otherwise.

    Raises: ValueError for an array that does not fit the format, TypeError for what is no picture at all.
    """
    frame = item if isinstance(item, Frame) else Frame(item)
    captured_at = frame.captured_at
    if live and captured_at is None:
        captured_at = time.monotonic()
    return Payload(_bytes_from_pixels(frame.data, settings), captured_at, frame.budget_ms)


def oversize(payload: Payload, max_message_bytes: int) -> str | None:
    """Why a frame is too large to travel; None if it is not."""
    at_most = max_message_bytes - _ENVELOPE_BYTES
    if len(payload.data) <= at_most:
        return None
    return (
        f"the frame has {len(payload.data)} bytes, at most {at_most} can be sent with "
        f"Connection.max_message_bytes = {max_message_bytes}: send a smaller picture, or raise the limit"
    )


def sized_for(item: FrameLike, settings: PictureSettings) -> PictureSettings:
    """The settings with the width and height of an array filled in where they were left out."""
    data = item.data if isinstance(item, Frame) else item
    if not isinstance(data, np.ndarray) or data.ndim < 2 or "width" in settings or "height" in settings:
        return settings
    height, width = data.shape[:2]
    if settings.get("format") == PixelFormat.RAW_NV12:
        height = height * 2 // 3
    return {**settings, "width": width, "height": height}


def _bytes_from_pixels(data: Pixels, settings: PictureSettings) -> bytes:
    if isinstance(data, np.ndarray):
        expected = _array_shape(settings)
        if data.dtype != np.uint8 or data.shape != expected:
            raise ValueError(
                f"expected a uint8 array of shape {expected}, as format, width and height say; "
                f"got {data.dtype} of shape {data.shape}"
            )
        return data.tobytes()
    if not isinstance(data, bytes | bytearray | memoryview):
        raise TypeError(f"a frame's data is bytes or a numpy array, not {type(data).__name__}")
    return bytes(data)


def _array_shape(settings: PictureSettings) -> tuple[int, ...]:
    pixel_format = settings.get("format", PixelFormat.AUTO)
    width, height = settings.get("width", 0), settings.get("height", 0)
    if pixel_format in _PACKED_FORMATS:
        return (height, width, 3)
    if pixel_format == PixelFormat.RAW_NV12:
        return (height * 3 // 2, width)
    raise ValueError(
        f"an array cannot travel as {pixel_format}: encode it (for example as JPEG), or say format=PixelFormat.RAW_BGR"
    )

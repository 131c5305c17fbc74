"""What a caller may ask for: of a picture, of a stream, and of the connection below both."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import TypedDict

__all__ = ["Connection", "Delivery", "PictureSettings", "PixelFormat", "StreamSettings"]

_MEBIBYTE = 1 << 20


class PixelFormat(StrEnum):
    """How the pixels of frames are encoded."""

    AUTO = "auto"
    """JPEG, PNG or WebP, told apart by their first bytes."""
    JPEG = "jpeg"
    PNG = "png"
    WEBP = "webp"
    H264 = "h264"
    """One access unit a frame, in Annex B and decoding order, without B-frames; parameter sets with each key frame."""
    H265 = "h265"
    """As H264."""
    RAW_RGB = "raw_rgb"
    """width * height * 3 bytes, or an array (H, W, 3) uint8."""
    RAW_BGR = "raw_bgr"
    """width * height * 3 bytes, or an array (H, W, 3) uint8, as OpenCV gives it."""
    RAW_NV12 = "raw_nv12"
    """width * height * 3 / 2 bytes, or an array (H * 3 / 2, W) uint8."""


class Delivery(StrEnum):
    """Which frames wait while the server is busy."""

    LATEST = "latest"
    """The newest frame replaces the one that waits."""
    QUEUE = "queue"
    """Frames wait in order."""


class PictureSettings(TypedDict, total=False):
    """What may be said about a picture and its answer. Whatever is left out is the server's to choose."""

    pipeline: str
    """Which pipeline answers."""
    budget_ms: int
    """Milliseconds from capture to answer."""
    priority: int
    """Priority class; 0 is served first."""
    format: PixelFormat
    """How the pixels are encoded; AUTO if left out."""
    width: int
    """Pixels; required with the raw formats (`infer` reads it off an array)."""
    height: int
    """Pixels; required with the raw formats (`infer` reads it off an array)."""
    min_score: float
    """Leave out detections and classes that score less, 0..1."""
    max_detections: int
    """Best-scoring detections or classes per frame."""
    classes: Sequence[str]
    """Only these labels."""


class StreamSettings(PictureSettings, total=False):
    """What may be said about a stream. Whatever is left out is the server's to choose."""

    stream_id: str
    """Names the stream in the server's status and logs."""
    fps: float
    """Frames per second that will be sent."""
    weight: float
    """Share among the streams of its priority class."""
    delivery: Delivery
    """LATEST if left out."""
    queue_depth: int
    """Frames that may wait on the server with QUEUE."""


@dataclass(frozen=True, slots=True)
class Connection:
    """The transport below a client."""

    max_message_bytes: int = 64 * _MEBIBYTE
    """Largest message either way. Raw 4K frames need 24 MiB. A frame beyond it is not sent, its verdict is REJECTED."""
    keepalive_s: float = 30.0
    """Seconds without traffic after which the server is asked whether it is alive. Servers refuse clients
    that ask more often than they allow."""
    keepalive_timeout_s: float = 10.0
    """Seconds without an answer to that after which the connection counts as lost."""
    timeout_s: float = 30.0
    """Seconds that `infer`, `list_pipelines` and `status` wait for their answer."""

"""What a camera gives: pictures, or the units of its video."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from foveate.client import PixelFormat

if TYPE_CHECKING:
    import av

__all__ = ["Picture", "Unit"]


@dataclass(frozen=True, slots=True, eq=False)
class Picture:
    """One picture of a camera, as it came."""

    content: av.VideoFrame | bytes
    """Decoded by FFmpeg, or the bytes of a JPEG, PNG or WebP picture."""
    captured_at: float
    """`time.monotonic()`."""

    @property
    def is_key(self) -> bool:
        """Whether it stands for itself, as every picture does."""
        return True


@dataclass(frozen=True, slots=True, eq=False)
class Unit:
    """One access unit of a camera's video, in Annex B; parameter sets come with each key frame."""

    data: bytes
    format: PixelFormat
    """H264 or H265."""
    is_key: bool
    """Whether decoding can begin with it."""
    captured_at: float
    """`time.monotonic()`."""

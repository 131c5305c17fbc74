"""A frame on its way through the service: what the stages must know of it, and the answer in the end."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from foveate.service.frame import Answer, Frame, PixelFormat

if TYPE_CHECKING:
    from foveate.service.stream import CameraStream

__all__ = ["DecodeCost", "Job"]

_FIRST_GUESS_NS_PER_PIXEL = 8
_WEIGHT = 0.2


@dataclass(slots=True)
class DecodeCost:
    """What decoding a frame of a stream takes, tracked per stream: cameras differ, a camera hardly changes."""

    tracked_ns: int = 0

    def predict_ns(self, width: int, height: int) -> int:
        return self.tracked_ns or _FIRST_GUESS_NS_PER_PIXEL * width * height

    def observe(self, took_ns: int) -> None:
        self.tracked_ns = int(self.tracked_ns + _WEIGHT * (took_ns - self.tracked_ns)) if self.tracked_ns else took_ns


@dataclass(slots=True, eq=False)
class Job:
    """One frame between its receipt and its answer. Owned by its stream; a lane borrows it."""

    stream: CameraStream
    frame: Frame
    format: PixelFormat = PixelFormat.AUTO
    """Of its bytes, once its header has been looked at; never AUTO from then on."""
    width: int = 0
    """Pixels, as the header declares them."""
    height: int = 0
    answer: Answer | None = None
    cancelled: bool = False
    """Its client is gone: it will not be answered."""

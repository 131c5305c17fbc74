"""A frame on its way through the service: what the stages must know of it, and the answer in the end."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import numpy as np
from numpy.typing import NDArray

from foveate.service.frame import Answer, Frame, PixelFormat

if TYPE_CHECKING:
    from foveate.service.stream import CameraStream

__all__ = ["DecodeCost", "DecodedPicture", "Job"]

_FIXED_NS = 200_000
_FIRST_GUESS = 8.0
"""Nanoseconds per pixel of a JPEG on one core."""
_WEIGHT = 0.2
_MOST_GROWTH = 4.0
"""A sample counts as at most this many times what was expected: one stall must not make a stream infeasible."""
_IDLE_BEFORE_RELAXING_NS = 1_000_000_000


@dataclass(slots=True)
class DecodeCost:
    """What decoding a frame of a stream takes, tracked per pixel: cameras differ, a camera hardly changes."""

    first_guess: float = _FIRST_GUESS
    """Nanoseconds per pixel, with room to spare."""
    _took_ns: float = 0.0
    _pixels: float = 1.0
    _last_ns: int = 0

    def __post_init__(self) -> None:
        self._took_ns = self.first_guess

    @property
    def ns_per_pixel(self) -> float:
        return self._took_ns / self._pixels

    def predict_ns(self, pixels: int, now_ns: int) -> int:
        """The time to decode that many pixels.

        While nothing is decoded a high rate falls back by halves: only a decode can show that it is wrong, and a
        frame that is refused for it is not decoded.
        """
        if self.ns_per_pixel > self.first_guess and now_ns - self._last_ns > _IDLE_BEFORE_RELAXING_NS:
            self._took_ns = self._pixels * (self.first_guess + self.ns_per_pixel) / 2
            self._last_ns = now_ns
        return _FIXED_NS + int(self.ns_per_pixel * pixels)

    def observe(self, pixels: int, took_ns: int, now_ns: int) -> None:
        """Learn from a decode that ended now. Times and pixels are averaged apart, so that large frames weigh more."""
        expected_ns = self.ns_per_pixel * pixels
        sample_ns = min(max(0, took_ns - _FIXED_NS), _MOST_GROWTH * expected_ns)
        self._took_ns += _WEIGHT * (sample_ns - self._took_ns)
        self._pixels += _WEIGHT * (pixels - self._pixels)
        self._last_ns = now_ns


class DecodedPicture(Protocol):
    """A frame that was decoded before it was chosen, since later ones build on it. Any thread may read it."""

    @property
    def width(self) -> int:
        """Pixels."""

    @property
    def height(self) -> int:
        """Pixels."""

    @property
    def nbytes(self) -> int:
        """Bytes that it holds."""

    def rgb(self) -> NDArray[np.uint8]:
        """All of it. Shapes: (height, width, 3) uint8, RGB."""

    def reduced(self, size: tuple[int, int]) -> NDArray[np.uint8]:
        """All of it, scaled down. Shapes: (height, width, 3) uint8, RGB. Units: size is (width, height) in pixels."""


@dataclass(slots=True, eq=False)
class Job:
    """One frame between its receipt and its answer. Owned by its stream; an ingest borrows it."""

    stream: CameraStream
    frame: Frame
    format: PixelFormat = PixelFormat.AUTO
    """Of its bytes, once its header has been looked at; never AUTO from then on."""
    width: int = 0
    """Pixels, as the header declares them."""
    height: int = 0
    picture: DecodedPicture | None = None
    """Of a video stream's frame; None: its data are a picture by themselves."""
    unit_began_ns: int = 0
    """When the decoding of a video stream's access unit began, on the monotonic clock; 0: the frame is none."""
    unit_decode_ns: int = 0
    answer: Answer | None = None
    cancelled: bool = False
    """Its client is gone: it will not be answered."""

    @property
    def over(self) -> bool:
        """Whether it is answered, or will not be."""
        return self.answer is not None or self.cancelled

    @property
    def held_bytes(self) -> int:
        """Bytes that the frame takes here; what lies in shared memory is its client's."""
        encoded = len(self.frame.data) if isinstance(self.frame.data, bytes) else 0
        return encoded + (self.picture.nbytes if self.picture else 0)

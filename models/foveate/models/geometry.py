"""Where a frame lands in a model's input, and the way back: arithmetic on coordinates, no pixels.

Coordinates count from the outer corner of the first pixel, so that pixel spans 0..1 and a picture of width
``w`` spans 0..w. In these a resize is a plain linear map, with no half-pixel terms.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from foveate.engines.errors import BadFrame
from foveate.models.manifest import InputSpec

__all__ = ["Placement", "Rect", "place"]


@dataclass(frozen=True, slots=True)
class Rect:
    """A rectangle of whole pixels."""

    x: int
    y: int
    width: int
    height: int


@dataclass(frozen=True, slots=True)
class Placement:
    """Which part of a frame is resized onto which part of the model's input.

    Whoever moves the pixels resizes ``source`` of the frame to exactly the size of ``destination``; what the
    destination leaves free of the input is padding.
    """

    frame_width: int
    frame_height: int
    source: Rect
    """In pixels of the frame."""
    destination: Rect
    """In pixels of the model's input."""

    @property
    def scale_x(self) -> float:
        """Frame pixels per input pixel, from the sizes as they were rounded."""
        return self.source.width / self.destination.width

    @property
    def scale_y(self) -> float:
        """Frame pixels per input pixel, from the sizes as they were rounded."""
        return self.source.height / self.destination.height

    @property
    def offset_x(self) -> float:
        """The frame's x at the input's x = 0, in frame pixels."""
        return self.source.x - self.destination.x * self.scale_x

    @property
    def offset_y(self) -> float:
        """The frame's y at the input's y = 0, in frame pixels."""
        return self.source.y - self.destination.y * self.scale_y

    def to_frame(self, points: NDArray[np.float32]) -> NDArray[np.float32]:
        """Points of the input as points of the frame, not clipped.

        Shapes: points (..., 2) as x, y; the result is a new array of that shape.
        Units: pixels of the input; pixels of the frame.
        """
        scale = np.array([self.scale_x, self.scale_y], np.float32)
        offset = np.array([self.offset_x, self.offset_y], np.float32)
        return points * scale + offset

    def boxes_to_frame(self, boxes: NDArray[np.float32]) -> NDArray[np.float32]:
        """Boxes of the input as boxes of the frame, clipped to it; a box in the padding comes back empty.

        Shapes: boxes (..., 4) as x1, y1, x2, y2; the result is a new array of that shape.
        Units: pixels of the input; pixels of the frame.
        """
        corners = self.to_frame(boxes.reshape(*boxes.shape[:-1], 2, 2))
        limit = np.array([self.frame_width, self.frame_height], np.float32)
        return np.clip(corners, np.float32(0), limit).reshape(boxes.shape)


def place(frame_width: int, frame_height: int, spec: InputSpec) -> Placement:
    """Where a frame of this size goes in the model's input.

    letterbox: the whole frame, scaled up or down by one factor until it touches the input's sides. stretch:
    the whole frame onto the whole input. center_crop: the middle of the frame onto the whole input, as if the
    frame were first resized to cover the input ``1 / crop_fraction`` times.
    However narrow the frame, both rectangles keep at least one pixel a side.
    Raises: BadFrame if a side is less than one pixel.
    """
    if frame_width < 1 or frame_height < 1:
        raise BadFrame(f"a frame has at least 1 x 1 pixels, this one has {frame_width} x {frame_height}")
    whole = Rect(0, 0, frame_width, frame_height)
    full = Rect(0, 0, spec.width_px, spec.height_px)
    if spec.resize == "stretch":
        return Placement(frame_width, frame_height, whole, full)
    if spec.resize == "center_crop":
        return Placement(frame_width, frame_height, _middle(whole, spec), full)
    return Placement(frame_width, frame_height, whole, _letterbox(whole, spec))


def _letterbox(frame: Rect, spec: InputSpec) -> Rect:
    scale = min(spec.width_px / frame.width, spec.height_px / frame.height)
    width = _rounded(frame.width * scale, spec.width_px)
    height = _rounded(frame.height * scale, spec.height_px)
    if spec.anchor == "top_left":
        return Rect(0, 0, width, height)
    return Rect((spec.width_px - width) // 2, (spec.height_px - height) // 2, width, height)


def _middle(frame: Rect, spec: InputSpec) -> Rect:
    # The largest centred part of the input's aspect ratio, less the margin of the crop.
    scale = spec.crop_fraction * min(frame.width / spec.width_px, frame.height / spec.height_px)
    width = _rounded(spec.width_px * scale, frame.width)
    height = _rounded(spec.height_px * scale, frame.height)
    return Rect((frame.width - width) // 2, (frame.height - height) // 2, width, height)


def _rounded(length: float, limit: int) -> int:
    return max(1, min(limit, int(length + 0.5)))

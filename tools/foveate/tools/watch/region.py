"""The part of a picture that is sent, and the way of its results back into the whole picture."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from foveate.client import Result
from foveate.tools.outputs.camera_result import moved
from foveate.tools.watch.trouble import CameraTrouble

__all__ = ["Crop", "Region"]


@dataclass(frozen=True, slots=True)
class Crop:
    """A region in a picture of one size."""

    x: int
    y: int
    width: int
    height: int
    full_width: int
    full_height: int

    @property
    def is_whole(self) -> bool:
        """Whether nothing is cut off."""
        return (self.width, self.height) == (self.full_width, self.full_height)

    def in_full_picture(self, result: Result) -> Result:
        """The result of the cut picture, in pixels of the full one."""
        if self.is_whole or not result.frame_width:  # what nobody has looked at stays without a size
            return result
        return replace(
            result,
            detections=moved(result.detections, self.x, self.y),
            frame_width=self.full_width,
            frame_height=self.full_height,
        )


class Region:
    """What `CameraSettings.roi` says, for pictures of any size."""

    def __init__(self, roi: tuple[float, float, float, float] | None) -> None:
        """Raises: ValueError if it is no region."""
        self._roi = roi
        if roi is None:
            return
        if roi[2] <= 0 or roi[3] <= 0 or roi[0] < 0 or roi[1] < 0:
            raise ValueError("expected [x, y, width, height] with x and y of at least 0 and a width and height above 0")
        self._is_shares = all(value <= 1 for value in roi)
        if self._is_shares and (roi[0] + roi[2] > 1 + 1e-9 or roi[1] + roi[3] > 1 + 1e-9):
            raise ValueError("expected shares of the picture: x + width and y + height are at most 1")
        if not self._is_shares and any(value != int(value) for value in roi):
            raise ValueError("expected four shares of at most 1, or four whole numbers of pixels")

    @property
    def is_whole(self) -> bool:
        """Whether pictures are sent whole, of whatever size they are."""
        return self._roi is None

    def crop(self, width: int, height: int) -> Crop:
        """The region in a picture of this size in pixels, as far as it lies inside; its edges are even, as colours are
        stored for two pixels together.

        Raises: CameraTrouble if all of it lies outside.
        """
        if self._roi is None:
            return Crop(0, 0, width, height, width, height)
        x, y, wide, high = self._roi
        if self._is_shares:
            x, y, wide, high = x * width, y * height, wide * width, high * height
        left, top = int(x) // 2 * 2, int(y) // 2 * 2
        right, bottom = _even_up(x + wide, width), _even_up(y + high, height)
        if right <= left or bottom <= top:
            raise CameraTrouble(f"the region lies outside the camera's picture of {width}x{height} pixels: move it")
        return Crop(left, top, right - left, bottom - top, width, height)


def _even_up(edge: float, size: int) -> int:
    return min(size, (int(np.ceil(edge - 1e-6)) + 1) // 2 * 2)

"""What a camera hands to its outputs."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from foveate.client import Detections, Result

__all__ = ["CameraResult", "moved"]


@dataclass(frozen=True, slots=True, eq=False)
class CameraResult:
    """The answer to one frame of one camera."""

    camera: str
    """The camera's name."""
    result: Result
    """What became of the frame."""
    picture: bytes | None
    """The frame as an encoded picture; None where the camera's own packets were sent."""
    captured_at_unix_s: float
    """When the frame was captured, in seconds since 1970."""
    picture_at: tuple[int, int] = (0, 0)
    """Where the upper left corner of `picture` lies in the camera's whole picture, in whose pixels the result is."""

    @property
    def result_in_picture(self) -> Result:
        """The result in pixels of `picture`, for drawing."""
        if self.picture_at == (0, 0):
            return self.result
        x, y = self.picture_at
        return replace(self.result, detections=moved(self.result.detections, -x, -y))


def moved(seen: Detections, x: int, y: int) -> Detections:
    """The same detections, so many pixels further to the right and down."""
    boxes = seen.boxes + np.array([x, y, x, y], np.float32)
    keypoints = None if seen.keypoints is None else seen.keypoints + np.array([x, y, 0], np.float32)
    return replace(seen, boxes=boxes, keypoints=keypoints)

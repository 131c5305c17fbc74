"""Which pictures of a camera are worth sending. No clocks of their own: the time comes with each call, in seconds."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

__all__ = ["MotionGate", "RateGate"]

_NOISE = 16
"""Grey levels by which a pixel may differ without anything having moved: noise and flicker."""
_STILL_AFTER_S = 2.0


class RateGate:
    """Lets so many pictures per second through, evenly."""

    def __init__(self) -> None:
        self._due = 0.0

    def admits(self, now: float, fps: float | None) -> bool:
        """Whether a picture that was captured `now` may pass; None or 0: as many as come.

        A camera's rhythm and ours are not the same, so up to one interval is made up for.
        """
        if not fps:
            return True
        interval_s = 1.0 / fps
        self._due = min(self._due, now + interval_s)  # a clock or rate that changed must not silence the camera
        if now < self._due:
            return False
        self._due = max(self._due, now - interval_s) + interval_s
        return True


class MotionGate:
    """Lets pictures through that differ from the one that passed last, and one now and then of a still scene."""

    def __init__(self, threshold: float, min_fps: float) -> None:
        """`threshold`: share of the pixels, 0..1, that have to differ."""
        self._threshold = threshold
        self._longest_s = 1.0 / min_fps if min_fps > 0 else float("inf")
        self._last: NDArray[np.int16] | None = None
        self._passed_at = 0.0
        self._moved_at = 0.0

    def admits(self, small: NDArray[np.uint8], now: float) -> bool:
        """Whether the picture of this small grey one may pass. Shapes: small (H, W)."""
        grey = small.astype(np.int16)
        moved = self._last is None or self._last.shape != grey.shape or self._changed(grey, self._last)
        if moved:
            self._moved_at = now
        if not moved and now - self._passed_at < self._longest_s:
            return False
        self._last, self._passed_at = grey, now
        return True

    def is_still(self, now: float) -> bool:
        """Whether nothing has moved for a while."""
        return now - self._moved_at > _STILL_AFTER_S

    def _changed(self, grey: NDArray[np.int16], last: NDArray[np.int16]) -> bool:
        return float(np.mean(np.abs(grey - last) > _NOISE)) >= self._threshold

"""When the next frame may leave, at the frame rate that the server advises. No clock: the time comes with each call."""

from __future__ import annotations

__all__ = ["Pace"]


class Pace:
    """Spreads frames over time; one that comes a little early need not wait. Without advice none has to."""

    def __init__(self) -> None:
        self._interval_s = 0.0
        self._due = 0.0

    def advise(self, fps: float, now: float) -> None:
        """Go by this frame rate from `now` on; 0: the server has none to give."""
        self._interval_s = 1.0 / fps if fps > 0 else 0.0
        self._due = min(self._due, now + 2 * self._interval_s)  # no waiting on account of a lower rate before

    def sent(self, now: float) -> None:
        """A frame leaves at `now`."""
        self._due = max(self._due, now) + self._interval_s

    def wait_s(self, now: float) -> float:
        """How long the next frame has to wait; 0 or less: it may leave.

        One interval may be caught up on, so that jitter does not lower the rate.
        """
        return self._due - self._interval_s - now

"""How old what a camera's reader gets is, and whether the reader keeps up. No clock of its own.

A read that had to wait found nothing older in the buffers, so what it brings is new. One that returned at once may
bring something that lay there, since the last read that waited at most: how long, the camera's own clock tells, and
is believed no further than that. So a camera whose clock jumps, stands still or runs wrong cannot mislead us.
"""

from __future__ import annotations

__all__ = ["Lateness"]

_WAITED_S = 0.001
_HOPELESS_AFTER_S = 2.0


class Lateness:
    """Follows the reads of one connection."""

    def __init__(self, now: float) -> None:
        self._caught_up_at = now
        self._behind_since: float | None = None
        self._clock_offset_s: float | None = None
        """From the camera's clock to ours, as of the last read that waited."""

    def captured_at(self, asked_at: float, read_at: float, stamp_s: float | None) -> float:
        """When what was asked for at `asked_at` and read at `read_at` was captured, as far as one can tell.

        `stamp_s` is the camera's own time of it.
        """
        if read_at - asked_at >= _WAITED_S:
            self._caught_up_at = read_at
            self._clock_offset_s = None if stamp_s is None else read_at - stamp_s
            return read_at
        if stamp_s is None or self._clock_offset_s is None:
            return read_at
        return min(read_at, max(self._caught_up_at, stamp_s + self._clock_offset_s))

    def must_leave_out(self, now: float, is_key: bool) -> bool:
        """Whether what was just read has to be left out, as the reader is behind: until it has caught up, and from then
        on until decoding can begin again, with a key frame.
        """
        if self._behind_since is None and now - self._caught_up_at > _HOPELESS_AFTER_S:
            self._behind_since = now
        if self._behind_since is not None and is_key and self._caught_up_at > self._behind_since:
            self._behind_since = None
        return self._behind_since is not None

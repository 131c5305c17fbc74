"""How a camera is doing: its state and its counts."""

from __future__ import annotations

import time
from collections import Counter, deque
from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from statistics import median

from foveate.client import Result, Verdict

__all__ = ["CameraStatus", "Health", "State"]

_STUCK_AFTER_S = 2.0
"""Beyond the camera's own time limit, which FFmpeg heeds nearly everywhere."""
_LATENCIES = 512


class State(StrEnum):
    """What a camera does."""

    CONNECTING = "connecting"
    """No picture came yet."""
    LIVE = "live"
    """Pictures come and are sent."""
    STILL = "still"
    """Pictures come, and nothing moves in them."""
    FROZEN = "frozen"
    """It is connected, or lets itself be connected, and gives no pictures."""
    RECONNECTING = "reconnecting"
    """The connection is gone; another attempt follows."""
    ENDED = "ended"
    """A file is through, or it was asked to stop."""
    FAILED = "failed"
    """Trying again would change nothing."""


@dataclass(frozen=True, slots=True)
class CameraStatus:
    """One camera at one moment. It holds no secrets.

    read = skipped_rate + skipped_motion + dropped + sent + at most three on their way between these.
    """

    name: str
    source: str
    """Where it is, without credentials, path and query."""
    state: State
    error: str
    """What went wrong last, be it over or not; empty if nothing did."""
    error_age_s: float | None
    """Seconds since then; None if nothing did."""
    reconnects: int
    """Connections that were tried after the first one."""
    read: int
    """Pictures, or units of video, that the camera gave."""
    damaged: int
    """What came and was no picture; not among those read."""
    skipped_rate: int
    """Not sent, as the frame rate is capped here or by the server."""
    skipped_motion: int
    """Not sent, as nothing moved."""
    dropped: int
    """Not sent, as a newer one came before the server took more, or as it could not be encoded."""
    sent: int
    """Given to the server."""
    verdicts: dict[str, int]
    """What became of those sent."""
    on_time: int
    """Of those sent: answered OK within their budget, counted from capture."""
    p50_ms: float | None
    """Median time from capture to answer of the latest pictures answered OK; None before the first."""
    pictures_per_s: float
    """That came in the last seconds."""


class Health:
    """Keeps a camera's counts. Each count is written by one thread: the reader's, or the loop's."""

    def __init__(self, name: str, source: str, timeout_s: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._name = name
        self._source = source
        self._timeout_s = timeout_s
        self._clock = clock
        # The reader's thread.
        self._state = State.CONNECTING
        self._error = ""
        self._error_at = 0.0
        self._progress_at = clock()
        self._arrivals: deque[float] = deque(maxlen=64)
        self.reconnects = 0
        self.read = 0
        self.damaged = 0
        self.skipped_rate = 0
        self.skipped_motion = 0
        self.dropped_here = 0
        # The loop.
        self._is_failed = False
        self._is_over = False
        self._sent = 0
        self._dropped_in_loop = 0
        self._verdicts: Counter[Verdict] = Counter()
        self._on_time = 0
        self._latencies_ms: deque[float] = deque(maxlen=_LATENCIES)

    def going_on(self) -> None:
        """In the reader: it is not stuck."""
        self._progress_at = self._clock()

    def arrived(self, *, is_still: bool = False) -> None:
        """In the reader: a picture came."""
        self.going_on()
        self.read += 1
        self._arrivals.append(self._progress_at)
        self._state = State.STILL if is_still else State.LIVE

    def in_trouble(self, state: State, error: str) -> None:
        """In the reader: the connection is no good, or never will be."""
        self.going_on()
        self._say(error)
        self._state = state

    def ended(self) -> None:
        """In the reader: nothing more comes."""
        self.going_on()
        self._state = State.ENDED

    def sending(self) -> None:
        """In the loop: a picture is given to the client."""
        self._sent += 1

    def answered(self, result: Result) -> None:
        """In the loop: this became of it."""
        if result.verdict is Verdict.DROPPED:
            self._sent -= 1
            self._dropped_in_loop += 1
            return
        self._verdicts[result.verdict] += 1
        self._on_time += result.on_time
        if result.verdict is Verdict.OK:
            self._latencies_ms.append(result.age_ms + result.times.total_ms)

    def cannot_encode(self, error: str) -> None:
        """In the loop: a picture cannot be sent."""
        self._dropped_in_loop += 1
        self._say(error)

    def server_trouble(self, error: str, *, is_final: bool = False) -> None:
        """In the loop: the server does not serve this camera now, or never will."""
        self._say(error)
        self._is_failed = self._is_failed or is_final

    def over(self) -> None:
        """In the loop: everything is answered."""
        self._is_over = True

    def status(self) -> CameraStatus:
        """As it is now."""
        now = self._clock()
        stuck_s = now - self._progress_at
        state, error, error_at = self._state, self._error, self._error_at
        if self._is_failed:
            state = State.FAILED
        elif self._is_over and state is not State.FAILED:
            state = State.ENDED
        elif state in (State.CONNECTING, State.LIVE, State.STILL) and stuck_s > self._timeout_s + _STUCK_AFTER_S:
            state, error_at = State.FROZEN, self._progress_at
            error = f"nothing for {stuck_s:.0f} s: its driver or the network does not come back"
        return CameraStatus(
            name=self._name,
            source=self._source,
            state=state,
            error=error,
            error_age_s=round(now - error_at, 1) if error else None,
            reconnects=self.reconnects,
            read=self.read,
            damaged=self.damaged,
            skipped_rate=self.skipped_rate,
            skipped_motion=self.skipped_motion,
            dropped=self.dropped_here + self._dropped_in_loop,
            sent=self._sent,
            verdicts={verdict.value: self._verdicts[verdict] for verdict in Verdict if self._verdicts[verdict]},
            on_time=self._on_time,
            p50_ms=round(median(self._latencies_ms), 1) if self._latencies_ms else None,
            pictures_per_s=round(self._rate(now), 1),
        )

    def _say(self, error: str) -> None:
        """In either thread: the last word holds."""
        self._error, self._error_at = error, self._clock()

    def _rate(self, now: float) -> float:
        arrivals = [at for at in tuple(self._arrivals) if now - at <= 5.0]
        if len(arrivals) < 2:
            return 0.0
        return (len(arrivals) - 1) / max(now - arrivals[0], 1.0)

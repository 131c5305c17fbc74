"""The bounded queue between those who have results and the thread that delivers them, and its book."""

from __future__ import annotations

import threading
from collections import deque

from foveate.tools.outputs.camera_result import CameraResult
from foveate.tools.outputs.output import OutputCounts

__all__ = ["Backlog"]


class Backlog:
    """Results that wait; when it is full a new one pushes the oldest out.

    The newest is worth most of live video, so the oldest goes. What the thread has taken is on its way and is not
    pushed out any more: it counts as waiting until it is settled.
    """

    def __init__(self, capacity: int) -> None:
        self._capacity = capacity
        self._changed = threading.Condition()
        self._queue: deque[CameraResult] = deque()
        self._wake_at = 0
        """Length of the queue from which on the taker wants to be woken; 0 while it does not wait."""
        self._closing = False
        self._over = False
        self._in_flight = 0
        self._filtered = self._sent = self._dropped = self._failed = 0

    @property
    def counts(self) -> OutputCounts:
        with self._changed:
            waiting = len(self._queue) + self._in_flight
            return OutputCounts(self._filtered, waiting, self._sent, self._dropped, self._failed)

    def leave_out(self) -> None:
        """Count a result that is not wanted."""
        with self._changed:
            self._filtered += 1

    def put(self, result: CameraResult) -> None:
        """Append a result; it is dropped where the backlog is closed."""
        with self._changed:
            if self._closing:
                self._dropped += 1
                return
            if len(self._queue) >= self._capacity:
                self._queue.popleft()
                self._dropped += 1
            self._queue.append(result)
            if 0 < self._wake_at <= len(self._queue):
                self._wake_at = 0
                self._changed.notify()

    def take(self, most: int, linger_s: float = 0.0) -> list[CameraResult]:
        """Wait for results and take the oldest, at most so many; empty when closed and nothing is left.

        With `linger_s` the first of them waits for as long for others to come along. One thread may take.
        """
        with self._changed:
            self._wait_for(1, None)
            if linger_s > 0.0:
                self._wait_for(min(most, self._capacity), linger_s)
            taken = [self._queue.popleft() for _ in range(min(most, len(self._queue)))]
            self._in_flight += len(taken)
            return taken

    def settle(self, *, sent: int = 0, failed: int = 0) -> None:
        """What became of results that were taken."""
        with self._changed:
            if not self._over:  # else the book is closed, and they are in it
                self._in_flight -= sent + failed
                self._sent += sent
                self._failed += failed

    def close(self) -> None:
        """Take no more; what is there can still be taken."""
        with self._changed:
            self._closing = True
            self._changed.notify()

    def abandon(self) -> None:
        """Close the book: what is queued was dropped, what is on its way has failed."""
        with self._changed:
            self._closing = self._over = True
            self._dropped += len(self._queue)
            self._failed += self._in_flight
            self._in_flight = 0
            self._queue.clear()
            self._changed.notify()

    def _wait_for(self, length: int, timeout_s: float | None) -> None:
        def there() -> bool:
            self._wake_at = 0 if self._closing or len(self._queue) >= length else length
            return self._wake_at == 0

        self._changed.wait_for(there, timeout_s)
        self._wake_at = 0

"""From a camera's reader thread into the event loop: bounded, and nothing old is handed over."""

from __future__ import annotations

import asyncio
import threading
from collections import deque
from typing import Generic, Protocol, TypeVar

__all__ = ["Handover", "NewestOnly", "WaitingUnits"]


class _Unit(Protocol):
    @property
    def is_key(self) -> bool: ...


T = TypeVar("T")
U = TypeVar("U", bound=_Unit)


class _Waiting(Protocol[T]):
    def add(self, item: T) -> int:
        """Take an item; how many items were thrown away for it."""

    def take(self) -> T | None:
        """The next item, if there is one."""


class NewestOnly(Generic[T]):
    """One item: a newer one replaces it."""

    def __init__(self) -> None:
        self._item: T | None = None

    def add(self, item: T) -> int:
        """Take an item; how many were thrown away for it."""
        replaced = self._item is not None
        self._item = item
        return int(replaced)

    def take(self) -> T | None:
        """The newest item, if it was not taken yet."""
        item, self._item = self._item, None
        return item


class WaitingUnits(Generic[U]):
    """Units of a video, none of which can be left out before the next key frame: where too many wait, all that wait are
    thrown away, and with them what follows up to a key frame."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._units: deque[U] = deque()
        self._needs_key = True

    def add(self, item: U) -> int:
        """Take a unit; how many were thrown away, it included."""
        thrown = 0
        if len(self._units) >= self._most or (item.is_key and len(self._units) >= self._most // 2):
            thrown = len(self._units)
            self._units.clear()
            self._needs_key = True
        if self._needs_key and not item.is_key:
            return thrown + 1
        self._needs_key = False
        self._units.append(item)
        return thrown

    def take(self) -> U | None:
        """The oldest unit, if one waits."""
        return self._units.popleft() if self._units else None


class Handover(Generic[T]):
    """A bounded place that one thread fills and one coroutine empties; filling it never waits."""

    def __init__(self, waiting: _Waiting[T], loop: asyncio.AbstractEventLoop) -> None:
        self._waiting = waiting
        self._loop = loop
        self._lock = threading.Lock()
        self._arrived = asyncio.Event()
        self._closed = False
        self.dropped = 0
        """Items that were thrown away."""

    def put(self, item: T) -> None:
        """In the thread: hand an item over."""
        with self._lock:
            self.dropped += self._waiting.add(item)
        self._wake()

    def close(self) -> None:
        """In the thread: nothing more will come; what waits can still be taken. Idempotent."""
        self._closed = True
        self._wake()

    async def take(self) -> T | None:
        """In the loop: the next item, or None after the last."""
        while True:
            self._arrived.clear()
            closed = self._closed
            with self._lock:
                item = self._waiting.take()
            if item is not None or closed:
                return item
            await self._arrived.wait()

    def _wake(self) -> None:
        try:
            self._loop.call_soon_threadsafe(self._arrived.set)
        except RuntimeError:  # the loop ended while the camera's driver blocked
            self._closed = True

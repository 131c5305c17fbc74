"""Waiting for a condition on state that one event loop alone changes."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

__all__ = ["Wakeup"]


class Wakeup:
    """Wakes every task that waits; each then looks for itself whether its condition holds.

    Unlike `asyncio.Condition` it needs no lock, so plain functions can notify.
    """

    def __init__(self) -> None:
        self._waiters: set[asyncio.Future[None]] = set()

    def notify(self) -> None:
        """Say that something has changed."""
        for waiter in self._waiters:
            if not waiter.done():
                waiter.set_result(None)

    async def wait_for(self, condition: Callable[[], bool]) -> None:
        """Return as soon as the condition holds."""
        while not condition():
            waiter = asyncio.get_running_loop().create_future()
            self._waiters.add(waiter)
            try:
                await waiter
            finally:
                self._waiters.discard(waiter)

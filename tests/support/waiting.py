"""Waiting for what another thread, task or process brings about."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable

__all__ = ["until", "until_in_loop"]

_PAUSE_S = 0.005


def until(holds: Callable[[], object], what: str = "it came to be", timeout_s: float = 40.0) -> None:
    """Return as soon as it holds. Raises: AssertionError if that takes too long."""
    ends_at, pause = time.monotonic() + timeout_s, threading.Event()
    while not holds():
        assert time.monotonic() < ends_at, f"waited {timeout_s:g} s in vain until {what}"
        pause.wait(_PAUSE_S)


async def until_in_loop(holds: Callable[[], object], timeout_s: float = 40.0) -> None:
    """As `until`, while the event loop goes on."""
    ends_at = time.monotonic() + timeout_s
    while not holds():
        assert time.monotonic() < ends_at, f"waited {timeout_s:g} s in vain"
        await asyncio.sleep(_PAUSE_S)

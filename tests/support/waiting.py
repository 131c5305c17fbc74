"""Waiting for what another thread or process brings about."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

__all__ = ["until"]


def until(holds: Callable[[], object], what: str = "it came to be", timeout_s: float = 20.0) -> None:
    """Return as soon as it holds. Raises: AssertionError if that takes too long."""
    ends_at, pause = time.monotonic() + timeout_s, threading.Event()
    while not holds():
        assert time.monotonic() < ends_at, f"waited {timeout_s:g} s in vain until {what}"
        pause.wait(0.005)

"""Threads that may never come back from native code."""

from __future__ import annotations

import threading
from collections.abc import Callable

__all__ = ["NativeThread", "any_native_thread"]


class NativeThread(threading.Thread):
    """A daemon that runs foreign code, as FFmpeg's, which a driver or a resolver can hold for ever.

    The program has to end all the same, and at once (`os._exit`): the interpreter's own end takes the ground from
    under such a thread, which then may crash the process.
    """

    def __init__(self, target: Callable[[], None], name: str) -> None:
        super().__init__(target=target, name=name, daemon=True)


def any_native_thread() -> bool:
    """Whether one is still running."""
    return any(isinstance(thread, NativeThread) for thread in threading.enumerate())

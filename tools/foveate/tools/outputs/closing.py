"""Closing several outputs within one bound."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterable

from foveate.tools.outputs.output import Output

__all__ = ["close_side_by_side"]

_GRACE_S = 0.5
"""An output that keeps its bound comes back a little after it."""


def close_side_by_side(outputs: Iterable[Output], timeout_s: float) -> None:
    """Close them at the same time, so that one that hangs takes nothing from the others."""
    ends_at = time.monotonic() + timeout_s + _GRACE_S
    closers = [threading.Thread(target=output.close, args=(timeout_s,), daemon=True) for output in outputs]
    for closer in closers:
        closer.start()
    for closer in closers:
        closer.join(max(0.0, ends_at - time.monotonic()))

"""How long the cascades of a pipeline take, so that a frame's detector is run early enough for its cascade."""

from __future__ import annotations

import math
from collections import deque

__all__ = ["CascadeTime"]

_WINDOW = 64
_SHARE = 0.9
_STEP = 1.25


class CascadeTime:
    """The time that nine in ten cascades need, of the latest. Units: nanoseconds."""

    def __init__(self, expected_ns: int) -> None:
        """`expected_ns` is believed until the first cascade."""
        self._predicted_ns = expected_ns
        self._latest: deque[int] = deque(maxlen=_WINDOW)

    @property
    def predicted_ns(self) -> int:
        return self._predicted_ns

    def took(self, took_ns: int) -> None:
        """A cascade was whole after this."""
        self._note(took_ns)

    def fell_short(self, had_ns: int, budget_ns: int) -> None:
        """A cascade had so much of a budget and was not whole by then: it needs more, and nobody knows how much."""
        self._note(min(round(_STEP * max(had_ns, self._predicted_ns)), budget_ns))

    def _note(self, needed_ns: int) -> None:
        self._latest.append(needed_ns)
        self._predicted_ns = sorted(self._latest)[math.ceil(_SHARE * len(self._latest)) - 1]

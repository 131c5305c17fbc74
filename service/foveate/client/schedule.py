"""Frames that are sent when they are due, and what became of each: what load tools are made of."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

from foveate.client.result import Verdict

__all__ = ["Outcome", "ScheduledFrame"]


@dataclass(frozen=True, slots=True, eq=False)
class ScheduledFrame:
    """A frame, and when it is to be sent."""

    due_at: float
    """Seconds on the clock of `time.monotonic`. Its age counts from here: a sender that is late spends the budget."""
    data: bytes
    budget_ms: int = 0
    """0: the stream's."""


class Outcome(NamedTuple):
    """What became of one scheduled frame. Moments are seconds on the clock of `time.monotonic`; 0: never."""

    due_at: float
    sent_at: float
    answered_at: float
    verdict: Verdict
    total_ms: float
    """Received until answered, as the server counts it."""
    infer_ms: float
    decode_ms: float
    batch_size: int
    budget_ms: float

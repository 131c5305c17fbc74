"""What every output offers to whoever has results for it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from foveate.tools.outputs.camera_result import CameraResult

__all__ = ["Output", "OutputCounts"]


@dataclass(frozen=True, slots=True)
class OutputCounts:
    """What became of the results that an output was given; the sum of all is how many it was given."""

    filtered: int = 0
    """Left out, as the output was told to."""
    waiting: int = 0
    """In its queue, or on their way."""
    sent: int = 0
    """Delivered: written, accepted by the server, acknowledged by the broker."""
    dropped: int = 0
    """Pushed out of the full queue by newer ones, or still in it when the output was closed."""
    failed: int = 0
    """Tried, and given up."""

    def __add__(self, other: OutputCounts) -> OutputCounts:
        return OutputCounts(
            self.filtered + other.filtered,
            self.waiting + other.waiting,
            self.sent + other.sent,
            self.dropped + other.dropped,
            self.failed + other.failed,
        )

    @property
    def given(self) -> int:
        """All results that the output was given."""
        return self.filtered + self.waiting + self.sent + self.dropped + self.failed


class Output(Protocol):
    """Somewhere that results go."""

    @property
    def name(self) -> str:
        """Its own among the outputs of a program."""

    @property
    def counts(self) -> OutputCounts:
        """What became of the results so far; a snapshot in which nothing is counted twice or missing."""

    @property
    def trouble(self) -> str:
        """Why it cannot deliver at the moment, without any credentials; empty while all is well."""

    def put(self, result: CameraResult) -> None:
        """Take a result. Returns at once and never raises, from any thread, also after `close`."""

    def close(self, timeout_s: float) -> None:
        """Deliver what waits, for so long at most, and count the rest. Idempotent."""

"""What a lane has done, and how busy its engine is."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field

__all__ = ["Throughput"]

_WINDOW_NS = 5_000_000_000


@dataclass(slots=True)
class Throughput:
    """Counts of runs since the start, and the runs of the last five seconds."""

    batches: int = 0
    frames: int = 0
    _recent: deque[tuple[int, int]] = field(default_factory=deque)

    def count(self, size: int, started_ns: int, ended_ns: int) -> None:
        """Add a run of `size` frames."""
        self.batches += 1
        self.frames += size
        self._recent.append((ended_ns, ended_ns - started_ns))
        self._forget(ended_ns)

    def busy_share(self, now_ns: int) -> float:
        """Of the last five seconds, the share in which the engine ran; 0..1."""
        self._forget(now_ns)
        return min(1.0, sum(took_ns for _, took_ns in self._recent) / _WINDOW_NS)

    def _forget(self, now_ns: int) -> None:
        while self._recent and self._recent[0][0] < now_ns - _WINDOW_NS:
            self._recent.popleft()

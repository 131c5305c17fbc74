"""Frames as cameras send them: never quite on time, sometimes not at all and then many at once."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from random import Random

__all__ = ["Arrival", "Camera", "arrivals"]

_SECOND_NS = 1_000_000_000
_MS_NS = 1_000_000


@dataclass(frozen=True, slots=True)
class Camera:
    """One stream, and how it sends."""

    fps: float = 15.0
    budget_ms: float = 100.0
    priority: int = 0
    weight: float = 1.0
    queue_depth: int | None = None
    """Frames that may wait; None: only the newest."""
    guaranteed_fps: float = 0.0
    excess: float = 1.0
    """How many times its rate it really sends."""
    jitter_ms: float = 2.0
    """Mean delay of a frame on its way; exponentially distributed."""
    stalls_per_minute: float = 1.0
    """Pauses of the network; all that was captured meanwhile arrives together."""
    stall_ms: float = 300.0
    """Mean length of a stall."""
    key_frame_every: int = 30
    """Every so many frames one is large, and late by `key_frame_ms`; 0: none is."""
    key_frame_ms: float = 15.0

    @property
    def sent_fps(self) -> float:
        return self.fps * self.excess


@dataclass(frozen=True, slots=True, eq=False)
class Arrival:
    """One frame as it reaches the service. Units: nanoseconds of the simulation's clock."""

    at_ns: int
    stream: int
    deadline_ns: int
    """Capture plus budget: what the frame lost on its way is gone."""


def arrivals(cameras: Sequence[Camera], seconds: float, seed: int = 0) -> list[Arrival]:
    """The frames of some cameras that arrive within so many seconds, in that order; the same for the same seed."""
    random = Random(seed)
    merged = [arrival for index, camera in enumerate(cameras) for arrival in _sent(index, camera, seconds, random)]
    merged.sort(key=lambda arrival: arrival.at_ns)
    return [arrival for arrival in merged if arrival.at_ns < seconds * _SECOND_NS]


def _sent(index: int, camera: Camera, seconds: float, random: Random) -> Iterator[Arrival]:
    """A camera's frames in capture order; none overtakes the one before it."""
    period_ns = _SECOND_NS / camera.sent_fps
    phase_ns = random.random() * period_ns
    stalled_until_ns = sent_ns = 0.0
    for number in range(int(seconds * camera.sent_fps)):
        captured_ns = phase_ns + number * period_ns
        if random.random() < camera.stalls_per_minute / 60 / camera.sent_fps:
            stalled_until_ns = captured_ns + random.expovariate(1 / camera.stall_ms) * _MS_NS
        delay_ns = random.expovariate(1 / camera.jitter_ms) * _MS_NS if camera.jitter_ms else 0.0
        if camera.key_frame_every and number % camera.key_frame_every == 0:
            delay_ns += camera.key_frame_ms * _MS_NS
        sent_ns = max(sent_ns, captured_ns + delay_ns, stalled_until_ns)
        yield Arrival(int(sent_ns), index, int(captured_ns + camera.budget_ms * _MS_NS))

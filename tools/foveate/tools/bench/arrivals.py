"""When cameras send: frames that jitter, drift, stall and then come in a burst. Pure: a seed gives the same moments."""

from __future__ import annotations

import random
from dataclasses import dataclass

__all__ = ["CameraRhythm", "arrivals"]


@dataclass(frozen=True, slots=True)
class CameraRhythm:
    """How regularly a camera sends. Units: seconds.

    Source: real cameras' clocks drift by some tens of ppm; encoders and Wi-Fi add milliseconds of jitter, and hold
    frames back for a moment now and then, which all come when it is over.
    """

    jitter_s: float = 0.002
    drift: float = 100e-6
    """Largest relative error of the camera's clock."""
    stalls_per_s: float = 0.02
    stall_s: tuple[float, float] = (0.1, 0.4)
    """Shortest and longest stall."""


STEADY = CameraRhythm(jitter_s=0.0, drift=0.0, stalls_per_s=0.0)


def arrivals(fps: float, seconds: float, rng: random.Random, rhythm: CameraRhythm | None = None) -> list[float]:
    """The moments at which one camera sends, ascending, in seconds from the start; None: a metronome's.

    The phase is random, so that cameras of one rate do not send together.
    """
    rhythm = rhythm or STEADY
    period_s = (1 + rng.uniform(-rhythm.drift, rhythm.drift)) / fps
    captured = [rng.uniform(0, period_s)]
    while captured[-1] + period_s < seconds:
        captured.append(captured[-1] + period_s)
    sent = [moment + abs(rng.gauss(0, rhythm.jitter_s)) for moment in captured]
    for start, end in _stalls(seconds, rng, rhythm):
        sent = [end if start <= moment < end else moment for moment in sent]
    return sorted(sent)


def _stalls(seconds: float, rng: random.Random, rhythm: CameraRhythm) -> list[tuple[float, float]]:
    stalls: list[tuple[float, float]] = []
    if rhythm.stalls_per_s <= 0:
        return stalls
    moment = rng.expovariate(rhythm.stalls_per_s)
    while moment < seconds:
        end = moment + rng.uniform(*rhythm.stall_s)
        stalls.append((moment, end))
        moment = end + rng.expovariate(rhythm.stalls_per_s)
    return stalls

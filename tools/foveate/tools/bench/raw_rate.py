"""The rate of an engine alone, in a loop in this process: what a service in front of it can reach at most."""

from __future__ import annotations

import statistics
import time
from dataclasses import asdict, dataclass
from typing import Any

from foveate.engines.contract import Engine, Slot
from foveate.engines.profile import LatencyProfile, measure_profile

__all__ = ["RawRate", "raw_rate"]

_PROFILE_S = 3.0
_LOOP_S = 2.0


@dataclass(frozen=True, slots=True)
class RawRate:
    """An engine alone."""

    fps: float
    """Of the best batch size, run after run."""
    batch: int
    """The best batch size."""
    latency_ms: tuple[tuple[int, float], ...]
    """Median latency by batch size."""

    @property
    def engine_ms(self) -> float:
        """How long a run of the best batch takes: "one engine time"."""
        return dict(self.latency_ms)[self.batch]

    @property
    def single_fps(self) -> float:
        """With one frame a batch."""
        return 1e3 / dict(self.latency_ms)[1]

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def raw_rate(engine: Engine, seconds: float = _LOOP_S) -> RawRate:
    """The best rate of a loaded engine over its batch sizes; the smallest batch wins that comes within 2 % of it."""
    slot = engine.new_slot()
    profile = measure_profile(engine, slot=slot, time_limit_s=_PROFILE_S)
    rates = {batch: batch / max(1, ns) for batch, ns in zip(profile.buckets, profile.median_ns, strict=True)}
    batch = next(batch for batch, rate in rates.items() if rate >= 0.98 * max(rates.values()))
    return RawRate(_loop_fps(engine, slot, batch, seconds), batch, _latency_ms(profile))


def _loop_fps(engine: Engine, slot: Slot, batch: int, seconds: float) -> float:
    """Frames per second of one batch size run after run: the median over tenths of the time, since others run here."""
    rates: list[float] = []
    for _ in range(10):
        runs, started = 0, time.monotonic()
        while (passed := time.monotonic() - started) < seconds / 10 or not runs:
            engine.run(slot, batch)
            runs += 1
        rates.append(runs * batch / passed)
    return statistics.median(rates)


def _latency_ms(profile: LatencyProfile) -> tuple[tuple[int, float], ...]:
    return tuple((batch, round(ns / 1e6, 3)) for batch, ns in zip(profile.buckets, profile.median_ns, strict=True))

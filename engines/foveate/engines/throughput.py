"""How many frames a second an engine can do when nothing else is asked of it."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor

from foveate.engines.contract import Engine, Slot
from foveate.engines.energy_meter import EnergyMeter
from foveate.engines.engine_profile import BatchRate

__all__ = ["measure_rate"]


def measure_rate(
    engine: Engine,
    slots: Sequence[Slot],
    batch: int,
    duration_s: float,
    *,
    energy: EnergyMeter | None = None,
    clock_ns: Callable[[], int] = time.monotonic_ns,
) -> BatchRate:
    """The rate of a loaded engine that runs batches back to back in all these slots, each from a thread of its own.

    Every slot runs at least once, with what its buffers hold. With `energy`, the mean power meanwhile is told too.
    Raises: what `Engine.run` raises.
    """

    def run_until_end(slot: Slot) -> int:
        runs = 0
        while runs == 0 or clock_ns() < end_ns:
            engine.run(slot, batch)
            runs += 1
        return runs

    with ThreadPoolExecutor(len(slots)) as pool:
        joules = energy.joules() if energy else 0.0
        started_ns = clock_ns()
        end_ns = started_ns + round(duration_s * 1e9)
        runs = sum(pool.map(run_until_end, slots))
        seconds = (clock_ns() - started_ns) / 1e9
    watts = (energy.joules() - joules) / seconds if energy else None
    return BatchRate(batch=batch, in_flight=len(slots), frames_per_s=runs * batch / seconds, watts=watts)

"""Everything that can be measured of an engine on the machine where it is to serve."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import suppress
from importlib import import_module

from foveate.engines.contract import Engine, Slot
from foveate.engines.energy_meter import EnergyMeter, energy_meter
from foveate.engines.engine_profile import EngineProfile, RunConditions
from foveate.engines.errors import EngineUnavailable
from foveate.engines.memory_accounting import MemorySteps, device_meters
from foveate.engines.profile import fill_slot, measure_profile
from foveate.engines.throughput import measure_rate

__all__ = ["OnPhase", "profile_engine"]

OnPhase = Callable[[str, int, int], None]
"""Called with what is being measured, its steps done and its steps in all."""

_REPEATS = 300
"""Runs of a batch size, if there is time: enough for a 99th percentile that is not the slowest run."""


def profile_engine(
    engine: Engine,
    backend: str,
    *,
    threads: int | None = None,
    seconds: float = 20.0,
    on_phase: OnPhase | None = None,
    clock_ns: Callable[[], int] = time.monotonic_ns,
) -> EngineProfile:
    """The latency, rate, memory and power of an engine that is not loaded yet. It stays loaded.

    `seconds` are shared by the latencies and the rates; a large engine takes longer, as all is run at least once.
    `threads` as given to `Engine.from_file`.
    Raises: what `Engine.load` and `Engine.run` raise.
    """
    tell = on_phase or (lambda *_: None)
    tell("loading", 0, 1)
    with suppress(ImportError):
        import_module(backend)  # named as the library that runs it, which is not to count as the engine's memory
    steps = MemorySteps(device_meters())
    info = engine.load()
    steps.take()
    slots = _open_slots(engine, steps)
    latency = measure_profile(
        engine,
        slot=slots[0],
        repeats=_REPEATS,
        time_limit_s=seconds / 2,
        on_progress=lambda done, total: tell("latency", done, total),
        clock_ns=clock_ns,
    )
    energy, power = _energy_meter(info.device)
    measured = [batch for batch, was_measured in zip(latency.buckets, latency.measured, strict=True) if was_measured]
    rates = []
    for done, batch in enumerate(measured, 1):  # one that was too slow to measure is too slow for this
        rates.append(measure_rate(engine, slots, batch, seconds / 2 / len(measured), energy=energy, clock_ns=clock_ns))
        tell("rate", done, len(measured))
    return EngineProfile.measured_now(
        RunConditions.of(info, threads), latency, rates=tuple(rates), memory=steps.use(info.device), power=power
    )


def _open_slots(engine: Engine, steps: MemorySteps) -> list[Slot]:
    """As many as may run at once, filled and run, with the memory read after the first and the second."""
    slots: list[Slot] = []
    for index in range(engine.info.max_in_flight):
        slot = engine.new_slot()
        fill_slot(engine, slot)
        engine.run(slot, engine.info.max_batch)
        slots.append(slot)
        if index < 2:
            steps.take()
    return slots


def _energy_meter(device: str) -> tuple[EnergyMeter | None, str]:
    """A meter and what it reads, or none and why."""
    try:
        meter = energy_meter(device)
    except EngineUnavailable as error:
        return None, f"not available: {error}"
    return meter, meter.source

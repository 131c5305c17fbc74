"""An engine measured through its contract alone: latency, rate, power, what overlaps, and whether memory grows."""

from __future__ import annotations

import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from itertools import cycle
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np
from numpy.typing import NDArray

from foveate.engines.build_options import BatchRange, BuildOptions
from foveate.engines.contract import Engine, EngineInfo, RunTimes, Slot
from foveate.engines.engine_store import EngineStore
from foveate.engines.errors import EngineUnavailable, FoveateError
from foveate.engines.memory_accounting import MemoryMeter, ProcessMemory
from foveate.engines.nvml import NvmlGpu
from foveate.engines.profile import batch_buckets, fill_slot
from foveate.engines.profiling import profile_engine
from foveate.engines.registry import engine_class
from foveate.tools.gpu_report.child import Keep
from foveate.tools.gpu_report.shared_pages import shared_pages

__all__ = ["FlightRecord", "measure", "memory_growth", "new_engine", "overlap", "record_flights", "shared_inputs"]

_GRAPH_BACKENDS = ("onnxruntime", "torch")
"""They run the ONNX file itself; the others run a plan that is built from it."""
_TRACED = 24
_CHECKPOINTS = 10


def new_engine(arguments: dict[str, Any], keep: Keep) -> Engine:
    """The engine that the arguments name, not loaded yet; built where its backend compiles."""
    backend, precision, name = arguments["backend"], arguments["precision"], arguments["name"]
    path, max_batch = Path(arguments["path"]), arguments["max_batch"]
    if backend not in _GRAPH_BACKENDS:
        from foveate.engines.build import build_engine  # imports onnx

        started = time.monotonic()
        batch = BatchRange(1, max(1, max_batch // 2), max_batch)
        options = BuildOptions(backend=backend, precision=precision, batch=batch)
        built = build_engine(path, name, options, EngineStore(Path(arguments["work"]) / "engines"))
        keep("build", {"seconds": round(time.monotonic() - started, 3), "bytes": built.record.engine_bytes})
        path = built.path
    return engine_class(backend).from_file(path, name=name, max_batch=max_batch, precision=precision)


def measure(arguments: dict[str, Any], seconds: float, keep: Keep) -> None:
    """Keep an engine's profile, its overlap trace and its memory's growth; one may fail without the others."""
    end = time.monotonic() + seconds
    engine = new_engine(arguments, keep)
    started = time.monotonic()
    given: list[dict[str, NDArray[Any]]] = []  # outlives the engine
    with engine:
        info = engine.info
        keep("load_seconds", round(time.monotonic() - started, 3))
        keep("engine", {"backend": info.backend, "version": info.backend_version, "device": info.device})
        with _kept_failure(keep, "profile"):
            profile = profile_engine(engine, arguments["backend"], seconds=max(1.0, (end - time.monotonic()) * 0.5))
            keep("profile", profile.model_dump(mode="json"))
        slots = [engine.new_slot() for _ in range(info.max_in_flight)]
        with _kept_failure(keep, "overlap"):
            keep("overlap", overlap(engine, slots, max(0.5, (end - time.monotonic()) * 0.5)))
        with _kept_failure(keep, "shared_inputs"):
            given += [_shared_inputs(info) for _ in slots]
            keep("shared_inputs", shared_inputs(engine, given, max(0.3, (end - time.monotonic()) * 0.3)))
        with _kept_failure(keep, "growth"):
            keep("growth", memory_growth(engine, slots[0], max(0.5, (end - time.monotonic()) * 0.8)))


@contextmanager
def _kept_failure(keep: Keep, name: str) -> Iterator[None]:
    try:
        yield
    except FoveateError as error:
        keep(f"{name}_error", f"{type(error).__name__}: {error}")
    except Exception:  # noqa: BLE001  # the outer edge of one measurement: the others are still worth taking
        keep(f"{name}_error", traceback.format_exc()[-2000:])


@dataclass(frozen=True, slots=True)
class FlightRecord:
    """One batch: in which slot, from when to when on the host's clock, and what the device said about it."""

    slot: int
    started_ns: int
    ended_ns: int
    times: RunTimes


def record_flights(
    engine: Engine,
    slots: Sequence[Slot],
    batch: int,
    seconds: float,
    clock_ns: Callable[[], int] = time.monotonic_ns,
    fill: Callable[[int], object] | None = None,
) -> list[FlightRecord]:
    """Batches back to back in all these slots, a thread for each, in the order in which they began.

    `fill` is called before each run, and counted to it, with the slot's place in `slots`.
    """
    end_ns = clock_ns() + round(seconds * 1e9)

    def fly(place: int, slot: Slot) -> list[FlightRecord]:
        records: list[FlightRecord] = []
        while len(records) < 2 or clock_ns() < end_ns:
            started_ns = clock_ns()
            if fill:
                fill(place)
            times = engine.run(slot, batch)
            records.append(FlightRecord(slot.index, started_ns, clock_ns(), times))
        return records

    with ThreadPoolExecutor(len(slots)) as pool:
        flown = list(pool.map(fly, range(len(slots)), slots))
    return sorted((each for records in flown for each in records), key=lambda each: each.started_ns)


def overlap(engine: Engine, slots: Sequence[Slot], seconds: float) -> list[dict[str, Any]]:
    """For batches small and large: one slot alone, then all that may be in flight, and what the copies cost then."""
    for slot in slots:
        fill_slot(engine, slot)
    largest = engine.info.max_batch
    batches = sorted({1, max(1, largest // 4), largest})
    share = seconds / (2 * len(batches))
    results = []
    for batch in batches:
        alone = record_flights(engine, slots[:1], batch, share)
        together = record_flights(engine, slots, batch, share)
        results.append(_overlap_figures(batch, len(slots), alone, together))
    return results


def shared_inputs(engine: Engine, given: Sequence[dict[str, NDArray[Any]]], seconds: float) -> dict[str, Any]:
    """The largest batch from memory that other processes write to, as the lanes of an engine process have it.

    Where the engine does not read from there itself, the time includes copying it to where the engine does.
    """
    slots = [engine.new_slot(each) for each in given]
    for slot, rows in zip(slots, given, strict=True):
        fill_slot(engine, slot)
        for name in rows:
            rows[name][:] = slot.inputs[name]
    in_place = all(slot.inputs[name] is rows[name] for slot, rows in zip(slots, given, strict=True) for name in rows)

    def fill(place: int) -> None:
        for name, rows in given[place].items():
            slots[place].inputs[name][:] = rows

    batch, how = engine.info.max_batch, None if in_place else fill
    alone = record_flights(engine, slots[:1], batch, seconds / 2, fill=how)
    together = record_flights(engine, slots, batch, seconds / 2, fill=how)
    return {"in_place": in_place, **_overlap_figures(batch, len(slots), alone, together)}


def _shared_inputs(info: EngineInfo) -> dict[str, NDArray[Any]]:
    return {spec.name: shared_pages((info.max_batch, *spec.shape), spec.dtype) for spec in info.inputs}


def _overlap_figures(
    batch: int, in_flight: int, alone: Sequence[FlightRecord], together: Sequence[FlightRecord]
) -> dict[str, Any]:
    parts = {
        part: fmean(getattr(each.times, f"{part}_ns") for each in alone) for part in ("copy_in", "infer", "copy_out")
    }
    single, period = _period_ns(alone), _period_ns(together)
    beside = single - parts["infer"]
    hidden = None if beside <= 0 or in_flight == 1 else min(1.0, max(0.0, (single - period) / beside))
    first = together[0].started_ns
    return {
        "batch": batch,
        "in_flight": in_flight,
        "mean_us": {part: round(value / 1e3, 1) for part, value in parts.items()},
        "bare_loop_frames_per_s": round(batch / single * 1e9, 1),
        "in_flight_frames_per_s": round(batch / period * 1e9, 1),
        "gain": round(single / period, 4),
        "device_frames_per_s": round(batch / parts["infer"] * 1e9, 1) if parts["infer"] else None,
        "hidden_share": None if hidden is None else round(hidden, 4),
        "latency_us": _latencies(together),
        "trace_us": [
            {
                "slot": each.slot,
                "from": (each.started_ns - first) // 1000,
                "to": (each.ended_ns - first) // 1000,
                "copy_in": each.times.copy_in_ns // 1000,
                "infer": each.times.infer_ns // 1000,
                "copy_out": each.times.copy_out_ns // 1000,
            }
            for each in together[:_TRACED]
        ],
    }


def _period_ns(records: Sequence[FlightRecord]) -> float:
    """The time from one batch to the next."""
    return (max(each.ended_ns for each in records) - records[0].started_ns) / len(records)


def _latencies(records: Sequence[FlightRecord]) -> dict[str, float]:
    waited = [(each.ended_ns - each.started_ns) / 1e3 for each in records]
    return {f"p{rank}": round(float(np.percentile(waited, rank)), 1) for rank in (50, 99)}


def memory_growth(engine: Engine, slot: Slot, seconds: float) -> dict[str, Any]:
    """Memory of the process, and of the GPU where NVML tells, read again and again over many batches of all sizes."""
    meters: dict[str, MemoryMeter] = {"process": ProcessMemory()}
    if engine.info.device != "cpu":
        with suppress(EngineUnavailable):
            meters["gpu"] = NvmlGpu(0)
    sizes = cycle(batch_buckets(engine.info.max_batch))
    for batch in batch_buckets(engine.info.max_batch):
        engine.run(slot, batch)
    readings: dict[str, list[int]] = {name: [meter.used_bytes()] for name, meter in meters.items()}
    batches = 0
    for _ in range(_CHECKPOINTS):
        end = time.monotonic() + seconds / _CHECKPOINTS
        while True:
            engine.run(slot, next(sizes))
            batches += 1
            if time.monotonic() >= end:
                break
        for name, meter in meters.items():
            readings[name].append(meter.used_bytes())
    return {
        "batches": batches,
        "readings_bytes": readings,
        "grown_bytes": {name: values[-1] - values[0] for name, values in readings.items()},
    }

"""What is measured of an engine, with fake engines, clocks and meters: no figure here is a real one."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from foveate.engines import EngineStore, FakeEngine, RunFailed, Slot
from foveate.engines import profiling as profiling_module
from foveate.engines.engine_choice import ChosenEngine
from foveate.engines.engine_profile import EngineProfile, RunConditions
from foveate.engines.engine_record import MemoryPlan
from foveate.engines.errors import EngineUnavailable
from foveate.engines.memory_accounting import MemoryMeter, MemorySteps, ProcessMemory, planned_memory
from foveate.engines.profiling import profile_engine
from foveate.engines.serving_latency import serving_latency
from foveate.engines.throughput import measure_rate
from support.engine_records import SOURCE_SHA256, engine_profile, engine_record, run_conditions
from support.models import TINY_DETECTOR

SHORT_S = 0.01


class Clock:
    """Nanoseconds that pass only in runs."""

    def __init__(self) -> None:
        self.now_ns = 0
        self.lock = threading.Lock()

    def __call__(self) -> int:
        return self.now_ns

    def pass_in_runs(self, run_ns: int) -> Any:
        def fail_when(slot: Slot, batch: int) -> None:
            with self.lock:
                self.now_ns += run_ns

        return fail_when


class CountingMeter:
    """Ten joules at each reading."""

    source = "a counter"

    def __init__(self) -> None:
        self.readings = 0

    def joules(self) -> float:
        self.readings += 1
        return 10.0 * self.readings


def test_the_rate_is_what_ran_over_the_time_that_it_took() -> None:
    clock = Clock()
    with FakeEngine(max_batch=4, fail_when=clock.pass_in_runs(100_000_000)) as engine:
        rate = measure_rate(engine, [engine.new_slot()], 4, 0.95, clock_ns=clock)
    assert (rate.batch, rate.in_flight, rate.watts, rate.joules_per_frame) == (4, 1, None, None)
    assert rate.frames_per_s == pytest.approx(40.0), "ten runs of a tenth of a second, the last one beyond the limit"


def test_every_slot_runs_at_the_same_time_and_at_least_once() -> None:
    running = threading.Barrier(3)

    def meet(slot: Slot, batch: int) -> None:
        running.wait(10)

    with FakeEngine(max_in_flight=3, fail_when=meet) as engine:
        rate = measure_rate(engine, [engine.new_slot() for _ in range(3)], 1, 0.0)
    assert rate.in_flight == 3
    assert rate.frames_per_s > 0


def test_power_is_energy_over_the_same_time() -> None:
    clock = Clock()
    with FakeEngine(fail_when=clock.pass_in_runs(500_000_000)) as engine:
        rate = measure_rate(engine, [engine.new_slot()], 8, 2.0, energy=CountingMeter(), clock_ns=clock)
    assert rate.watts == pytest.approx(5.0)
    assert rate.joules_per_frame == pytest.approx(10 / 32)


def test_a_run_that_fails_ends_the_measurement() -> None:
    with FakeEngine(fail_when=lambda slot, batch: RuntimeError("broken")) as engine, pytest.raises(RunFailed):
        measure_rate(engine, [engine.new_slot()], 1, SHORT_S)


def test_a_profile_tells_all_that_can_be_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(profiling_module, "energy_meter", lambda device: CountingMeter())
    phases: list[tuple[str, int, int]] = []
    clock = Clock()
    engine = FakeEngine(max_batch=4, max_in_flight=3, fail_when=clock.pass_in_runs(1_000_000))
    profile = profile_engine(engine, "fake", seconds=1.0, on_phase=lambda *phase: phases.append(phase), clock_ns=clock)
    engine.close()
    assert profile.conditions == RunConditions.of(FakeEngine(max_batch=4).load(), None)
    assert (profile.latency.buckets, profile.latency.latency_ns(1)) == ((1, 2, 4), 1_000_000)
    assert [(rate.batch, rate.in_flight) for rate in profile.rates] == [(1, 3), (2, 3), (4, 3)]
    assert all(rate.watts for rate in profile.rates)
    assert profile.power == "a counter"
    assert profile.memory is not None
    assert profile.memory.next_slot_bytes is not None, "there is more than one slot"
    assert profile.best_rate == max(profile.rates, key=lambda rate: rate.frames_per_s)
    assert EngineProfile.model_validate_json(profile.model_dump_json()) == profile
    assert phases[0] == ("loading", 0, 1)
    assert phases[-1] == ("rate", 3, 3)


def test_slots_are_measured_with_random_pixels(monkeypatch: pytest.MonkeyPatch) -> None:
    spread: list[float] = []

    def look(slot: Slot, batch: int) -> None:
        spread.append(float(np.ptp(slot.inputs["pixels"][:batch])))

    monkeypatch.setattr(profiling_module, "energy_meter", _no_meter)
    engine = FakeEngine(max_batch=1, max_in_flight=2, fail_when=look)
    profile = profile_engine(engine, "fake", seconds=SHORT_S)
    engine.close()
    assert min(spread) > 200
    assert profile.power == "not available: nothing measures cpu"
    assert profile.rates[0].watts is None


def _no_meter(device: str) -> CountingMeter:
    raise EngineUnavailable(f"nothing measures {device}")


class ListedMemory:
    source = "a list"

    def __init__(self, *readings: int) -> None:
        self._readings = iter(readings)

    def used_bytes(self) -> int:
        return next(self._readings)


def test_memory_is_told_step_by_step_and_of_the_engines_device() -> None:
    meters: dict[str, MemoryMeter] = {"cpu": ListedMemory(0, 1, 2, 3), "cuda:0": ListedMemory(100, 150, 180, 170)}
    steps = MemorySteps(meters)
    steps.take()
    steps.take()
    alone = steps.use("cpu")
    assert alone is not None
    assert (alone.load_bytes, alone.first_slot_bytes, alone.next_slot_bytes, alone.total_bytes) == (1, 1, None, 2)
    steps.take()
    use = steps.use("cuda:0")
    assert use is not None
    assert (use.load_bytes, use.first_slot_bytes, use.next_slot_bytes) == (50, 30, 0), "given back by something else"
    assert use.total_bytes == 80
    assert steps.use("cuda:1") is None


def test_the_process_grows_by_what_it_touches() -> None:
    meter = ProcessMemory()
    before = meter.used_bytes()
    block = np.ones(64 << 20, np.uint8)
    assert block[-1] == 1
    assert meter.used_bytes() - before > 32 << 20


def test_the_plan_is_the_sidecars_or_the_graphs(tmp_path: Path) -> None:
    record = engine_record(b"a plan")
    path = TINY_DETECTOR.save(tmp_path)
    info = FakeEngine(max_batch=2).load()
    built = ChosenEngine(path, record.key, "tensorrt", "fp16", 2, record)
    assert planned_memory(built, info) == record.memory
    plain = planned_memory(ChosenEngine(path, SOURCE_SHA256, "onnxruntime", "fp32", 2), info)
    assert plain == MemoryPlan(
        weights_bytes=plain.weights_bytes, activation_bytes=None, slot_bytes=2 * (32 * 32 * 3 + 4)
    )


def test_a_start_measures_once_and_then_knows(tmp_path: Path) -> None:
    store = EngineStore(tmp_path)
    runs: list[int] = []
    for start in range(2):
        with FakeEngine(max_batch=4, fail_when=lambda slot, batch: runs.append(batch)) as engine:
            latency = serving_latency(engine, SOURCE_SHA256, store, time_limit_s=SHORT_S)
        (kept,) = store.profiles(SOURCE_SHA256)
        assert kept.latency == latency
        if start == 0:
            runs.clear()
    assert runs == [1, 2, 4], "only the first run of each batch size, which allocates"


def test_a_longer_measurement_is_used_at_the_start(tmp_path: Path) -> None:
    store = EngineStore(tmp_path)
    with FakeEngine(max_batch=2) as engine:
        known = engine_profile(RunConditions.of(engine.info, 3), buckets=(1, 2, 4), median_ms=7)
        store.add_profile(SOURCE_SHA256, known)
        store.add_profile(SOURCE_SHA256, engine_profile(run_conditions(), buckets=(1, 2, 4), median_ms=9))
        assert serving_latency(engine, SOURCE_SHA256, store, threads=3, time_limit_s=SHORT_S) == known.latency


def test_a_store_that_cannot_be_written_keeps_nothing_from_serving(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "file").write_text("where the store's folder should be")
    with FakeEngine(max_batch=2) as engine:
        latency = serving_latency(engine, SOURCE_SHA256, EngineStore(tmp_path / "file"), time_limit_s=SHORT_S)
    assert latency.buckets == (1, 2)
    assert "the next start measures it again" in caplog.text

"""TensorRT on a GPU, from compiling a plan to running it. What a library makes of a GPU that it was not made for is
told in the reason for which the tests skip."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray

from foveate.engines import (
    BatchRange,
    BuildOptions,
    EngineError,
    EngineStore,
    EngineUnavailable,
    Slot,
    check_engine,
)
from foveate.engines.build import build_engine
from foveate.engines.cuda import Device
from foveate.engines.cuda.device import LAYERS
from foveate.engines.engine_profile import EngineProfile
from foveate.engines.profiling import profile_engine
from foveate.engines.tensorrt_builder import TensorRtBuilder
from foveate.engines.tensorrt_engine import TensorRtEngine, TensorRtRtxEngine
from foveate.tools.gpu_report.shared_pages import shared_pages
from support.models import COLOUR_MEAN, Rows
from support.networks import small_classifier
from support.shared_models import shared_model

ENGINES = {"tensorrt_rtx": TensorRtRtxEngine, "tensorrt": TensorRtEngine}
RTX_GPUS = ("sm_75", "sm_80", "sm_86", "sm_89", "sm_120", "sm_121")
"""What TensorRT for RTX 1.7 names. Whether it runs on others is what the tests' reason for skipping tells."""
MAX_BATCH = 8
BATCHES = int(os.environ.get("FOVEATE_GPU_BATCHES", "2000"))
"""Of the test for growth; 100000 take some minutes."""

MakeEngine = Callable[..., TensorRtEngine]


@pytest.fixture(autouse=True)
def capability() -> str:
    try:
        device = Device.open()
    except EngineUnavailable as error:
        pytest.skip(str(error))
    with device.current():
        found = device.compute_capability
    device.close()
    return found


@pytest.fixture(params=ENGINES)
def backend(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def tiny(backend: str, tmp_path: Path, capability: str) -> MakeEngine:
    """Engines of a model whose answers are known. TensorRT for RTX compiles it for no compute capability by name."""
    return _engines(backend, onnx.load(COLOUR_MEAN.save(tmp_path)), tmp_path, capability)


@pytest.fixture
def real(backend: str, tmp_path: Path, capability: str) -> MakeEngine:
    """Engines of a network that keeps a GPU busy."""
    return _engines(backend, onnx.load(shared_model("efficientnet_lite0.onnx")), tmp_path, capability)


def _engines(backend: str, model: onnx.ModelProto, folder: Path, capability: str) -> MakeEngine:
    """Engines that can be loaded here; skips, saying at which step it ends, where they cannot."""
    path = folder / "engine.plan"
    try:
        builder = TensorRtBuilder(backend)
    except EngineUnavailable as error:
        pytest.skip(str(error))
    try:
        options = BuildOptions(backend=backend, batch=BatchRange(1, MAX_BATCH, MAX_BATCH))
        path.write_bytes(builder.compile(model, options).content)
    except EngineError as error:
        pytest.skip(f"{backend} compiles no plan on {capability}: {error}")

    def make(**settings: Any) -> TensorRtEngine:
        defaults: dict[str, Any] = {"name": "gpu", "max_batch": MAX_BATCH}
        return ENGINES[backend](path, **(defaults | settings))

    try:
        with make() as engine:
            engine.run(engine.new_slot(), 1)
    except EngineError as error:
        if backend != "tensorrt_rtx" or capability in RTX_GPUS:
            raise
        pytest.skip(f"{backend} {builder.version} does not run its default plan on {capability}: {error}")
    return make


def test_answers_are_right(tiny: MakeEngine) -> None:
    with tiny() as engine:
        slot = engine.new_slot()

        def run(rows: Rows) -> Rows:
            count = len(next(iter(rows.values())))
            for name, values in rows.items():
                slot.inputs[name][:count] = values
            engine.run(slot, count)
            return {name: values[:count].copy() for name, values in slot.outputs.items()}

        for rows in range(1, MAX_BATCH + 1):
            COLOUR_MEAN.check(run, rows=rows)


@pytest.mark.parametrize("layer", LAYERS)
@pytest.mark.parametrize("graphs", [True, False])
@pytest.mark.timeout(300)
def test_conformance(tiny: MakeEngine, layer: str, graphs: bool) -> None:
    try:
        Device.open(layer=layer).close()
    except EngineUnavailable as error:
        pytest.skip(str(error))
    check_engine(lambda: tiny(layer=layer, graphs=graphs, max_in_flight=3))


@pytest.mark.timeout(300)
def test_memory_is_as_planned(real: MakeEngine) -> None:
    with real() as engine:
        engine.new_slot()
        memory = engine.memory
    assert memory.weights_bytes > 0
    assert memory.taken_bytes >= 0.5 * memory.planned_bytes


@pytest.mark.timeout(300)
@pytest.mark.parametrize("shared", [False, True], ids=["own memory", "shared memory"])
def test_copies_overlap_runs(real: MakeEngine, shared: bool) -> None:
    """Between the device's own marks: each batch is on the device before the run of the one ahead is over."""
    given: list[dict[str, NDArray[Any]] | None] = [_shared_inputs(real) if shared else None for _ in range(3)]
    with real(graphs=False, max_in_flight=3) as engine:
        slots = [engine._device_slots[engine.new_slot(each).index] for each in given]
        with engine._on_device():
            for slot in slots:
                slot.copy_in(MAX_BATCH)
                slot.infer(MAX_BATCH, engine._context, engine._compute)
                slot.copy_out(MAX_BATCH)
            for slot in slots:
                slot.wait()
            # `ns_since` is never negative, so 0 says that the copy ended before.
            assert [after._copied_in.ns_since(ahead._inferred) for ahead, after in pairwise(slots)] == [0, 0]


@pytest.mark.timeout(300)
def test_shared_memory_is_read_where_it_lies(real: MakeEngine) -> None:
    given = _shared_inputs(real)
    for rows in given.values():
        rows[:] = np.random.default_rng(0).integers(0, 256, rows.shape)
    with real() as engine:
        own, over = engine.new_slot(), engine.new_slot(given)
        for name, rows in given.items():
            assert over.inputs[name] is rows, "this system does not let its memory be registered; the log says why"
            own.inputs[name][:] = rows
        for slot in (own, over):
            engine.run(slot, MAX_BATCH)
        for name, rows in own.outputs.items():
            np.testing.assert_array_equal(over.outputs[name], rows)
    for rows in given.values():
        rows[:] = 0  # it is its owner's as before


def _shared_inputs(make: MakeEngine) -> dict[str, NDArray[Any]]:
    with make() as engine:
        specs = engine.info.inputs
    return {spec.name: shared_pages((MAX_BATCH, *spec.shape), spec.dtype) for spec in specs}


@pytest.mark.timeout(600)
def test_profiles_are_kept_by_precision(backend: str, tiny: MakeEngine, tmp_path: Path) -> None:
    """`tiny` only to skip where no plan of this backend runs."""
    path, store = tmp_path / "small.onnx", EngineStore(tmp_path / "engines")
    onnx.save(small_classifier(), path)
    found: dict[str, tuple[str, EngineProfile]] = {}
    for precision in ("fp32", "fp16"):
        options = BuildOptions(backend=backend, precision=precision, batch=BatchRange(1, MAX_BATCH, MAX_BATCH))
        built = build_engine(path, "small", options, store)
        with ENGINES[backend].from_built(built) as engine:
            profile = profile_engine(engine, backend, seconds=2.0)
        store.add_profile(built.key, profile)
        found[precision] = built.key, profile
    for precision, (key, profile) in found.items():
        assert profile.conditions.precision == precision
        assert store.find_profile(key, profile.conditions, MAX_BATCH) == profile
    assert store.find_profile(found["fp32"][0], found["fp16"][1].conditions, MAX_BATCH) is None


@pytest.mark.timeout(300)
def test_lanes_keep_the_rate_of_the_bare_engine(real: MakeEngine) -> None:
    """Two threads that copy, run and wait, against runs that are enqueued one after the other and nothing else."""
    count = 200
    with real(max_in_flight=2) as engine:
        slots = [engine.new_slot() for _ in range(2)]
        rates = [(_bare_rate(engine, count), _lane_rate(engine, slots, count)) for _ in range(3)]
    assert max(lanes / bare for bare, lanes in rates) >= 0.97, rates


def _bare_rate(engine: TensorRtEngine, count: int) -> float:
    slot = engine._device_slots[0]
    with engine._on_device():
        engine._compute.synchronize()
        started = time.monotonic()
        for _ in range(count):
            slot.infer(MAX_BATCH, engine._context, engine._compute)
        engine._compute.synchronize()
    return count / (time.monotonic() - started)


def _lane_rate(engine: TensorRtEngine, slots: list[Slot], count: int) -> float:
    def work(slot: Slot) -> None:
        for _ in range(count // len(slots)):
            engine.run(slot, MAX_BATCH)

    started = time.monotonic()
    with ThreadPoolExecutor(len(slots)) as pool:
        list(pool.map(work, slots))
    return count / (time.monotonic() - started)


@pytest.mark.timeout(1800)
def test_nothing_grows(tiny: MakeEngine) -> None:
    rng = np.random.default_rng(0)
    with tiny() as engine:
        slot = engine.new_slot()
        for _ in range(200):
            engine.run(slot, int(rng.integers(1, MAX_BATCH + 1)))
        taken, resident = engine.memory.taken_bytes, _resident_bytes()
        for _ in range(BATCHES):
            engine.run(slot, int(rng.integers(1, MAX_BATCH + 1)))
        assert engine.memory.taken_bytes <= taken + (2 << 20)
        assert _resident_bytes() <= resident + (8 << 20)


def _resident_bytes() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


@pytest.mark.timeout(300)
def test_loading_again_and_again_leaves_nothing(tiny: MakeEngine) -> None:
    free = []
    for _ in range(5):
        with tiny() as engine:
            engine.run(engine.new_slot(), 1)
        device = Device.open()
        with device.current():
            free.append(device.memory_info()[0])
        device.close()
    assert min(free[1:]) >= free[0] - (8 << 20)

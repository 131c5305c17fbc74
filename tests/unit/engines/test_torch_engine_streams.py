"""In which order the torch engine asks a GPU for copies and computing, seen on a stand-in that writes it down."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="PyTorch is not installed")

from foveate.engines import (  # noqa: E402
    DeviceLost,
    DeviceOutOfMemory,
    EngineInfo,
    EngineUnavailable,
    RunTimes,
    Slot,
    TensorSpec,
)
from foveate.engines.cuda import Device  # noqa: E402
from foveate.engines.torch_runtime import CudaRunner, cuda, open_program  # noqa: E402
from foveate.tools.gpu_report.shared_pages import shared_pages  # noqa: E402
from support.fake_cuda import FakeCuda  # noqa: E402
from support.models import COLOUR_MEAN  # noqa: E402

CPU = torch.device("cpu")


class FakeGpu:
    """torch.cuda with tensors on the CPU: all is done at once, and written down by the stream that it was asked of."""

    def __init__(self) -> None:
        self.log: list[tuple[str, str]] = []
        self.streams: list[FakeStream] = []
        self.current = "default"
        self.events = 0

    def note(self, what: str, stream: str | None = None) -> None:
        self.log.append((stream or self.current, what))

    def new_stream(self, _device: Any) -> FakeStream:
        self.streams.append(FakeStream(self, f"stream {len(self.streams)}"))
        return self.streams[-1]

    def new_event(self, **settings: Any) -> FakeEvent:
        assert settings == {"enable_timing": True, "blocking": True}
        self.events += 1
        return FakeEvent(self, self.events)

    def new_graph(self) -> FakeGraph:
        return FakeGraph(self)

    @contextmanager
    def on(self, stream: FakeStream) -> Iterator[None]:
        before, self.current = self.current, stream.name
        yield
        self.current = before

    @contextmanager
    def capturing(self, graph: FakeGraph, **settings: Any) -> Iterator[None]:
        graph.settings = settings
        with self.on(settings["stream"]):
            self.note("capture")
            yield

    def copy(self, pairs: Any) -> None:
        self.note("copy")
        for target, source in pairs:
            target.copy_(source)


class FakeStream:
    def __init__(self, gpu: FakeGpu, name: str) -> None:
        self.gpu, self.name = gpu, name

    def wait_event(self, event: FakeEvent) -> None:
        assert event.recorded, "a stream waits for an event that nobody recorded"
        self.gpu.note(f"wait {event.number}", self.name)

    def wait_stream(self, _other: Any) -> None:
        self.gpu.note("wait for another", self.name)

    def synchronize(self) -> None:
        self.gpu.note("host waits", self.name)


class FakeEvent:
    def __init__(self, gpu: FakeGpu, number: int) -> None:
        self.gpu, self.number, self.recorded = gpu, number, False

    def record(self, stream: FakeStream) -> None:
        self.recorded = True
        self.gpu.note(f"event {self.number}", stream.name)

    def synchronize(self) -> None:
        self.gpu.note(f"host waits for {self.number}", "host")

    def elapsed_time(self, end: FakeEvent) -> float:
        return float(end.number - self.number)


class FakeGraph:
    def __init__(self, gpu: FakeGpu) -> None:
        self.gpu = gpu
        self.settings: dict[str, Any] = {}
        self.replayed = 0
        self.work: Any = None

    def replay(self) -> None:
        self.replayed += 1
        self.gpu.note("replay")

    def reset(self) -> None:
        self.gpu.note("reset")


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> FakeGpu:
    fake = FakeGpu()
    replacements = {
        "Stream": fake.new_stream,
        "Event": fake.new_event,
        "CUDAGraph": fake.new_graph,
        "graph": fake.capturing,
        "stream": fake.on,
        "current_stream": lambda _: None,
        "graph_pool_handle": lambda: "pool",
        "synchronize": lambda _: fake.note("host waits for all", "host"),
    }
    for name, replacement in replacements.items():
        monkeypatch.setattr(torch.cuda, name, replacement)
    monkeypatch.setattr(cuda, "_copy", fake.copy)

    def plain(info: EngineInfo, spec: TensorSpec) -> Any:
        return torch.from_numpy(np.zeros((info.max_batch, *spec.shape), spec.dtype))

    monkeypatch.setattr(cuda, "_pinned", plain)
    return fake


@pytest.fixture
def runner(gpu: FakeGpu, tmp_path: Path) -> CudaRunner:
    program = open_program(COLOUR_MEAN.save(tmp_path), CPU, "fp32", 2)
    info = EngineInfo("mean", "torch", "2", "fp32", "cuda:0", program.inputs, program.outputs, 2, 3)
    return CudaRunner(program, info, CPU)


def test_a_batch_is_copied_computed_and_copied_back_in_order(gpu: FakeGpu, runner: CudaRunner) -> None:
    runner.new_slot(0)
    gpu.log.clear()
    times = runner.run(0, 2)
    compute, own = "stream 0", "stream 1"
    assert gpu.log == [
        (own, "event 1"),
        (own, "copy"),
        (own, "event 2"),
        (compute, "wait 2"),
        (compute, "event 3"),
        (compute, "replay"),
        (compute, "event 4"),
        (own, "wait 4"),
        (own, "copy"),
        (own, "event 5"),
        ("host", "host waits for 5"),
    ]
    assert times == RunTimes(1_000_000, 1_000_000, 1_000_000)  # of events that are 1 ms apart


def test_slots_share_the_stream_that_computes_and_nothing_else(gpu: FakeGpu, runner: CudaRunner) -> None:
    slots = [runner.new_slot(index) for index in range(3)]
    gpu.log.clear()
    for index in range(3):
        runner.run(index, 1)
    copying = [stream for stream, what in gpu.log if what == "copy"]
    assert copying == ["stream 1", "stream 1", "stream 2", "stream 2", "stream 3", "stream 3"]
    assert {stream for stream, what in gpu.log if what == "replay"} == {"stream 0"}
    buffers = [slot.inputs["pixels"] for slot in slots]
    assert not any(np.may_share_memory(buffers[0], other) for other in buffers[1:])


def test_every_batch_size_is_captured_once_after_warm_runs(gpu: FakeGpu, runner: CudaRunner) -> None:
    runner.new_slot(0)
    captures = [place for place, (_, what) in enumerate(gpu.log) if what == "capture"]
    assert len(captures) == 2
    assert all(gpu.log[place - 1] == ("stream 0", "host waits") for place in captures)
    flight = runner._flights[0]
    assert [graph.settings["pool"] for graph in flight.graphs] == ["pool", "pool"]
    assert {graph.settings["capture_error_mode"] for graph in flight.graphs} == {"thread_local"}
    gpu.log.clear()
    for _ in range(3):
        runner.run(0, 2)
    assert [graph.replayed for graph in flight.graphs] == [0, 3]
    assert not any(what == "capture" for _, what in gpu.log)


def test_what_is_captured_reads_and_writes_the_slots_own_device_buffers(gpu: FakeGpu, runner: CudaRunner) -> None:
    """The stand-in's graph does nothing when replayed; what was captured is run by hand."""
    slot: Slot = runner.new_slot(0)
    slot.inputs["pixels"][:] = 9
    runner.run(0, 2)
    flight = runner._flights[0]
    (device_pixels, _), (_, device_mean) = flight.copies_in[1][0], flight.copies_out[1][0]
    assert device_pixels.eq(9).all()
    (mean,) = runner._bound[1]([device_pixels])
    device_mean.copy_(mean)
    runner.run(0, 2)
    np.testing.assert_array_equal(slot.outputs["mean"], np.full((2, 3), 9, np.float32))


def test_settings_of_the_process_are_put_back_after_a_capture(gpu: FakeGpu, runner: CudaRunner) -> None:
    before = (torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.benchmark, torch.backends.cudnn.allow_tf32)
    runner.new_slot(0)
    after = (torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.benchmark, torch.backends.cudnn.allow_tf32)
    assert after == before


@pytest.mark.parametrize(
    ("failure", "raised"),
    [
        (RuntimeError("CUDA error: an illegal memory access was encountered"), DeviceLost),
        (torch.OutOfMemoryError("tried to allocate 2 GiB"), DeviceOutOfMemory),
        (RuntimeError("sizes do not match"), RuntimeError),
    ],
    ids=["device lost", "out of memory", "anything else"],
)
def test_errors_of_the_device_are_told_from_those_of_a_batch(
    failure: Exception, raised: type[Exception], runner: CudaRunner, monkeypatch: pytest.MonkeyPatch
) -> None:
    runner.new_slot(0)

    def fail() -> None:
        raise failure

    monkeypatch.setattr(runner._flights[0].graphs[0], "replay", fail)
    with pytest.raises(raised, match=str(failure)):
        runner.run(0, 1)
    runner.run(0, 2)  # the lock is free again


@pytest.fixture
def driver(monkeypatch: pytest.MonkeyPatch) -> FakeCuda:
    """The driver under torch, as far as it page-locks memory."""
    made = FakeCuda()
    monkeypatch.setattr(Device, "open", made.open)
    return made


def test_shared_memory_is_copied_from_where_it_lies(driver: FakeCuda, runner: CudaRunner) -> None:
    shared = [{spec.name: shared_pages((2, *spec.shape), spec.dtype) for spec in runner._info.inputs} for _ in range(2)]
    slots = [runner.new_slot(index, given) for index, given in enumerate(shared)]
    for slot, given in zip(slots, shared, strict=True):
        for name, rows in given.items():
            assert slot.inputs[name] is rows
            rows[:] = np.random.default_rng(slot.index).integers(0, 256, rows.shape)
    own = runner.new_slot(2)
    for slot in slots:
        for name, rows in slot.inputs.items():
            own.inputs[name][:] = rows
        for each in (slot, own):
            runner.run(each.index, 2)
        for name, rows in own.outputs.items():
            np.testing.assert_array_equal(slot.outputs[name], rows)
    assert driver.leaks == ["registered memory"] * 2
    runner.close()
    assert driver.leaks == []
    assert driver.closed


@pytest.mark.parametrize("reason", ["the system's limit", "no bindings"])
def test_memory_that_cannot_be_page_locked_is_copied_once_more(
    driver: FakeCuda,
    runner: CudaRunner,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    reason: str,
) -> None:
    def missing(index: int) -> Any:
        raise EngineUnavailable("no bindings")

    driver.fail("host_register", 800)
    if reason == "no bindings":
        monkeypatch.setattr(Device, "open", missing)
    given = {spec.name: shared_pages((2, *spec.shape), spec.dtype) for spec in runner._info.inputs}
    slot = runner.new_slot(0, given)
    for name, rows in given.items():
        assert not np.may_share_memory(slot.inputs[name], rows)
    assert "copied once more on the host" in caplog.text
    assert driver.leaks == []


def test_a_slot_that_cannot_be_made_gives_memory_back(
    driver: FakeCuda, runner: CudaRunner, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: Any) -> Any:
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(runner, "_captured", full)
    given = {spec.name: shared_pages((2, *spec.shape), spec.dtype) for spec in runner._info.inputs}
    with pytest.raises(DeviceOutOfMemory):
        runner.new_slot(0, given)
    assert driver.leaks == []


def test_closing_on_a_lost_device_ends_well(gpu: FakeGpu, runner: CudaRunner, monkeypatch: pytest.MonkeyPatch) -> None:
    def lost(_device: Any) -> None:
        raise RuntimeError("CUDA error: an illegal memory access was encountered")

    runner.new_slot(0)
    monkeypatch.setattr(torch.cuda, "synchronize", lost)
    runner.close()
    assert runner._flights == []


def test_close_waits_for_the_gpu_before_graphs_are_given_up(gpu: FakeGpu, runner: CudaRunner) -> None:
    runner.new_slot(0)
    gpu.log.clear()
    runner.close()
    assert [what for _, what in gpu.log] == ["host waits for all", "reset", "reset"]
    assert runner._flights == []

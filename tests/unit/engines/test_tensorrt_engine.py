"""The TensorRT engine on a stand-in for CUDA that finds missing waits, early frees and undefined use."""

from __future__ import annotations

import gc
import sys
import threading
import types
import weakref
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from foveate.engines import (
    BuiltEngine,
    ConfigError,
    DeviceError,
    DeviceLost,
    DeviceOutOfMemory,
    EncodedRow,
    EngineError,
    EngineUnavailable,
    PlanMismatch,
    RunFailed,
    Slot,
    check_engine,
    tensorrt_engine,
)
from foveate.engines.cuda import Device, jpeg_decoder
from foveate.engines.cuda.picture_pool import GpuPicture
from foveate.engines.cuda.pictures import DevicePicture, PictureLayout
from foveate.engines.engine_record import MemoryPlan
from foveate.engines.tensorrt_engine import TensorRtEngine, TensorRtRtxEngine
from foveate.engines.tensorrt_library import tensorrt_library
from foveate.tools.gpu_report.shared_pages import shared_pages
from support import fake_tensorrt_runtime
from support.cpu_codec import CpuCodec, OneCubin
from support.engine_records import engine_record
from support.fake_cuda import FakeCuda
from support.fake_tensorrt_runtime import FakeRuntimeLibrary, plan_bytes

ILLEGAL_ADDRESS = 700
INVALID_VALUE = 1


class Rig:
    """An engine's surroundings, all of them fakes."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch, *, rtx: bool = False) -> None:
        self.cuda = FakeCuda()
        self.library = FakeRuntimeLibrary(self.cuda, rtx=rtx, version="1.7.1.116" if rtx else "11.4.0.106")
        self.path = folder / "engine.plan"
        self.path.write_bytes(plan_bytes())
        self.kind = TensorRtRtxEngine if rtx else TensorRtEngine
        monkeypatch.setattr(Device, "open", lambda index, *, layer: self.cuda.open(index))
        monkeypatch.setattr(tensorrt_engine, "tensorrt_library", lambda backend: self.library)

    def engine(self, **settings: Any) -> TensorRtEngine:
        defaults: dict[str, Any] = {"name": "tiny", "max_batch": 4}
        return self.kind(self.path, **(defaults | settings))

    def assert_nothing_left(self) -> None:
        if self.library.alive or self.cuda.leaks:
            gc.collect()  # an error's traceback may be a cycle
        assert self.cuda.leaks == []
        assert self.cuda.staged == [], "every copy is asynchronous"
        assert self.library.alive == []


@pytest.fixture
def rig(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Rig:
    return Rig(tmp_path, monkeypatch)


@pytest.fixture
def rtx(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Rig:
    return Rig(tmp_path, monkeypatch, rtx=True)


@pytest.fixture
def slot_of(rig: Rig) -> Iterator[tuple[TensorRtEngine, Slot]]:
    with rig.engine() as engine:
        yield engine, engine.new_slot()


def fill(slot: Slot, seed: int = 0) -> None:
    pixels = slot.inputs["pixels"]
    pixels[:] = np.random.default_rng(seed).integers(0, 256, pixels.shape, np.uint8)


@pytest.mark.parametrize("graphs", [True, False])
@pytest.mark.parametrize("in_flight", [1, 2, 3])
def test_conformance(rig: Rig, graphs: bool, in_flight: int) -> None:
    check_engine(lambda: rig.engine(graphs=graphs, max_in_flight=in_flight))
    rig.assert_nothing_left()


def test_conformance_rtx(rtx: Rig) -> None:
    check_engine(rtx.engine)
    rtx.assert_nothing_left()


def test_conformance_of_several_inputs(rig: Rig) -> None:
    tensors = (("pixels", "uint8", (2, 3)), ("sizes_f", "float32", (2,)))
    rig.path.write_bytes(plan_bytes(inputs=tensors))
    check_engine(rig.engine)


def test_conformance_of_an_earlier_version(rig: Rig) -> None:
    rig.library.has_configs = False
    check_engine(rig.engine)
    rig.assert_nothing_left()


def test_info(rig: Rig) -> None:
    with rig.engine(precision="fp16", max_batch=3) as engine:
        info = engine.info
    assert (info.backend, info.backend_version, info.precision, info.device) == (
        "tensorrt",
        "11.4.0.106",
        "fp16",
        "cuda:0",
    )
    assert (info.max_batch, info.max_in_flight) == (3, 2)
    assert [(spec.name, spec.dtype, spec.shape) for spec in info.inputs] == [("pixels", np.dtype(np.uint8), (4, 4, 3))]
    assert [spec.name for spec in info.outputs] == ["scores", "boxes"]


def test_only_the_rows_of_the_batch_are_copied(rig: Rig, slot_of: tuple[TensorRtEngine, Slot]) -> None:
    engine, slot = slot_of
    rig.cuda.log.clear()
    engine.run(slot, 2)
    copies = {work.what: work for work in rig.cuda.log if work.what.startswith("copy")}
    start, end = copies["copy to device"].reads[0]
    assert end - start == 2 * 48
    assert sum(
        end - start for work in rig.cuda.log if work.what == "copy to host" for start, end in work.reads
    ) == 2 * (20 + 16)


def test_times_are_those_of_the_device(rig: Rig, slot_of: tuple[TensorRtEngine, Slot]) -> None:
    engine, slot = slot_of
    times = engine.run(slot, 4)
    assert times.copy_in_ns >= 4 * 48
    assert times.infer_ns >= 4 * rig.library.cost_ns
    assert times.copy_out_ns >= 4 * 36


def test_copies_overlap_the_run_of_the_batch_before(rig: Rig) -> None:
    with rig.engine(max_in_flight=2) as engine:
        slots = [engine.new_slot() for _ in range(2)]
        rig.library.cost_ns = 1_000_000
        first, second = (engine._device_slots[slot.index] for slot in slots)
        rig.cuda.log.clear()
        with engine._on_device():
            for each in (first, second):
                each.copy_in(4)
                each.infer(4, engine._context, engine._compute)
                each.copy_out(4)
            first.wait()
            second.wait()
    runs = [work for work in rig.cuda.log if work.what.startswith("a run")]
    ins = [work for work in rig.cuda.log if work.what == "copy to device"]
    outs = [work for work in rig.cuda.log if work.what == "copy to host"]
    assert ins[1].ends_ns < runs[0].ends_ns, "the second batch is copied in while the first one runs"
    assert outs[0].starts_ns < runs[1].ends_ns, "the first one's answers are copied out while the second one runs"
    assert runs[0].ends_ns <= runs[1].starts_ns, "runs follow one another: they share the context's memory"


def test_a_run_allocates_nothing(rig: Rig, slot_of: tuple[TensorRtEngine, Slot]) -> None:
    engine, slot = slot_of
    before = dict(rig.cuda.live)
    rig.cuda.calls.clear()
    for batch in (1, 2, 3, 4, 1):
        engine.run(slot, batch)
    assert rig.cuda.live == before
    assert not [name for name in rig.cuda.calls if "alloc" in name or "create" in name or "capture" in name]


def test_a_run_waits_once_and_asleep(rig: Rig, slot_of: tuple[TensorRtEngine, Slot]) -> None:
    engine, slot = slot_of
    rig.cuda.calls.clear()
    engine.run(slot, 4)
    waits = {name: count for name, count in rig.cuda.calls.items() if name.endswith("synchronize")}
    assert waits == {"event_synchronize": 1}


# Graphs.


def test_graphs_run_where_launching_costs_time(rig: Rig) -> None:
    with rig.engine() as engine:
        slots = [engine.new_slot() for _ in range(2)]
        rig.library.runs.clear()
        rig.cuda.calls.clear()
        for slot in slots:
            for batch in range(1, 5):
                engine.run(slot, batch)
        assert rig.library.runs == []
        assert rig.cuda.calls["graph_launch"] == 8


def test_graphs_end_with_the_first_size_that_gains_nothing(rig: Rig) -> None:
    rig.library.cost_ns, rig.library.launch_ns = 1_000_000, 50_000  # 5 % of batch 1, 2.5 of 2, 1.7 of 3
    with rig.engine() as engine:
        slots = [engine.new_slot() for _ in range(2)]
        rig.library.runs.clear()
        for slot in slots:
            for batch in range(1, 5):
                fill(slot, batch)
                engine.run(slot, batch)
        assert rig.library.runs == [(3, False), (4, False)] * 2


def test_graphs_give_what_the_plain_run_gives(rig: Rig) -> None:
    answers = []
    for graphs in (True, False):
        with rig.engine(graphs=graphs) as engine:
            slot = engine.new_slot()
            fill(slot)
            engine.run(slot, 3)
            answers.append({name: rows[:3].copy() for name, rows in slot.outputs.items()})
    for name, rows in answers[0].items():
        np.testing.assert_array_equal(rows, answers[1][name])


@pytest.mark.parametrize("refusal", ["capturable", "refuses_capture"])
def test_what_cannot_be_captured_is_enqueued(rtx: Rig, refusal: str) -> None:
    setattr(rtx.library, refusal, refusal == "refuses_capture")
    check_engine(rtx.engine)
    assert not rtx.cuda.calls["graph_launch"]
    rtx.assert_nothing_left()


def test_every_size_has_run_before_the_first_frame(rig: Rig) -> None:
    with rig.engine(graphs=False) as engine:
        engine.new_slot()
        assert rig.library.runs == [(batch, False) for batch in (1, 2, 3, 4)]
        engine.new_slot()
        assert len(rig.library.runs) == 4, "what is compiled for one slot serves the others"


# Inputs in memory that other processes write to.


def test_shared_memory_is_copied_from_where_it_lies(rig: Rig) -> None:
    pixels = shared_pages((4, 4, 4, 3), np.uint8)
    with rig.engine() as engine:
        slot = engine.new_slot({"pixels": pixels})
        assert slot.inputs["pixels"] is pixels
        fill(slot)
        engine.run(slot, 4)
        rig.cuda.log.clear()
        engine.run(slot, 2)
        (copy,) = [work for work in rig.cuda.log if work.what == "copy to device"]
        assert copy.reads == [(pixels.ctypes.data, pixels.ctypes.data + 2 * 48)]
        assert "registered memory" in rig.cuda.live.values()
        assert engine.memory.pinned_bytes == 4 * (48 + 20 + 16)
        before = pixels.copy()
    rig.assert_nothing_left()
    np.testing.assert_array_equal(pixels, before, "it is its owner's as before")


@pytest.mark.parametrize("code", [1, 2, 712, 800, 801])
def test_memory_that_cannot_be_page_locked_is_copied_once_more(
    rig: Rig, caplog: pytest.LogCaptureFixture, code: int
) -> None:
    pixels = shared_pages((4, 4, 4, 3), np.uint8)
    with rig.engine() as engine:
        rig.cuda.fail("host_register", code)
        slot = engine.new_slot({"pixels": pixels})
        assert not np.may_share_memory(slot.inputs["pixels"], pixels)
        assert (
            f"slot 0 has 'pixels' copied once more on the host, as its memory cannot be page-locked: host_register "
            f"failed with a failure of the test's ({code})" in caplog.text
        )
        engine.run(slot, 4)
    rig.assert_nothing_left()


def test_a_device_that_is_lost_takes_no_memory(rig: Rig) -> None:
    engine = rig.engine()
    engine.load()
    rig.cuda.fail("host_register", ILLEGAL_ADDRESS)
    with pytest.raises(DeviceLost):
        engine.new_slot({"pixels": shared_pages((4, 4, 4, 3), np.uint8)})
    engine.close()


# Pixels that are on the device already.


def test_rows_written_on_the_device_are_not_copied(rig: Rig, slot_of: tuple[TensorRtEngine, Slot]) -> None:
    engine, slot = slot_of
    fill(slot)
    engine.run(slot, 4)
    expected = slot.outputs["scores"][:4].copy()
    row, rows = slot.inputs["pixels"][1].copy(), slot.device_inputs["pixels"]
    slot.inputs["pixels"][1] = 0  # the host's row is not the one that counts
    with engine._device.current():
        decoder, ready = engine._device.new_stream(), engine._device.new_event()
        pinned = engine._device.new_pinned((48,), np.uint8)
        pinned.array[:] = row.ravel()
        decoder.copy_to_device(rows.address + 1 * rows.row_bytes, pinned.array)
        ready.record(decoder)
    rows.written(1, ready.address)
    rig.cuda.log.clear()
    engine.run(slot, 4)
    np.testing.assert_array_equal(slot.outputs["scores"][:4], expected)
    spans = [work.reads[0] for work in rig.cuda.log if work.what == "copy to device"]
    assert [end - start for start, end in spans] == [48, 2 * 48]
    engine.run(slot, 4)
    assert not np.array_equal(slot.outputs["scores"][1], expected[1]), "it holds for one run"
    with engine._device.current():
        for each in (ready, decoder, pinned):
            each.close()


def test_a_run_that_fails_forgets_the_devices_rows(rig: Rig, slot_of: tuple[TensorRtEngine, Slot]) -> None:
    engine, slot = slot_of
    slot.device_inputs["pixels"].written(0, 10**9)  # no event: waiting for it would be a Hazard
    rig.cuda.fail("event_record", INVALID_VALUE)
    with pytest.raises(RunFailed):
        engine.run(slot, 2)
    engine.run(slot, 2)


def test_a_row_that_is_not_there_is_refused(slot_of: tuple[TensorRtEngine, Slot]) -> None:
    with pytest.raises(EngineError, match="rows 0 to 3, not 4"):
        slot_of[1].device_inputs["pixels"].written(4, 0)


# JPEGs that are decoded on the device.


@pytest.fixture
def codec(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> CpuCodec:
    made = CpuCodec(rig.cuda)
    monkeypatch.setattr(jpeg_decoder, "image_codec", lambda: made)
    monkeypatch.setattr(tensorrt_engine, "KernelCache", OneCubin)
    return made


def jpeg_row(row: int, data: bytes | None = None) -> EncodedRow:
    picture = cv2.imencode(".jpg", np.full((8, 8, 3), 90, np.uint8))[1].tobytes()
    return EncodedRow(picture if data is None else data, row, (0, 0, 8, 8), (0, 0, 4, 4))


def test_encoded_rows_are_placed_and_the_hosts_not_copied(rig: Rig, codec: CpuCodec) -> None:
    with rig.engine() as engine:
        slot = engine.new_slot()
        assert engine.open_decoder()
        assert engine.open_decoder()
        assert engine.place_encoded(slot, [jpeg_row(2), jpeg_row(1, b""), jpeg_row(0)]) == [True, False, True]
        rows, kernels = slot.device_inputs["pixels"], [w.what for w in rig.cuda.log if w.what.startswith("kernel")]
        addresses = [int(np.frombuffer(bytes.fromhex(each.split()[-1])[16:24], np.uint64)[0]) for each in kernels]
        assert addresses == [rows.address + 2 * rows.row_bytes, rows.address]
        rig.cuda.log.clear()
        engine.run(slot, 4)
        spans = [work.reads[0] for work in rig.cuda.log if work.what == "copy to device"]
        assert [(start - slot.inputs["pixels"].ctypes.data) // 48 for start, _ in spans] == [1, 3]
    rig.assert_nothing_left()


@pytest.mark.parametrize("last", [[], [3]])
def test_only_what_was_placed_last_is_the_devices(rig: Rig, codec: CpuCodec, last: list[int]) -> None:
    with rig.engine() as engine:
        slot = engine.new_slot()
        engine.open_decoder()
        engine.place_encoded(slot, [jpeg_row(0), jpeg_row(1)])
        assert engine.place_encoded(slot, [jpeg_row(row) for row in last]) == [True] * len(last)
        rig.cuda.log.clear()
        engine.run(slot, 4)
        copied = [end - start for work in rig.cuda.log if work.what == "copy to device" for start, end in work.reads]
        assert copied == [(4 - len(last)) * 48]


@pytest.mark.parametrize("missing", ["codec", "kernels", "device"])
def test_without_a_decoder_an_engine_takes_no_pictures(
    rig: Rig, codec: CpuCodec, monkeypatch: pytest.MonkeyPatch, missing: str
) -> None:
    def fail(*_: Any, **__: Any) -> Any:
        raise RuntimeError("could not create decoder") if missing == "device" else EngineUnavailable("not installed")

    where, name = {
        "codec": (jpeg_decoder, "image_codec"),
        "kernels": (OneCubin, "cubin"),
        "device": (codec, "Decoder"),
    }[missing]
    monkeypatch.setattr(where, name, fail)
    with rig.engine() as engine:
        assert not engine.open_decoder()
        assert engine.place_encoded(engine.new_slot(), [jpeg_row(0)]) == [False]
        engine.close_decoder()
    rig.assert_nothing_left()


def test_an_engine_whose_input_is_no_picture_takes_none(rig: Rig, codec: CpuCodec) -> None:
    rig.path.write_bytes(plan_bytes(inputs=(("pixels", "float32", (4, 4, 3)),)))
    with rig.engine() as engine:
        assert not engine.open_decoder()


def test_a_closed_decoder_leaves_nothing(rig: Rig, codec: CpuCodec) -> None:
    with rig.engine() as engine:
        engine.new_slot()
        before = sorted(rig.cuda.live.values())
        engine.open_decoder()
        engine.close_decoder()
        engine.close_decoder()
        assert sorted(rig.cuda.live.values()) == before
        assert engine.open_decoder(), "it can be opened again"


def test_a_fault_of_the_decoder_is_one_of_the_engines(rig: Rig, codec: CpuCodec) -> None:
    def fault(*_: Any, **__: Any) -> Any:
        raise RuntimeError("nvJPEG: internal error")

    with rig.engine() as engine:
        slot = engine.new_slot()
        engine.open_decoder()
        codec.decode = fault  # type: ignore[method-assign]
        with pytest.raises(RunFailed, match="the decoder of tiny on cuda:0: nvJPEG: internal error"):
            engine.place_encoded(slot, [jpeg_row(0)])
        engine.run(slot, 4)


def test_a_batch_that_fails_while_it_is_decoded_leaves_nothing_under_way(rig: Rig, codec: CpuCodec) -> None:
    """Its kernels write rows to which the next run copies the host's."""
    with rig.engine() as engine:
        slot = engine.new_slot()
        engine.open_decoder()
        for call in ("event_record", "event_synchronize"):
            rig.cuda.fail(call, INVALID_VALUE)
            with pytest.raises(DeviceError):
                engine.place_encoded(slot, [jpeg_row(0), jpeg_row(2)])
            assert all(work.done for work in rig.cuda.log)
            rig.cuda.log.clear()
            engine.run(slot, 4)
            copied = [end - start for w in rig.cuda.log if w.what == "copy to device" for start, end in w.reads]
            assert copied == [4 * 48], "no row is the device's"
    rig.assert_nothing_left()


def test_a_device_lost_behind_a_fault_of_the_decoder_is_seen(rig: Rig, codec: CpuCodec) -> None:
    def fault(*_: Any, **__: Any) -> Any:
        rig.cuda.fail("synchronize", ILLEGAL_ADDRESS)
        raise RuntimeError("nvJPEG: internal error")

    with rig.engine() as engine:
        slot = engine.new_slot()
        engine.open_decoder()
        codec.decode = fault  # type: ignore[method-assign]
        with pytest.raises(DeviceLost):
            engine.place_encoded(slot, [jpeg_row(0)])
        with pytest.raises(DeviceLost):
            engine.run(slot, 1)


def test_what_a_decoder_has_placed_goes_with_it(rig: Rig, codec: CpuCodec) -> None:
    """A run would wait for an event that is no more."""
    with rig.engine() as engine:
        slot = engine.new_slot()
        engine.open_decoder()
        assert engine.place_encoded(slot, [jpeg_row(0)]) == [True]
        engine.close_decoder()
        rig.cuda.log.clear()
        engine.run(slot, 2)
        assert [work.reads[0] for work in rig.cuda.log if work.what == "copy to device"] == [
            (slot.inputs["pixels"].ctypes.data, slot.inputs["pixels"].ctypes.data + 2 * 48)
        ]
        assert engine.place_encoded(slot, [jpeg_row(0)]) == [False]


def test_an_engine_that_is_closed_while_pictures_wait_decodes_none_of_them(rig: Rig, codec: CpuCodec) -> None:
    """Closing waits for whoever decodes, and who comes after it is told."""
    engine = rig.engine()
    engine.load()
    slot = engine.new_slot()
    engine.open_decoder()
    under_way, go_on, told = threading.Event(), threading.Event(), []
    decode = codec.decode

    def slow(*arguments: Any, **wishes: Any) -> Any:
        under_way.set()
        assert go_on.wait(20)
        return decode(*arguments, **wishes)

    codec.decode = slow  # type: ignore[method-assign]
    placing = threading.Thread(target=lambda: told.append(engine._place_encoded_impl(slot, [jpeg_row(0)])))
    placing.start()
    assert under_way.wait(20)
    closing = threading.Thread(target=engine.close)
    closing.start()
    go_on.set()
    placing.join(20)
    closing.join(20)
    assert told == [[True]]
    with pytest.raises(EngineError, match="is closed"):
        engine._place_encoded_impl(slot, [jpeg_row(0)])
    rig.assert_nothing_left()


def test_a_device_without_room_for_a_decoder_decodes_none(rig: Rig, codec: CpuCodec) -> None:
    with rig.engine() as engine:
        rig.cuda.fail("module_load", 2)
        assert not engine.open_decoder()
    rig.assert_nothing_left()


# Failures.


def calls_until_ready(rig: Rig) -> int:
    with rig.engine(max_batch=2) as engine:
        engine.new_slot({"pixels": shared_pages((2, 4, 4, 3), np.uint8)})
        return rig.cuda.call_count


@pytest.mark.parametrize("backend", ["rig", "rtx"])
def test_a_failure_at_any_call_leaves_nothing(backend: str, request: pytest.FixtureRequest) -> None:
    rig: Rig = request.getfixturevalue(backend)
    for call in range(1, calls_until_ready(rig) + 1):
        engine = rig.engine(max_batch=2)
        rig.cuda.fail(call, INVALID_VALUE)
        try:
            engine.load()
            engine.new_slot({"pixels": shared_pages((2, 4, 4, 3), np.uint8)})
        except DeviceError:
            pass
        finally:
            engine.close()
        rig.assert_nothing_left()


@pytest.mark.parametrize(
    "refusal", ["create_execution_context", "set_input_shape", "set_tensor_address", "execute_async_v3"]
)
def test_a_refusal_of_the_library_leaves_nothing(rig: Rig, refusal: str) -> None:
    rig.library.refuse.add(refusal)
    engine = rig.engine()
    with pytest.raises(EngineError):
        _ = engine.load(), engine.new_slot()
    engine.close()
    rig.assert_nothing_left()


def test_a_library_that_is_not_there(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tensorrt_engine, "tensorrt_library", tensorrt_library)
    monkeypatch.setitem(sys.modules, "tensorrt", None)
    with pytest.raises(EngineUnavailable, match=r"foveate\[gpu\]"):
        rig.engine().load()
    rig.assert_nothing_left()
    assert rig.cuda.closed


def test_a_library_that_does_not_start(rig: Rig) -> None:
    rig.library.refuse.add("Runtime")
    with pytest.raises(EngineUnavailable, match=r"tensorrt 11.4.0.106 could not start here: the driver is too old"):
        rig.engine().load()
    rig.assert_nothing_left()


def run_calls(rig: Rig, engine: TensorRtEngine, slot: Slot) -> list[str]:
    rig.cuda.calls.clear()
    engine.run(slot, 2)
    return list(rig.cuda.calls)


def test_a_failed_run_leaves_the_engine_fit(rig: Rig, slot_of: tuple[TensorRtEngine, Slot]) -> None:
    engine, slot = slot_of
    fill(slot)
    engine.run(slot, 2)
    expected = slot.outputs["scores"][:2].copy()
    for name in run_calls(rig, engine, slot):
        if name == "leave":  # after the answers
            continue
        rig.cuda.fail(name, INVALID_VALUE)
        with pytest.raises((RunFailed, DeviceError), match="slot 0"):
            engine.run(slot, 2)
        slot.outputs["scores"][:] = 0
        engine.run(slot, 2)
        np.testing.assert_array_equal(slot.outputs["scores"][:2], expected)


def test_a_refused_run_says_why(rig: Rig) -> None:
    with rig.engine(graphs=False) as engine:
        slot = engine.new_slot()
        rig.library.refuse.add("execute_async_v3")
        with pytest.raises(RunFailed, match=r"tiny on cuda:0, slot 0: TensorRT refused the run"):
            engine.run(slot, 1)
        rig.library.refuse.clear()
        engine.run(slot, 1)


def test_a_lost_device_stays_lost(rig: Rig) -> None:
    engine = rig.engine()
    engine.load()
    slots = [engine.new_slot() for _ in range(2)]
    rig.cuda.fail("event_synchronize", ILLEGAL_ADDRESS)
    with pytest.raises(DeviceLost, match=r"slot 0.*restart it"):
        engine.run(slots[0], 1)
    count = rig.cuda.call_count
    with pytest.raises(DeviceLost, match=r"slot 1.*lost before"):
        engine.run(slots[1], 1)
    with pytest.raises(DeviceLost):
        engine.new_slot()
    assert rig.cuda.call_count == count, "nothing more is asked of it"
    engine.close()


def test_a_device_lost_behind_a_refusal_is_seen(rig: Rig) -> None:
    with rig.engine(graphs=False) as engine:
        slot = engine.new_slot()
        rig.library.refuse.add("execute_async_v3")
        rig.cuda.fail("synchronize", ILLEGAL_ADDRESS)
        with pytest.raises(DeviceLost):
            engine.run(slot, 1)


# Files that do not fit.


def test_no_such_file(rig: Rig) -> None:
    rig.path.unlink()
    with pytest.raises(EngineError, match="build it, or correct the path"):
        rig.engine().load()
    rig.assert_nothing_left()


@pytest.mark.parametrize(
    ("plan", "says"),
    [
        (b"an onnx file", "magic tag.*foveate build"),
        (plan_bytes(batches=(1, 2)), "takes batches of 1 to 2, batches of 1 to 4"),
        (plan_bytes(batches=(2, 8)), "takes batches of 2 to 8"),
        (plan_bytes(inputs=(("pixels", "uint8", (0, 1, 4, 4, 3)),)), "dynamic batch"),
        (plan_bytes(outputs=(("scores", "float32", (-1, 5)),)), "otherwise fixed sizes"),
        (plan_bytes(inputs=(("sizes", "int32", (2,)),)), "read on the host"),
        (plan_bytes(outputs=(("scores", "bfloat16", (5,)),)), "no element type of NumPy"),
    ],
)
def test_plans_that_do_not_fit(rig: Rig, plan: bytes, says: str) -> None:
    rig.path.write_bytes(plan)
    with pytest.raises(PlanMismatch, match=says):
        rig.engine().load()
    rig.assert_nothing_left()


def test_rtx_is_asked_for_validity_first(rtx: Rig) -> None:
    rtx.path.write_bytes(b"nothing that could be deserialised")
    rtx.library.validity = (2, 2)
    with pytest.raises(PlanMismatch, match=r"tensorrt_rtx 1.7.1.116 cannot run .* here \(UNSUPPORTED_CC\)"):
        rtx.engine().load()
    rtx.assert_nothing_left()


def test_a_suboptimal_plan_runs(rtx: Rig, caplog: pytest.LogCaptureFixture) -> None:
    rtx.library.validity = (1, 0)
    with rtx.engine():
        assert "not the best" in caplog.text


# Engines of the store.


def built(rig: Rig, **changes: Any) -> BuiltEngine:
    fields = {"backend": rig.kind.backend, "library_version": rig.library.__version__, "precision": "int8"}
    return BuiltEngine(rig.path, engine_record(rig.path.read_bytes(), **(fields | changes)))


def test_from_built(rig: Rig) -> None:
    rig.path.write_bytes(plan_bytes(batches=(1, 8)))
    with TensorRtEngine.from_built(built(rig)) as engine:
        assert (engine.info.name, engine.info.precision, engine.info.max_batch) == ("tiny", "int8", 8)
    with TensorRtEngine.from_built(built(rig), max_batch=2, max_in_flight=3) as engine:
        assert (engine.info.max_batch, engine.info.max_in_flight) == (2, 3)


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"library_version": "10.9.0"}, "built by version 10.9.0"),
        ({"compute_capabilities": ("sm_90",)}, "compute capability sm_90, here is sm_89"),
    ],
)
def test_the_sidecar_is_read_before_the_plan(rig: Rig, changes: dict[str, Any], says: str) -> None:
    engine = TensorRtEngine.from_built(built(rig, **changes))
    rig.path.unlink()
    with pytest.raises(PlanMismatch, match=says):
        engine.load()
    rig.assert_nothing_left()


def test_a_sidecar_of_another_backend(rig: Rig) -> None:
    with pytest.raises(ConfigError, match="is for tensorrt, not for tensorrt_rtx"):
        TensorRtRtxEngine.from_built(built(rig))


def test_what_cannot_fit_is_not_begun(rig: Rig) -> None:
    memory = MemoryPlan(weights_bytes=FakeCuda.TOTAL, activation_bytes=1, slot_bytes=1)
    engine = TensorRtEngine.from_built(built(rig, memory=memory))
    with pytest.raises(DeviceOutOfMemory, match=r"needs 1024 MiB of GPU memory, 1024 of 1024 MiB are free"):
        engine.load()
    rig.assert_nothing_left()


def test_memory_is_accounted_for(rig: Rig) -> None:
    with rig.engine() as engine:
        for _ in range(2):
            engine.new_slot()
        memory = engine.memory
    slot = 4 * (48 + 20 + 16)
    assert memory.planned_bytes == rig.library.WEIGHTS + rig.library.CONTEXT + 2 * slot
    assert memory.pinned_bytes == memory.slot_bytes == 2 * slot
    assert memory.taken_bytes >= memory.planned_bytes


# What RTX compiles on the GPU.


def test_compiled_kernels_are_kept_beside_the_plan(rtx: Rig) -> None:
    for _ in range(2):
        with rtx.engine() as engine:
            engine.new_slot()
    kept = rtx.path.with_name("engine.sm_89.1.7.1.116.kernels")
    assert rtx.library.caches == [b"compiled"]
    assert kept.read_bytes() == b"half of it"


def test_stale_kernels_are_compiled_anew(rtx: Rig) -> None:
    kept = rtx.path.with_name("engine.sm_89.1.7.1.116.kernels")
    kept.write_bytes(b"stale")
    with rtx.engine() as engine:
        engine.new_slot()
    assert kept.read_bytes() == b"compiled"


# The stand-in and the real library.


def test_the_stand_in_has_no_name_that_the_library_lacks() -> None:
    trt = pytest.importorskip("tensorrt_rtx")
    kinds = {
        "Runtime": fake_tensorrt_runtime._RtxRuntime,
        "ICudaEngine": fake_tensorrt_runtime._ConfiguredEngine,
        "IExecutionContext": fake_tensorrt_runtime._RtxContext,
        "IRuntimeConfig": fake_tensorrt_runtime._RtxConfig,
        "IRuntimeCache": fake_tensorrt_runtime._Cache,
    }
    for name, kind in kinds.items():
        used = {each for base in kind.__mro__[:-1] for each in vars(base) if not each.startswith("_")}
        # What a stand-in keeps for the test to see is no call of the library's.
        assert used - {"strategy"} <= set(dir(getattr(trt, name))), name
    for name, value in vars(FakeRuntimeLibrary).items():
        if isinstance(value, types.SimpleNamespace):
            members = getattr(value, "__members__", vars(value))
            assert set(members) <= set(getattr(trt, name).__members__), name


# Settings, and this machine.


@pytest.mark.parametrize("setting", ["max_batch", "max_in_flight"])
def test_settings_out_of_range(rig: Rig, setting: str) -> None:
    with pytest.raises(ConfigError, match=f"{setting} must be at least 1, not 0"):
        rig.engine(**{setting: 0})


def test_a_machine_without_a_driver_is_told_so_at_once(tmp_path: Path) -> None:
    pytest.importorskip("tensorrt_rtx")
    if Path("/proc/driver/nvidia").exists():
        pytest.skip("this machine has an NVIDIA driver")
    engine = TensorRtRtxEngine.from_file(tmp_path / "engine.plan", name="tiny", max_batch=1)
    with pytest.raises(EngineUnavailable, match=r"no NVIDIA driver here.*onnxruntime"):
        engine.load()
    engine.close()


# Pictures that a video decoder has made on the device.


def held_picture(rig: Rig, grey: int) -> GpuPicture:
    """8 x 8 pixels of NV12, as a decoder leaves them."""
    luma = np.full(64, round(16 + grey * 219 / 255), np.uint8)
    address = rig.cuda.take(96)
    rig.cuda.write(address, luma.tobytes() + bytes([128] * 32))
    picture = GpuPicture(DevicePicture(PictureLayout.NV12, 8, 8, address, 8, address + 64))
    weakref.finalize(picture, rig.cuda.take_back, address)
    return picture


@pytest.mark.parametrize("jpegs", [False, True])
def test_pictures_of_the_device_are_placed_beside_jpegs_and_the_hosts_rows(
    rig: Rig, codec: CpuCodec, jpegs: bool
) -> None:
    with rig.engine() as engine:
        slot = engine.new_slot()
        assert engine.open_placer()
        if jpegs:
            assert engine.open_decoder()
        asked = [EncodedRow(held_picture(rig, 200), 3, (0, 0, 8, 8), (0, 0, 4, 4)), jpeg_row(1)]
        assert engine.place_encoded(slot, asked) == [True, jpegs]
        rows = slot.device_inputs["pixels"]
        assert np.abs(rig.cuda.read(rows.address + 3 * rows.row_bytes, 48).astype(int) - 200).max() <= 1
        if jpegs:
            assert np.abs(rig.cuda.read(rows.address + rows.row_bytes, 48).astype(int) - 90).max() <= 2
        del asked  # its memory may go: the row has been written
        rig.cuda.log.clear()
        engine.run(slot, 4)
        copied = [end - start for work in rig.cuda.log if work.what == "copy to device" for start, end in work.reads]
        assert sum(copied) == (4 - 1 - jpegs) * 48
    rig.assert_nothing_left()


def test_pictures_are_still_placed_where_jpegs_turn_out_to_be_the_cpus(rig: Rig, codec: CpuCodec) -> None:
    with rig.engine() as engine:
        slot = engine.new_slot()
        assert engine.open_placer()
        assert engine.open_decoder()
        engine.close_decoder()
        asked = [jpeg_row(0), EncodedRow(held_picture(rig, 40), 1, (0, 0, 8, 8), (0, 0, 4, 4))]
        assert engine.place_encoded(slot, asked) == [False, True]
        del asked
    rig.assert_nothing_left()


def test_an_engine_whose_input_is_no_picture_takes_none_of_the_device(rig: Rig, codec: CpuCodec) -> None:
    rig.path.write_bytes(plan_bytes(inputs=(("pixels", "float32", (4, 4, 3)),)))
    with rig.engine() as engine:
        assert not engine.open_placer()

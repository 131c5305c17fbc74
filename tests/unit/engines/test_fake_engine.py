"""The fake engine: answers that name their frame, latency, failures and the gate."""

from __future__ import annotations

import threading
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from foveate.engines import (
    EngineError,
    FakeEngine,
    Gate,
    PlanMismatch,
    RunFailed,
    Slot,
    TensorSpec,
    check_engine,
)

BOXES = TensorSpec("boxes", np.dtype(np.float32), (5, 4))
LABEL = TensorSpec("label", np.dtype(np.int64), ())


def test_conforms() -> None:
    check_engine(FakeEngine)


def test_conforms_with_many_outputs_and_slots_in_flight() -> None:
    check_engine(lambda: FakeEngine(outputs=(BOXES, LABEL), max_batch=5, max_in_flight=3))


def test_conforms_for_a_batch_of_one() -> None:
    check_engine(lambda: FakeEngine(max_batch=1))


def test_every_element_is_the_mean_pixel_of_its_row() -> None:
    with FakeEngine(outputs=(BOXES, LABEL), max_batch=3) as engine:
        slot = engine.new_slot()
        slot.inputs["pixels"][:] = np.array([10, 20, 30], np.uint8).reshape(3, 1, 1, 1)
        engine.run(slot, 3)
    assert [np.unique(row).tolist() for row in slot.outputs["boxes"]] == [[10], [20], [30]]
    assert slot.outputs["label"].tolist() == [10, 20, 30]


def test_compute_answers_from_the_rows_of_the_batch() -> None:
    with FakeEngine(compute=lambda inputs, batch: {"mean": inputs["pixels"][:, 0, 0, :1] + batch}) as engine:
        slot = engine.new_slot()
        slot.inputs["pixels"][:] = 7
        engine.run(slot, 2)
    assert slot.outputs["mean"].ravel().tolist() == [9, 9, 0, 0, 0, 0, 0, 0]


def test_latency_can_be_set_at_any_time(monkeypatch: pytest.MonkeyPatch) -> None:
    slept: list[float] = []
    monkeypatch.setattr(time, "sleep", slept.append)
    with FakeEngine(latency_s=lambda batch: 1000.0 * batch) as engine:
        slot = engine.new_slot()
        engine.run(slot, 2)
        engine.latency_s = lambda batch: 10_000.0
        engine.run(slot, 2)
        engine.latency_s = None
        engine.run(slot, 2)
    assert len(slept) == 2
    assert 1900 < slept[0] <= 2000
    assert 9900 < slept[1] <= 10_000


def test_no_sleep_where_computing_took_the_latency(monkeypatch: pytest.MonkeyPatch) -> None:
    slept: list[float] = []
    monkeypatch.setattr(time, "sleep", slept.append)
    with FakeEngine(latency_s=lambda batch: 0.0) as engine:
        engine.run(engine.new_slot(), 1)
    assert slept == []


def test_times_are_all_inference() -> None:
    with FakeEngine() as engine:
        times = engine.run(engine.new_slot(), 1)
    assert times.copy_in_ns == times.copy_out_ns == 0
    assert times.total_ns == times.infer_ns > 0


def test_failure_fails_the_run_and_writes_nothing() -> None:
    def fail_when(slot: Slot, batch: int) -> Exception | None:
        return ValueError("cosmic ray") if batch == 2 else None

    with FakeEngine("dome", fail_when=fail_when) as engine:
        slot = engine.new_slot()
        slot.inputs["pixels"][:] = 50
        with pytest.raises(RunFailed, match="dome on cpu, slot 0: cosmic ray"):
            engine.run(slot, 2)
        assert not slot.outputs["mean"].any()
        engine.run(slot, 1)
        assert slot.outputs["mean"][0] == 50


def test_failure_of_the_error_tree_is_passed_on() -> None:
    with (
        FakeEngine(fail_when=lambda slot, batch: PlanMismatch("other GPU")) as engine,
        pytest.raises(PlanMismatch, match="other GPU"),
    ):
        engine.run(engine.new_slot(), 1)


@pytest.mark.parametrize("gate", [Gate(), threading.Event()], ids=["gate", "event"])
def test_gate_holds_a_run(gate: Gate | threading.Event) -> None:
    with FakeEngine(gate=gate) as engine, ThreadPoolExecutor(1) as pool:
        slot = engine.new_slot()
        slot.inputs["pixels"][:] = 5
        held = pool.submit(engine.run, slot, 1)
        if isinstance(gate, Gate):
            gate.wait_for_held()
            with pytest.raises(EngineError, match="already running"):
                engine.run(slot, 1)
        assert not held.done()
        assert not slot.outputs["mean"].any()
        gate.set()
        held.result(timeout=10)
        assert slot.outputs["mean"][0] == 5
        engine.run(slot, 1)


def test_gate_counts_what_it_holds() -> None:
    gate = Gate(is_open=True)
    with FakeEngine(gate=gate, max_in_flight=2) as engine, ThreadPoolExecutor(2) as pool:
        slots = [engine.new_slot(), engine.new_slot()]
        engine.run(slots[0], 1)
        gate.clear()
        held = [pool.submit(engine.run, slot, 1) for slot in slots]
        gate.wait_for_held(2)
        with pytest.raises(TimeoutError, match="2 of 3 batches"):
            gate.wait_for_held(3, timeout_s=0)
        gate.set()
        for run in held:
            run.result(timeout=10)
        with pytest.raises(TimeoutError, match="0 of 1 batches"):
            gate.wait_for_held(timeout_s=0)


def test_gate_that_stays_shut_says_so() -> None:
    assert not Gate().wait(timeout=0)
    assert Gate(is_open=True).wait(timeout=0)

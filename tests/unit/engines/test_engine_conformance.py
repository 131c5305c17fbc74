"""The conformance check fails for every way of breaking the contract that it looks for."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from threading import get_ident
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from foveate.engines import (
    ConformanceError,
    Engine,
    EngineInfo,
    FakeEngine,
    RunTimes,
    Slot,
    TensorSpec,
    check_engine,
)
from foveate.engines.fake import Rows

HALF = TensorSpec("mean", np.dtype(np.float16), (1,))


class InfoTooEarly(FakeEngine):
    @property
    def info(self) -> EngineInfo:
        return self._description


class LoadedTooEarly(FakeEngine):
    @property
    def loaded(self) -> bool:
        return True


class WrongErrorTooEarly(FakeEngine):
    def new_slot(self, inputs: Mapping[str, NDArray[Any]] | None = None) -> Slot:
        if not self.loaded:
            raise KeyError("session")
        return super().new_slot(inputs)


class NewInfoEachLoad(FakeEngine):
    def load(self) -> EngineInfo:
        self._info = None
        self._description = dataclasses.replace(self._description, max_batch=self._description.max_batch + 1)
        return super().load()


class RunsAfterClose(FakeEngine):
    def run(self, slot: Slot, batch: int) -> RunTimes:
        return self._run_impl(slot, batch)


class LoadsAfterClose(FakeEngine):
    def load(self) -> EngineInfo:
        self._closed = False
        return super().load()


class TakesAnyBatch(FakeEngine):
    def run(self, slot: Slot, batch: int) -> RunTimes:
        return super().run(slot, min(max(batch, 1), self.info.max_batch))


class TakesAnySlot(FakeEngine):
    def run(self, slot: Slot, batch: int) -> RunTimes:
        own = self._slots[slot.index] if self.loaded else slot
        return super().run(own, batch)


class TakesBusySlots(FakeEngine):
    def run(self, slot: Slot, batch: int) -> RunTimes:
        slot._busy = False
        return super().run(slot, batch)


class NamelessDevice(FakeEngine):
    def _load_impl(self) -> EngineInfo:
        return dataclasses.replace(super()._load_impl(), device="")


class NoSlotInFlight(FakeEngine):
    def _load_impl(self) -> EngineInfo:
        return dataclasses.replace(super()._load_impl(), max_in_flight=0)


class SameNameTwice(FakeEngine):
    def _load_impl(self) -> EngineInfo:
        info = super()._load_impl()
        return dataclasses.replace(info, outputs=info.outputs * 2)


class OtherNames(FakeEngine):
    def _new_slot_impl(self, index: int) -> Slot:
        slot = super()._new_slot_impl(index)
        return Slot(index, {"image": slot.inputs["pixels"]}, slot.outputs)


class ShortBuffers(FakeEngine):
    def _new_slot_impl(self, index: int) -> Slot:
        slot = super()._new_slot_impl(index)
        return Slot(index, slot.inputs, {"mean": np.zeros((self.info.max_batch - 1, 1), np.float32)})


class OtherType(FakeEngine):
    def _new_slot_impl(self, index: int) -> Slot:
        slot = super()._new_slot_impl(index)
        return Slot(index, slot.inputs, {"mean": slot.outputs["mean"].astype(np.float64)})


class StridedBuffers(FakeEngine):
    def _new_slot_impl(self, index: int) -> Slot:
        slot = super()._new_slot_impl(index)
        return Slot(index, {"pixels": np.asfortranarray(slot.inputs["pixels"])}, slot.outputs)


class ReadOnlyBuffers(FakeEngine):
    def _new_slot_impl(self, index: int) -> Slot:
        slot = super()._new_slot_impl(index)
        slot.inputs["pixels"].flags.writeable = False
        return slot


class SharedSlots(FakeEngine):
    def _new_slot_impl(self, index: int) -> Slot:
        first = self._slots[0] if self._slots else super()._new_slot_impl(index)
        return Slot(index, first.inputs, first.outputs)


class OutputsInInputs(FakeEngine):
    def _new_slot_impl(self, index: int) -> Slot:
        slot = super()._new_slot_impl(index)
        outputs = slot.inputs["pixels"].reshape(-1)[: 4 * self.info.max_batch].view(np.float32).reshape(-1, 1)
        return Slot(index, slot.inputs, {"mean": outputs})


class NegativeTimes(FakeEngine):
    def _run_impl(self, slot: Slot, batch: int) -> RunTimes:
        super()._run_impl(slot, batch)
        return RunTimes(0, -1, 0)


class WritesWholeSlot(FakeEngine):
    def _run_impl(self, slot: Slot, batch: int) -> RunTimes:
        return super()._run_impl(slot, self.info.max_batch)


class NormalizesInPlace(FakeEngine):
    def _run_impl(self, slot: Slot, batch: int) -> RunTimes:
        times = super()._run_impl(slot, batch)
        slot.inputs["pixels"][:batch] //= 2
        return times


class AnswersNothing(FakeEngine):
    def _run_impl(self, slot: Slot, batch: int) -> RunTimes:
        return RunTimes(0, 1, 0)


class ReversesRows(FakeEngine):
    def _run_impl(self, slot: Slot, batch: int) -> RunTimes:
        times = super()._run_impl(slot, batch)
        slot.outputs["mean"][:batch] = slot.outputs["mean"][:batch][::-1].copy()
        return times


class MixesRows(FakeEngine):
    def _run_impl(self, slot: Slot, batch: int) -> RunTimes:
        times = super()._run_impl(slot, batch)
        slot.outputs["mean"][:batch] = slot.outputs["mean"][:batch].mean()
        return times


class ReadsBeyondTheBatch(FakeEngine):
    def _run_impl(self, slot: Slot, batch: int) -> RunTimes:
        times = super()._run_impl(slot, batch)
        slot.outputs["mean"][:batch] += slot.inputs["pixels"][batch:].sum(dtype=np.float32)
        return times


class SkipsTheLastRow(FakeEngine):
    def _run_impl(self, slot: Slot, batch: int) -> RunTimes:
        return super()._run_impl(slot, max(1, batch - 1))


class OnlySlotZero(FakeEngine):
    def _run_impl(self, slot: Slot, batch: int) -> RunTimes:
        times = super()._run_impl(self._slots[0], batch)
        slot.outputs["mean"][:batch] = self._slots[0].outputs["mean"][:batch]
        return times


class OneThreadOnly(FakeEngine):
    def _load_impl(self) -> EngineInfo:
        self._thread = get_ident()
        return super()._load_impl()

    def _run_impl(self, slot: Slot, batch: int) -> RunTimes:
        times = super()._run_impl(slot, batch)
        if get_ident() != self._thread:
            slot.outputs["mean"][:batch] = 0
        return times


@pytest.mark.parametrize(
    ("make_engine", "message"),
    [
        (InfoTooEarly, "info before load"),
        (LoadedTooEarly, "loaded before load"),
        (WrongErrorTooEarly, r"new_slot\(\) before load\(\) must raise an EngineError, not KeyError"),
        (NewInfoEachLoad, "second load"),
        (RunsAfterClose, r"run\(\) after close\(\) must raise an EngineError, but was accepted"),
        (LoadsAfterClose, r"load\(\) after close"),
        (TakesAnyBatch, "a batch of -1 must raise"),
        (TakesAnySlot, "a slot that this engine did not make"),
        (TakesBusySlots, "a slot that is running"),
        (NamelessDevice, r"info\.device is empty"),
        (NoSlotInFlight, r"info\.max_in_flight must be at least 1, not 0"),
        (SameNameTwice, r"each once, not \['mean', 'mean'\]"),
        (OtherNames, r"inputs must be \['pixels'\], not \['image'\]"),
        (ShortBuffers, r"output 'mean' must have the shape \(8, 1\), not \(7, 1\)"),
        (OtherType, "output 'mean' must be of float32, not float64"),
        (StridedBuffers, "input 'pixels' must be C-contiguous"),
        (ReadOnlyBuffers, "input 'pixels' must be writeable"),
        (SharedSlots, "input 'pixels' of slot 0 and input 'pixels' of slot 1 share memory"),
        (OutputsInInputs, "input 'pixels' of slot 0 and output 'mean' of slot 0 share memory"),
        (NegativeTimes, "infer_ns=-1.* must be 0 or more"),
        (WritesWholeSlot, r"a run of 1 wrote output 'mean' beyond its rows \[0:1\]"),
        (NormalizesInPlace, "a run of 1 changed input 'pixels'"),
        (AnswersNothing, "does not read its slot's inputs"),
        (ReversesRows, r"row \d of output 'mean' in a batch of \d is not what it was alone"),
        (MixesRows, "is not what it was alone"),
        (ReadsBeyondTheBatch, "is not what it was alone"),
        (SkipsTheLastRow, r"is not what it was alone: expected .*, got \[77\.\]"),
        (OnlySlotZero, "is not what it was alone"),
        (OneThreadOnly, "in a batch of 8 is not what it was alone"),
    ],
)
def test_broken_engines_are_found(make_engine: Callable[[], Engine], message: str) -> None:
    with pytest.raises(ConformanceError, match=message):
        check_engine(make_engine)


def test_tolerance_decides_what_floats_may_differ_by() -> None:
    def rounded_by_batch(inputs: Rows, batch: int) -> Rows:
        means = inputs["pixels"].reshape(batch, -1).mean(axis=1, keepdims=True)
        return {"mean": means * (1 + 1e-3 * batch)}

    def make_engine() -> Engine:
        return FakeEngine(outputs=(HALF,), compute=rounded_by_batch)

    check_engine(make_engine, rtol=1e-2)
    with pytest.raises(ConformanceError, match="is not what it was alone"):
        check_engine(make_engine, rtol=1e-4)


def test_an_engine_of_class_ids_alone_may_answer_all_noise_alike() -> None:
    label = TensorSpec("label", np.dtype(np.int64), ())
    check_engine(lambda: FakeEngine(outputs=(label,), compute=lambda inputs, batch: {"label": np.full(batch, 3)}))

"""Slots in shared memory: what one process writes another reads, and nobody can cut it off."""

from __future__ import annotations

import mmap
import os

import numpy as np
import pytest

from foveate.engines.contract import EngineInfo, Slot
from foveate.engines.fake import FakeEngine
from foveate.service.slot_memory import SharedSlots, SlotMemory


def engine() -> FakeEngine:
    made = FakeEngine("odd", input_shape=(7, 5, 3), max_batch=3)
    made.load()
    return made


def info() -> EngineInfo:
    return engine().info


def test_another_mapping_sees_the_same_pixels_slot_by_slot() -> None:
    memory = SlotMemory.new(info(), 3)
    there = SlotMemory(info(), 3, os.dup(memory.handle))
    rng = np.random.default_rng(2)
    written = [rng.integers(0, 256, pixels.shape, np.uint8) for pixels in memory.inputs()]
    for pixels, picture in zip(memory.inputs(), written, strict=True):
        pixels[...] = picture
    memory.close()
    for pixels, picture in zip(there.inputs(), written, strict=True):
        assert pixels.shape == (3, 7, 5, 3)
        assert np.array_equal(pixels, picture)
        assert pixels.ctypes.data % mmap.PAGESIZE == 0
    there.close()


@pytest.mark.parametrize("size", [0, 1 << 20])
def test_its_size_cannot_be_changed(size: int) -> None:
    memory = SlotMemory.new(info(), 2)
    with pytest.raises(PermissionError):
        os.ftruncate(memory.handle, size)
    memory.close()


def test_an_engine_reads_straight_from_shared_memory() -> None:
    shared, made = SharedSlots(), engine()
    (first, _) = shared("odd", made, 2)
    elsewhere = SlotMemory(made.info, 2, os.dup(shared.files["odd"]))
    elsewhere.inputs()[0][1] = 77
    made.run(first.slot, 2)
    assert first.slot.outputs["mean"].ravel().tolist()[:2] == [0.0, 77.0]
    assert first.slot.inputs["pixels"] is first.pixels
    elsewhere.close()
    shared.close()
    assert shared.files == {}


class OwnMemoryEngine(FakeEngine):
    """Cannot read from memory that is not its own, as an engine with buffers pinned by its driver."""

    def _new_slot_over_impl(self, index: int, inputs: object) -> Slot:
        return self._new_slot_impl(index)


def test_an_engine_that_cannot_keeps_its_own_inputs_beside_it() -> None:
    made = OwnMemoryEngine("own", input_shape=(2, 2, 3))
    made.load()
    shared = SharedSlots()
    (slot,) = shared("own", made, 1)
    assert slot.slot.inputs["pixels"] is not slot.pixels
    shared.close()

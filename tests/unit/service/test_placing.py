"""What the device has decoded stays with its frame, whichever frames fall out before the run."""

from __future__ import annotations

from itertools import product
from typing import Any

import numpy as np
import pytest

from foveate.engines.contract import TensorSpec
from foveate.engines.errors import RunFailed
from foveate.service.batch import Batch, BatchSlot, Entry
from foveate.service.decode import leave_encoded
from foveate.service.frame import PixelFormat
from foveate.service.placing import Placing
from support.decoding_engine import DecodingEngine
from support.frames import colour_model, encoded, plain

MODEL = colour_model(32, 24)


def engine() -> DecodingEngine:
    made = DecodingEngine("mean", input_shape=(24, 32, 3), outputs=(TensorSpec("mean", np.dtype(np.float32), (1,)),))
    made.load()
    return made


def slot_of(made: DecodingEngine) -> BatchSlot:
    slot = made.new_slot()
    return BatchSlot(slot, slot.inputs["pixels"])


def batch_in(slot: BatchSlot, kinds: tuple[str, ...], turn: int = 0) -> Batch:
    """Row r has the grey level 40 + 50 r; each kind is `host`, `left` or `broken`."""
    nobody: Any = None
    batch = Batch(turn, 0, tuple(Entry(nobody, frame, 0) for frame in range(len(kinds))))
    for row, (entry, kind) in enumerate(zip(batch.entries, kinds, strict=True)):
        grey = 40 + 50 * row
        if kind == "host":
            slot.pixels[row] = grey
            continue
        data = encoded(plain((grey, grey, grey)), PixelFormat.JPEG)
        left = leave_encoded(slot.pixels[row], data, PixelFormat.JPEG, (48, 32), MODEL)
        assert left
        batch.encoded[entry] = left[1]
        if kind == "broken":
            slot.pixels[row].reshape(-1)[20:] = 0
    return batch


def closed_up(slot: BatchSlot, batch: Batch) -> list[int]:
    """As a lane does: host rows move up. The rows that run."""
    rows = [row for row, entry in enumerate(batch.entries) if not entry.out]
    for to, row in enumerate(rows):
        if batch.entries[row] not in batch.on_device:
            slot.pixels[to] = slot.pixels[row]
    return rows


@pytest.mark.parametrize("kinds", list(product(("host", "left"), repeat=3)))
@pytest.mark.parametrize("out", [set(), {0}, {1}, {2}, {0, 1}, {0, 2}])
def test_every_row_that_runs_is_its_frames(kinds: tuple[str, ...], out: set[int]) -> None:
    made = engine()
    slot = slot_of(made)
    placing, batch = Placing(made, [slot]), batch_in(slot, kinds)
    assert placing.place(0, batch) == []
    assert (batch.placed_ns > 0) == ("left" in kinds)
    for row in out:
        batch.entries[row].out = True
    rows = closed_up(slot, batch)
    placing.close_gaps(0, batch)
    made.run(slot.slot, len(rows))
    assert slot.slot.outputs["mean"][: len(rows), 0] == pytest.approx([40 + 50 * row for row in rows], abs=2)


def test_without_gaps_nothing_is_decoded_twice() -> None:
    made = engine()
    slot = slot_of(made)
    placing, batch = Placing(made, [slot]), batch_in(slot, ("left", "host", "left"))
    placing.place(0, batch)
    placing.close_gaps(0, batch)
    assert made.placed == [[0, 2]]


def test_what_the_device_could_not_decode_comes_back() -> None:
    made = engine()
    slot = slot_of(made)
    batch = batch_in(slot, ("left", "broken", "left"))
    assert Placing(made, [slot]).place(0, batch) == [batch.entries[1]]
    assert set(batch.on_device) == {batch.entries[0], batch.entries[2]}


def test_when_the_decoder_fails_all_come_back() -> None:
    made = engine()
    slot = slot_of(made)
    batch, made.fault = batch_in(slot, ("left", "host", "left")), ZeroDivisionError("nvJPEG")
    assert Placing(made, [slot]).place(0, batch) == [batch.entries[0], batch.entries[2]]
    assert (batch.on_device, batch.placed_ns) == ({}, 0)


def test_a_batch_that_never_ran_leaves_nothing_to_the_next_one() -> None:
    made = engine()
    slot = slot_of(made)
    placing = Placing(made, [slot])
    placing.place(0, batch_in(slot, ("left", "left")))
    slot.pixels[:2] = 200
    placing.place(0, batch_in(slot, ("host", "host"), turn=1))
    made.run(slot.slot, 2)
    assert slot.slot.outputs["mean"][:2, 0] == pytest.approx([40, 90])


def test_a_decoder_that_fails_in_closing_gaps_fails_the_run() -> None:
    made = engine()
    slot = slot_of(made)
    placing, batch = Placing(made, [slot]), batch_in(slot, ("left", "left"))
    placing.place(0, batch)
    batch.entries[0].out = True
    made.fault = RunFailed("nvJPEG")
    with pytest.raises(RunFailed):
        placing.close_gaps(0, batch)

"""What the ingests of a batch left to the engine's device: JPEGs in their rows, and pictures that the device holds."""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence

from foveate.engines.contract import Engine, HeldPicture
from foveate.engines.errors import EngineError, RunFailed
from foveate.service.batch import Batch, BatchSlot, Entry

__all__ = ["Placing"]

_log = logging.getLogger(__name__)


class Placing:
    """For a lane's engine, which is ready for it. Each slot is one thread's at a time."""

    def __init__(self, engine: Engine, slots: Sequence[BatchSlot], *, jpegs: bool = True, held: bool = False) -> None:
        """Whether JPEGs may be left to it, its decoder being open, and pictures that the device holds."""
        self.jpegs, self.held = jpegs, held
        self._engine = engine
        self._slots = slots

    def place(self, index: int, batch: Batch) -> list[Entry]:
        """Put what was left to the device into a slot; what comes back the ingests have to decode.

        Called for each batch before its turn, if only to take back what the batch before it had on the device.
        """
        slot, rows = self._slots[index], {entry: row for row, entry in enumerate(batch.entries)}
        asked = {}
        for entry, left in batch.encoded.items():
            data: bytes | HeldPicture | None = entry.pictures.get(left.picture)
            if not left.picture:
                data = slot.pixels[rows[entry]].reshape(-1)[: left.nbytes].tobytes()
            if data is not None:  # else its ingest has dropped it: nobody waits for the frame any more
                asked[entry] = left.row(data, rows[entry])
        try:
            placed = self._engine.place_encoded(slot.slot, list(asked.values()))
        except EngineError as error:
            _log.warning("pictures are decoded, or scaled, on the CPU this once: %s", error)
            placed = [False] * len(asked)
        done = dict(zip(asked, placed, strict=True))
        batch.on_device = {entry: row for entry, row in asked.items() if done[entry]}
        batch.placed_ns = time.monotonic_ns() if batch.on_device else 0
        return [entry for entry in batch.encoded if not done.get(entry)]

    def close_gaps(self, index: int, batch: Batch) -> None:
        """Place all once more if frames have fallen out since, each into its row of the run. Raises: EngineError.

        That is rare, so the device need not be able to move rows.
        """
        moved = batch.moved_on_device()
        if moved != batch.on_device:
            if not all(self._engine.place_encoded(self._slots[index].slot, list(moved.values()))):
                raise RunFailed("the device could not place a picture that it had placed before")
            batch.on_device = moved

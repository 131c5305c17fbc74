"""JPEGs that the ingests of a batch left in their rows, decoded by the engine's device."""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence

from foveate.engines.contract import Engine
from foveate.engines.errors import EngineError, RunFailed
from foveate.service.batch import Batch, BatchSlot, Entry

__all__ = ["Placing"]

_log = logging.getLogger(__name__)


class Placing:
    """The decoder of a lane's engine, which is open. Each slot is one thread's at a time."""

    def __init__(self, engine: Engine, slots: Sequence[BatchSlot]) -> None:
        self._engine = engine
        self._slots = slots

    def place(self, index: int, batch: Batch) -> list[Entry]:
        """Decode what was left encoded in a slot; what comes back the ingests have to decode.

        Called for each batch before its turn, if only to take back what the batch before it had on the device.
        """
        slot, rows = self._slots[index], {entry: row for row, entry in enumerate(batch.entries)}
        asked = {}
        for entry, left in batch.encoded.items():
            data = slot.pixels[rows[entry]].reshape(-1)[: left.nbytes].tobytes()
            asked[entry] = left.row(data, rows[entry])
        try:
            placed = self._engine.place_encoded(slot.slot, list(asked.values()))
        except EngineError as error:
            _log.warning("JPEGs are decoded on the CPU this once: %s", error)
            placed = [False] * len(asked)
        done = dict(zip(asked, placed, strict=True))
        batch.on_device = {entry: row for entry, row in asked.items() if done[entry]}
        batch.placed_ns = time.monotonic_ns() if batch.on_device else 0
        return [entry for entry in asked if not done[entry]]

    def close_gaps(self, index: int, batch: Batch) -> None:
        """Decode once more if frames have fallen out since, each into its row of the run. Raises: EngineError.

        That is rare, so the device need not be able to move rows.
        """
        moved = batch.moved_on_device()
        if moved != batch.on_device:
            if not all(self._engine.place_encoded(self._slots[index].slot, list(moved.values()))):
                raise RunFailed("the device could not decode a picture that it had decoded before")
            batch.on_device = moved

"""The inputs of a lane's slots in memory that several processes map.

The memory is a file without a name: the kernel frees it with the last process that holds it, however that one ends.
Its size is sealed, so that no process can cut it off under another.
"""

from __future__ import annotations

import fcntl
import mmap
import os

import numpy as np
from numpy.typing import NDArray

from foveate.engines.contract import Engine, EngineInfo
from foveate.service.batch import BatchSlot

__all__ = ["SharedSlots", "SlotMemory"]

_PAGE_BYTES = mmap.PAGESIZE
"""Each slot begins on a page of its own, as memory that a GPU reads from directly has to."""


class SlotMemory:
    """Rows of pixels for the slots of one lane: ingests write them, the engine reads them.

    It is mapped for as long as this object, or an array from it, lives.
    """

    def __init__(self, info: EngineInfo, slots: int, handle: int) -> None:
        """Over the file `handle`, which is this object's from now on."""
        self.handle = handle
        (self._spec,) = info.inputs
        self._shape = (info.max_batch, *self._spec.shape)
        self._map = mmap.mmap(handle, _slot_bytes(info) * slots)
        self._slot_bytes = _slot_bytes(info)
        self._slots = slots

    @classmethod
    def new(cls, info: EngineInfo, slots: int) -> SlotMemory:
        """Fresh memory for that many slots of an engine."""
        handle = os.memfd_create("foveate-slots", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
        os.ftruncate(handle, _slot_bytes(info) * slots)
        fcntl.fcntl(handle, fcntl.F_ADD_SEALS, fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SEAL)
        return cls(info, slots, handle)

    @property
    def input_name(self) -> str:
        return self._spec.name

    def inputs(self) -> list[NDArray[np.uint8]]:
        """Each slot's input.

        Shapes: (max_batch, *spec.shape) of the engine's input.
        """
        count = int(np.prod(self._shape))
        return [
            np.frombuffer(self._map, self._spec.dtype, count, slot * self._slot_bytes).reshape(self._shape)
            for slot in range(self._slots)
        ]

    def close(self) -> None:
        """Let go of the file; arrays from it stay valid."""
        os.close(self.handle)


class SharedSlots:
    """Makes slots whose inputs other processes can map, and keeps the files to give them."""

    def __init__(self) -> None:
        self.files: dict[str, int] = {}
        """By pipeline."""

    def __call__(self, pipeline: str, engine: Engine, count: int) -> list[BatchSlot]:
        memory = SlotMemory.new(engine.info, count)
        self.files[pipeline] = memory.handle
        return [BatchSlot(engine.new_slot({memory.input_name: pixels}), pixels) for pixels in memory.inputs()]

    def close(self) -> None:
        """Let go of the files; the slots stay valid."""
        for handle in self.files.values():
            os.close(handle)
        self.files.clear()


def _slot_bytes(info: EngineInfo) -> int:
    (spec,) = info.inputs
    row_bytes = int(np.prod(spec.shape)) * spec.dtype.itemsize
    return -(-info.max_batch * row_bytes // _PAGE_BYTES) * _PAGE_BYTES

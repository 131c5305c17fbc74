"""How much memory an engine takes: as planned before it is loaded, and as it turned out."""

from __future__ import annotations

import math
import os
from contextlib import suppress
from itertools import pairwise
from pathlib import Path
from typing import Protocol

from foveate.engines.contract import EngineInfo
from foveate.engines.engine_choice import ChosenEngine
from foveate.engines.engine_profile import MemoryUse
from foveate.engines.engine_record import MemoryPlan
from foveate.engines.errors import EngineUnavailable
from foveate.engines.nvml import NvmlGpu

__all__ = ["MemoryMeter", "MemorySteps", "ProcessMemory", "device_meters", "planned_memory"]

_STATM = Path("/proc/self/statm")


def planned_memory(chosen: ChosenEngine, info: EngineInfo) -> MemoryPlan:
    """What the engine should take: its sidecar's plan, or that of the graph that it runs."""
    if chosen.record is not None:
        return chosen.record.memory
    # Imported here: onnx is not needed to serve.
    from foveate.engines.onnx_graph import graph_from_file, weights_bytes

    row = sum(math.prod(spec.shape) * spec.dtype.itemsize for spec in (*info.inputs, *info.outputs))
    weights = weights_bytes(graph_from_file(chosen.path))
    return MemoryPlan(weights_bytes=weights, activation_bytes=None, slot_bytes=row * info.max_batch)


class MemoryMeter(Protocol):
    """Something that tells how much memory is taken."""

    @property
    def source(self) -> str:
        """What is read, for people."""
        ...

    def used_bytes(self) -> int: ...


class ProcessMemory:
    """The memory of this process that is in RAM."""

    source = "resident memory of the process"

    def used_bytes(self) -> int:
        return int(_STATM.read_text(encoding="ascii").split()[1]) * os.sysconf("SC_PAGE_SIZE")


class MemorySteps:
    """Memory read step by step while an engine is opened; which device it runs on is known only after the first.

    ::

        steps = MemorySteps(device_meters())
        ...load the engine...            steps.take()
        ...make and run a slot...        steps.take()
        ...and another one, or not...    steps.take()
        steps.use("cpu")
    """

    def __init__(self, meters: dict[str, MemoryMeter]) -> None:
        """`meters` by the device whose memory they read; they are read now for the first time."""
        self._meters = meters
        self._readings: dict[str, list[int]] = {device: [] for device in meters}
        self.take()

    def take(self) -> None:
        """Read all meters."""
        for device, meter in self._meters.items():
            self._readings[device].append(meter.used_bytes())

    def use(self, device: str) -> MemoryUse | None:
        """What the steps took of a device's memory; None where no meter reads it."""
        if device not in self._meters:
            return None
        readings = self._readings[device]
        # Less than before means that something else gave memory back meanwhile.
        load, first, *more = (max(0, after - before) for before, after in pairwise(readings))
        return MemoryUse(
            meter=self._meters[device].source,
            load_bytes=load,
            first_slot_bytes=first,
            next_slot_bytes=more[0] if more else None,
        )


def device_meters() -> dict[str, MemoryMeter]:
    """A meter for the memory of the CPU and, where NVML tells, for that of the first GPU."""
    meters: dict[str, MemoryMeter] = {"cpu": ProcessMemory()}
    with suppress(EngineUnavailable):
        meters["cuda:0"] = NvmlGpu(0)
    return meters

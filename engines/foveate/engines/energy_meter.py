"""How much energy a device takes: NVML's counter of a GPU, RAPL's of a processor."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Protocol

from foveate.engines.errors import EngineUnavailable
from foveate.engines.machine import cuda_index
from foveate.engines.nvml import NvmlGpu

__all__ = ["EnergyMeter", "Rapl", "energy_meter"]

_POWERCAP = Path("/sys/class/powercap")
_PACKAGE = re.compile(r"intel-rapl:\d+")
"""A whole processor; the zones below it, such as ``intel-rapl:0:1``, are parts of it. AMD's are called so too."""


class EnergyMeter(Protocol):
    """A counter of energy. Only differences between two readings mean anything."""

    @property
    def source(self) -> str:
        """What is read, for people."""
        ...

    def joules(self) -> float:
        """Energy of the whole device since some moment, whoever used it."""
        ...


def energy_meter(device: str) -> EnergyMeter:
    """The counter of an engine's device, such as ``cpu`` or ``cuda:0``.

    Raises: EngineUnavailable saying why there is none.
    """
    index = cuda_index(device)
    meter: EnergyMeter = Rapl() if index is None else NvmlGpu(index)
    meter.joules()  # fails now or never
    return meter


class Rapl:
    """The energy counters of this machine's processors, all of them together.

    Source: the kernel's Documentation/power/powercap/powercap.rst.
    Raises: EngineUnavailable where there are none, or this user may not read them.
    """

    source = "RAPL, all processors"

    def __init__(self, root: Path = _POWERCAP) -> None:
        zones = sorted(path for path in root.glob("intel-rapl:*") if _PACKAGE.fullmatch(path.name))
        if not zones:
            raise EngineUnavailable(f"this machine has no RAPL energy counters in {root}")
        self._counters = [_Counter(zone) for zone in zones]

    def joules(self) -> float:
        """Energy since the meter was made."""
        return sum(counter.microjoules() for counter in self._counters) / 1e6


class _Counter:
    """One zone's counter, which begins again at 0 when it has reached its range."""

    def __init__(self, zone: Path) -> None:
        self._zone = zone
        self._range = self._read("max_energy_range_uj")
        self._last = self._read("energy_uj")
        self._total = 0

    def microjoules(self) -> int:
        now = self._read("energy_uj")
        # At most one round between two readings: a round takes minutes even at full power.
        self._total += now - self._last if now >= self._last else now - self._last + self._range
        self._last = now
        return self._total

    def _read(self, name: str) -> int:
        path = self._zone / name
        try:
            return int(path.read_text(encoding="ascii"))
        except (OSError, ValueError) as error:
            raise EngineUnavailable(
                f"cannot read the energy counter {path} ({error}): as a rule only root may"
            ) from error

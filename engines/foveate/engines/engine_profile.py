"""What was measured of an engine: under which conditions, how fast, in how much memory, for how much energy."""

from __future__ import annotations

import os
import platform
from collections.abc import Mapping
from datetime import UTC, datetime
from importlib.metadata import version
from typing import Annotated, Any, Self

from pydantic import BaseModel, BeforeValidator, ConfigDict, InstanceOf, PlainSerializer

from foveate.engines.contract import EngineInfo
from foveate.engines.errors import EngineError
from foveate.engines.machine import Machine, this_machine
from foveate.engines.profile import LatencyProfile

__all__ = ["BatchRate", "EngineProfile", "MemoryUse", "RunConditions"]


class _Record(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class RunConditions(_Record):
    """Where and how an engine runs. A profile holds for these alone; under others the engine is measured again."""

    machine: Machine
    device: str
    backend: str
    library_version: str
    precision: str
    threads: int | None
    """CPU threads of one run; None where the engine runs on a GPU."""

    @classmethod
    def of(cls, info: EngineInfo, threads: int | None) -> RunConditions:
        """Those of a loaded engine on this machine; `threads` as given to `Engine.from_file`."""
        return cls(
            machine=this_machine(info.device),
            device=info.device,
            backend=info.backend,
            library_version=info.backend_version,
            precision=info.precision,
            threads=(threads or len(os.sched_getaffinity(0))) if info.device == "cpu" else None,
        )


class BatchRate(_Record):
    """The engine alone, run back to back with batches of one size."""

    batch: int
    in_flight: int
    """Batches that ran at the same time."""
    frames_per_s: float
    watts: float | None = None
    """Mean power of the whole device meanwhile, whatever else it did; None where no meter can be read."""

    @property
    def joules_per_frame(self) -> float | None:
        return None if self.watts is None else self.watts / self.frames_per_s


class MemoryUse(_Record):
    """How much more memory was taken at each step, in bytes: process memory on a CPU, device memory on a GPU."""

    meter: str
    """What it was read from."""
    load_bytes: int
    """By loading: the weights, and what the backend's library keeps for itself."""
    first_slot_bytes: int
    """By the first slot and its first runs: its buffers, and all that the library allocates to run."""
    next_slot_bytes: int | None
    """By one more slot and its runs; None where only one batch runs at a time."""

    @property
    def total_bytes(self) -> int:
        return self.load_bytes + self.first_slot_bytes + (self.next_slot_bytes or 0)


def _latency_from_json(value: Any) -> Any:
    try:
        return LatencyProfile.from_json(value) if isinstance(value, Mapping) else value
    except EngineError as error:
        raise ValueError(str(error)) from error


class EngineProfile(_Record):
    """What was measured of an engine under some conditions."""

    conditions: RunConditions
    host: str
    """The name of the machine, for people; a profile holds on others of the same make too."""
    foveate_version: str
    measured_at: datetime
    latency: Annotated[
        InstanceOf[LatencyProfile], BeforeValidator(_latency_from_json), PlainSerializer(LatencyProfile.to_json)
    ]
    rates: tuple[BatchRate, ...] = ()
    """By batch size; empty where only the latency was measured."""
    memory: MemoryUse | None = None
    power: str = ""
    """What the power was read from, or why it is not known; empty where nobody tried."""

    @classmethod
    def measured_now(cls, conditions: RunConditions, latency: LatencyProfile, **more: Any) -> Self:
        """A profile with the fields that every measurement has; `more` are the others."""
        return cls(
            conditions=conditions,
            host=platform.node(),
            foveate_version=version("foveate"),
            measured_at=datetime.now(UTC).replace(microsecond=0),
            latency=latency,
            **more,
        )

    @property
    def max_batch(self) -> int:
        """The largest batch that it tells of."""
        return self.latency.buckets[-1]

    @property
    def best_rate(self) -> BatchRate | None:
        return max(self.rates, key=lambda rate: rate.frames_per_s, default=None)

    def holds_for(self, conditions: RunConditions, max_batch: int) -> bool:
        """Whether it tells how batches up to this size run under these conditions."""
        return self.conditions == conditions and self.max_batch >= max_batch

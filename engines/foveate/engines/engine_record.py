"""What is known about a built engine: the sidecar that lies beside it, and whether the engine fits its use."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Any, Self

import numpy as np
from pydantic import BaseModel, ConfigDict, Field

from foveate.engines.contract import TensorSpec
from foveate.engines.engine_profile import EngineProfile
from foveate.engines.errors import PlanMismatch

__all__ = ["BatchRecord", "EngineRecord", "EngineUse", "MemoryPlan", "TensorRecord", "capability_fits"]


class _Record(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class TensorRecord(_Record):
    """An input or output; the shape leaves the batch out."""

    name: str
    dtype: str
    shape: tuple[int, ...]

    @classmethod
    def from_spec(cls, spec: TensorSpec) -> Self:
        return cls(name=spec.name, dtype=spec.dtype.name, shape=spec.shape)

    def spec(self) -> TensorSpec:
        return TensorSpec(self.name, np.dtype(self.dtype), self.shape)


class BatchRecord(_Record):
    """The batch sizes that the engine takes, and the one that it is tuned for."""

    min: int
    opt: int
    max: int


class MemoryPlan(_Record):
    """What an engine needs of its device, in bytes."""

    weights_bytes: int
    """Once, as long as the engine is loaded."""
    activation_bytes: int | None
    """Once for each batch in flight, at the largest batch, as the compiler reports it; None if it says nothing."""
    slot_bytes: int
    """Inputs and outputs of one batch in flight at the largest batch; as much again is pinned on the host."""

    def needed_bytes(self, in_flight: int) -> int:
        """With so many batches in flight; without the library's own."""
        return self.weights_bytes + (self.activation_bytes or 0) + in_flight * self.slot_bytes


class EngineRecord(_Record):
    """The sidecar of a built engine. Unknown fields are refused: a newer version wrote them."""

    key: str = Field(pattern=r"^[0-9a-f]{64}$")
    """Names the engine in the store."""
    name: str
    """The model that it was built from; another model with the same graph shares the engine."""
    backend: str
    library_version: str
    precision: str
    target: str
    compute_capabilities: tuple[str, ...]
    """The GPUs that it runs on, such as ``sm_89``, or ``sm_80+`` for that and later ones; empty: it needs none."""
    version_compatible: bool
    batch: BatchRecord
    exclude: tuple[str, ...]
    """Nodes that stayed float."""
    calibration_sha256: str
    """Over the pictures that it was calibrated with; empty where there were none."""
    source_sha256: str
    """Of the prepared ONNX graph."""
    engine_sha256: str
    engine_bytes: int
    inputs: tuple[TensorRecord, ...]
    outputs: tuple[TensorRecord, ...]
    memory: MemoryPlan
    built_at: datetime
    build_seconds: float
    accuracy: dict[str, Any] | None = None
    """How far it agrees with the graph that it was built from, once that was measured: a ``summary``, and as
    ``failures`` what is below its threshold, with ``accepted`` where it is to be served nevertheless; ``proven`` is
    false where the summary says why nothing was measured."""
    profiles: tuple[EngineProfile, ...] = ()
    """What was measured of it, under different conditions; the newest first."""

    @property
    def agrees(self) -> bool | None:
        """Whether it was compared with its graph in fp32 and agrees well enough; None: nobody compared it."""
        if self.accuracy is None or self.accuracy.get("proven") is False:
            return None
        return not self.accuracy.get("failures")

    @property
    def accepted(self) -> bool:
        """Whether somebody said that it may be served although it agrees too little."""
        return bool((self.accuracy or {}).get("accepted"))

    @property
    def file_name(self) -> str:
        return "model.onnx" if self.backend == "onnxruntime" else "engine.plan"


@dataclass(frozen=True, slots=True)
class EngineUse:
    """What an engine is about to be opened for."""

    source_sha256: str
    """Of the prepared ONNX graph that it must have been built from."""
    library_version: str
    """Of the backend's library that would run it."""
    compute_capability: str | None
    """Of the GPU that would run it, such as ``sm_89``; None where there is no GPU."""
    batch: int = 1
    """The largest batch that it must take."""
    gpu: str = ""
    """The name of that GPU, to tell it from others of the machine."""
    memory_bytes: int | None = None
    """Of that GPU, in all; None where nobody asked."""

    def require_fit(self, record: EngineRecord) -> None:
        """Raises: PlanMismatch naming what does not fit, what was expected, and what to do."""
        here = f"the engine {record.key[:12]} of {record.name}"
        rebuild = f"build it again with `foveate build {record.name}`"
        if record.source_sha256 != self.source_sha256:
            raise PlanMismatch(
                f"{here} was built from another ONNX graph (sha256 {record.source_sha256[:12]}) than the one that is "
                f"prepared now ({self.source_sha256[:12]}): the model has changed; {rebuild}"
            )
        if not _version_fits(record, self.library_version):
            raise PlanMismatch(
                f"{here} was built by version {record.library_version} of {record.backend}, here is version "
                f"{self.library_version}: {rebuild}, or install the version that built it"
            )
        if not capability_fits(self.compute_capability, record.compute_capabilities):
            raise PlanMismatch(
                f"{here} is for compute capability {', '.join(record.compute_capabilities)}, here is {self._hardware}: "
                f"{rebuild} for this target"
            )
        needed = record.memory.needed_bytes(1)
        if record.compute_capabilities and self.memory_bytes is not None and needed > self.memory_bytes:
            raise PlanMismatch(
                f"{here} needs {needed >> 20} MiB of GPU memory, {self.gpu or 'the GPU'} has {self.memory_bytes >> 20} "
                f"MiB in all: {rebuild} and a smaller --batch"
            )
        if self.batch > record.batch.max:
            raise PlanMismatch(
                f"{here} takes batches of {record.batch.min} to {record.batch.max}, not {self.batch}: serve it with "
                f"a smaller one, or {rebuild} and a larger --batch"
            )
        if record.batch.min > 1:
            raise PlanMismatch(
                f"{here} takes batches of {record.batch.min} to {record.batch.max}, but a batch can be as small as 1: "
                f"{rebuild} and --batch 1:{record.batch.opt}:{record.batch.max}"
            )

    @property
    def _hardware(self) -> str:
        if self.compute_capability is None:
            return "no NVIDIA GPU"
        return f"{self.compute_capability} ({self.gpu})" if self.gpu else self.compute_capability


def capability_fits(here: str | None, built_for: tuple[str, ...]) -> bool:
    """Whether a GPU such as ``sm_89`` is one of those that an engine is for: ``sm_89``, or ``sm_80+``."""
    if not built_for:
        return True
    if here is None:
        return False
    return any(int(here[3:]) >= int(name[3:-1]) if name.endswith("+") else here == name for name in built_for)


def _version_fits(record: EngineRecord, here: str) -> bool:
    """A plan runs on the version that built it; a version-compatible one on later ones too; an ONNX file on any."""
    if record.backend == "onnxruntime" or record.library_version == here:
        return True
    return record.version_compatible and _numbers(here) >= _numbers(record.library_version)


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in version.split(".") if part.isdigit())

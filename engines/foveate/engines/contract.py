"""The Engine contract: what a lane may ask of any backend, and who owns which buffer until when.

An engine is made unloaded and cheap; `load` takes the device. A *slot* holds the host buffers of one batch in
flight. The lane owns a slot from `new_slot` until `close`: it writes rows ``[0:batch]`` of the inputs, calls
`run`, and reads rows ``[0:batch]`` of the outputs until it runs that slot again. `run` blocks its calling
thread (releasing the GIL while the device works). Different slots may run at the same time from different
threads, up to ``info.max_in_flight``; one slot may not.

Backends implement the ``_impl`` hooks; the public methods check state and arguments once for all of them.
"""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol, Self

import numpy as np
from numpy.typing import NDArray

from foveate.engines.errors import ConfigError, EngineError, RunFailed

__all__ = [
    "DeviceRows",
    "EncodedRow",
    "Engine",
    "EngineInfo",
    "HeldPicture",
    "RunTimes",
    "Slot",
    "TensorSpec",
    "host_run_times",
]


@dataclass(frozen=True, slots=True)
class TensorSpec:
    """One input or output of an engine.

    Shapes: ``shape`` leaves the batch dimension out; the buffer of a slot is ``(max_batch, *shape)``.
    """

    name: str
    dtype: np.dtype[Any]
    shape: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class EngineInfo:
    """What an engine is: the same for as long as it lives."""

    name: str
    """The model that it runs."""
    backend: str
    """``onnxruntime``, ``tensorrt``, ``fake``, ..."""
    backend_version: str
    precision: str
    """``fp32``, ``fp16``, ``int8``, ..."""
    device: str
    """``cpu``, ``cuda:0``, ..."""
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    max_batch: int
    """Most rows that one run may take; the batch dimension is dynamic from 1 to this."""
    max_in_flight: int = 1
    """How many slots may run at the same time."""


@dataclass(frozen=True, slots=True)
class RunTimes:
    """Where the time of one run went, in nanoseconds. On a CPU both copies are 0."""

    copy_in_ns: int
    infer_ns: int
    copy_out_ns: int

    @property
    def total_ns(self) -> int:
        return self.copy_in_ns + self.infer_ns + self.copy_out_ns


class DeviceRows(Protocol):
    """The device's own rows of one of a slot's inputs, for pixels that are on the device already.

    Whoever makes pixels there writes row ``r`` at ``address + r * row_bytes`` by work of its own stream, records
    an event behind it, and says so by `written`. The slot's next run then waits for the event, on the device,
    instead of copying the host's row. It holds for that run alone, whether it succeeds or fails.
    """

    @property
    def address(self) -> int:
        """Of row 0, on the device; the same until the engine closes."""
        ...

    @property
    def row_bytes(self) -> int: ...

    def written(self, row: int, event: int) -> None:
        """Row `row` is the device's in the next run, as it stands after `event`, the handle of a recorded event."""
        ...


class HeldPicture(Protocol):
    """A picture that is on the device, complete, and stays there for as long as somebody holds this object."""

    @property
    def width(self) -> int:
        """Pixels."""
        ...

    @property
    def height(self) -> int:
        """Pixels."""
        ...


@dataclass(frozen=True, slots=True)
class EncodedRow:
    """What an engine's device makes a row of: a JPEG that it decodes, or a picture of a video that it has decoded.

    Units: rectangles are (x, y, width, height) in whole pixels.
    """

    data: bytes | HeldPicture
    row: int
    """Of the batch."""
    source: tuple[int, int, int, int]
    """Of the picture as it is stored: an EXIF orientation is not applied."""
    target: tuple[int, int, int, int]
    """Of the row, to which the source is resized; the rest of it is padded."""
    pad_value: int = 0


class Slot:
    """The host buffers of one batch in flight; made by `Engine.new_slot` and valid until the engine closes.

    `device_inputs` names the inputs whose rows may be written on the device instead; an engine on the CPU has none.
    Shapes: every buffer is ``(max_batch, *spec.shape)`` of ``spec.dtype``, C-contiguous, reused by each run.
    """

    __slots__ = ("_busy", "device_inputs", "index", "inputs", "outputs")

    def __init__(
        self,
        index: int,
        inputs: Mapping[str, NDArray[Any]],
        outputs: Mapping[str, NDArray[Any]],
        device_inputs: Mapping[str, DeviceRows] | None = None,
    ) -> None:
        self.index = index
        self.inputs = inputs
        self.outputs = outputs
        self.device_inputs = device_inputs or {}
        self._busy = False


class Engine(ABC):
    """A compiled, runnable form of a model for one backend, device and precision."""

    def __init__(self) -> None:
        self._info: EngineInfo | None = None
        self._slots: list[Slot] = []
        self._closed = False

    @classmethod
    def from_file(
        cls, model_path: Path, *, name: str, max_batch: int, threads: int | None = None, precision: str = "fp32"
    ) -> Engine:
        """An engine, not loaded yet, that runs a model file on `threads` CPU threads where it uses any.

        `precision` is what a built engine's file computes in, as its sidecar says; a backend that compiles while it
        loads computes in it.
        Raises: ConfigError for a backend that runs no files.
        """
        raise ConfigError(f"{cls.__name__} runs no model files: choose a backend that does, such as onnxruntime")

    @property
    def info(self) -> EngineInfo:
        """The engine's static description. Raises: EngineError before `load`."""
        if self._info is None:
            raise EngineError(f"{type(self).__name__} is not loaded: call load() before using it")
        return self._info

    @property
    def loaded(self) -> bool:
        return self._info is not None and not self._closed

    def load(self) -> EngineInfo:
        """Take the device and make the engine ready to run; loading twice is the same as once.

        Raises: EngineUnavailable if the backend is missing here, PlanMismatch if the file does not fit it,
        EngineError after `close`.
        """
        if self._closed:
            raise EngineError(f"{type(self).__name__} is closed: make a new engine instead of loading it again")
        if self._info is None:
            self._info = self._load_impl()
        return self._info

    def new_slot(self, inputs: Mapping[str, NDArray[Any]] | None = None) -> Slot:
        """Allocate the buffers of one more batch in flight. The caller may use them until `close`.

        `inputs` are buffers of the caller's, each beginning on a page of its own, such as memory that other processes
        write to; they outlive the engine. A backend that can read from them does, and they are the slot's inputs; else
        the slot has inputs of its own, into which the caller copies.
        Raises: EngineError before `load`, after `close`, and for inputs that are not as a slot's.
        """
        self._require_open()
        if inputs is not None:
            _require_inputs(self.info, inputs)
        index = len(self._slots)
        slot = self._new_slot_impl(index) if inputs is None else self._new_slot_over_impl(index, inputs)
        self._slots.append(slot)
        return slot

    def run(self, slot: Slot, batch: int) -> RunTimes:
        """Run rows ``[0:batch]`` of a slot and return when its outputs can be read.

        Rows from ``batch`` on are neither read nor written.
        Raises: RunFailed if the batch failed, EngineError for a closed engine, a foreign or busy slot, or a
        batch outside ``1..max_batch``.
        """
        self._require_open()
        if not 1 <= batch <= self.info.max_batch:
            raise EngineError(f"batch must be 1..{self.info.max_batch}, not {batch}")
        if slot.index >= len(self._slots) or self._slots[slot.index] is not slot:
            raise EngineError("this slot belongs to another engine: use one from this engine's new_slot()")
        if slot._busy:
            raise EngineError(f"slot {slot.index} is already running: wait for its run to return")
        slot._busy = True
        try:
            return self._run_impl(slot, batch)
        except EngineError:
            raise
        except Exception as error:  # a backend's own exceptions have no common base
            raise RunFailed(f"{self.info.name} on {self.info.device}, slot {slot.index}: {error}") from error
        finally:
            slot._busy = False

    def open_decoder(self) -> bool:
        """Make ready to decode pictures on the device; False for an engine that cannot, which most cannot."""
        self._require_open()
        return self._open_decoder_impl()

    def close_decoder(self) -> None:
        """Let go of what `open_decoder` took; idempotent."""
        self._require_open()
        self._close_decoder_impl()

    def open_placer(self) -> bool:
        """Make ready to take pictures that the device has decoded; False for an engine that cannot, as most cannot."""
        self._require_open()
        return self._open_placer_impl()

    def place_encoded(self, slot: Slot, rows: Sequence[EncodedRow]) -> list[bool]:
        """Put pictures into a slot's input, JPEGs decoded; False for each that failed, which keeps the host's row.

        These rows, and no others of before, are the device's in the slot's next run. Blocks until they are there;
        other slots may run meanwhile.
        Raises: RunFailed if the decoder failed, so that no row is the device's; EngineError as `run`.
        """
        self._require_open()
        try:
            return self._place_encoded_impl(slot, rows)
        except EngineError:
            raise
        except Exception as error:  # a decoder's own exceptions have no common base
            raise RunFailed(f"the decoder of {self.info.name} on {self.info.device}: {error}") from error

    def close(self) -> None:
        """Release the device. Idempotent; no slot may be running, and no buffer may be used after it."""
        if self._closed:
            return
        self._closed = True
        if self._info is not None:
            self._close_impl()
        self._slots.clear()

    def __enter__(self) -> Self:
        self.load()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _require_open(self) -> None:
        if self._closed:
            raise EngineError(f"{type(self).__name__} is closed")
        if self._info is None:
            raise EngineError(f"{type(self).__name__} is not loaded: call load() before using it")

    @abstractmethod
    def _load_impl(self) -> EngineInfo:
        """Take the device; called once."""

    def _new_slot_impl(self, index: int) -> Slot:
        """Plain host buffers; a backend that wants pinned memory overrides this."""
        info = self.info

        def buffers(specs: tuple[TensorSpec, ...]) -> dict[str, NDArray[Any]]:
            return {spec.name: np.zeros((info.max_batch, *spec.shape), spec.dtype) for spec in specs}

        return Slot(index, buffers(info.inputs), buffers(info.outputs))

    def _new_slot_over_impl(self, index: int, inputs: Mapping[str, NDArray[Any]]) -> Slot:
        """A slot that reads its inputs from there; a backend that can overrides this."""
        return self._new_slot_impl(index)

    @abstractmethod
    def _run_impl(self, slot: Slot, batch: int) -> RunTimes:
        """Run rows ``[0:batch]``; any exception that is no EngineError becomes RunFailed."""

    def _open_placer_impl(self) -> bool:
        """A backend whose input may be written on the device overrides this and `_place_encoded_impl`."""
        return False

    def _open_decoder_impl(self) -> bool:
        """A backend that decodes pictures overrides this and the next two."""
        return False

    def _close_decoder_impl(self) -> None:  # noqa: B027  # most backends have none
        """Release the decoder, if there is one."""

    def _place_encoded_impl(self, slot: Slot, rows: Sequence[EncodedRow]) -> list[bool]:
        """Called with JPEGs only after `_open_decoder_impl` said yes, with pictures after `_open_placer_impl` did."""
        return [False] * len(rows)

    def _close_impl(self) -> None:  # noqa: B027  # some backends have nothing to release
        """Release the device; called once, only after a load."""


def _require_inputs(info: EngineInfo, inputs: Mapping[str, NDArray[Any]]) -> None:
    if set(inputs) != {spec.name for spec in info.inputs}:
        raise EngineError(f"a slot has the inputs {[spec.name for spec in info.inputs]}, not {list(inputs)}")
    for spec in info.inputs:
        given, shape = inputs[spec.name], (info.max_batch, *spec.shape)
        if (given.shape, given.dtype) != (shape, spec.dtype) or not given.flags.c_contiguous:
            raise EngineError(
                f"input {spec.name!r} of a slot must be C-contiguous, {shape} of {spec.dtype}, not {given.shape} of "
                f"{given.dtype}, strides {given.strides}"
            )


def host_run_times(started_ns: int) -> RunTimes:
    """The times of a run without copies, begun at ``time.monotonic_ns() == started_ns`` and ending now."""
    return RunTimes(0, time.monotonic_ns() - started_ns, 0)

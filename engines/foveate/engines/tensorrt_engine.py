"""Engines on NVIDIA GPUs by TensorRT, and by TensorRT for RTX."""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from foveate.engines.contract import EncodedRow, Engine, EngineInfo, RunTimes, Slot
from foveate.engines.cuda import Device, KernelCache, PictureKernels
from foveate.engines.cuda.jpeg_decoder import JpegDecoder
from foveate.engines.cuda.row_placer import RowPlacer
from foveate.engines.engine_record import EngineRecord, EngineUse
from foveate.engines.engine_store import BuiltEngine
from foveate.engines.errors import (
    BuildFailed,
    ConfigError,
    DeviceError,
    DeviceLost,
    DeviceOutOfMemory,
    EngineError,
    EngineUnavailable,
    RunFailed,
)
from foveate.engines.tensorrt_library import tensorrt_library
from foveate.engines.tensorrt_runtime import Plan, RuntimeCache
from foveate.engines.tensorrt_slot import DeviceSlot

__all__ = ["EngineMemory", "TensorRtEngine", "TensorRtRtxEngine"]

_log = logging.getLogger(__name__)

_FIRST = -1
"""Before other streams of the device, which decode the frames that come later."""


@dataclass(frozen=True, slots=True)
class EngineMemory:
    """What a loaded engine takes, in bytes."""

    weights_bytes: int
    context_bytes: int
    """What a run works in: once for all slots, as their runs follow one another."""
    slot_bytes: int
    """Inputs and outputs on the device, of all slots so far."""
    pinned_bytes: int
    """The same on the host, page-locked."""
    taken_bytes: int
    """By how much the device's free memory has shrunk since before the load: the library's own is in it, and what
    other processes took meanwhile."""

    @property
    def planned_bytes(self) -> int:
        """Of the device's memory, without the library's own."""
        return self.weights_bytes + self.context_bytes + self.slot_bytes


class TensorRtEngine(Engine):
    """A plan of TensorRT on a GPU.

    Up to `max_in_flight` batches overlap: while one runs, the next is copied in and the one before copied out. All
    run on one stream, in the order in which they come.
    Raises: ConfigError for a setting out of range. `load` raises EngineUnavailable without a driver, a GPU or the
    library, PlanMismatch for a plan that does not fit them, DeviceOutOfMemory, EngineError where there is no such
    file. `run` raises DeviceLost once only a new process can use the GPU.
    """

    backend = "tensorrt"

    @classmethod
    def from_file(
        cls, model_path: Path, *, name: str, max_batch: int, threads: int | None = None, precision: str = "fp32"
    ) -> Self:
        """An engine, not loaded yet, of a plan; `threads` has no meaning on a GPU."""
        return cls(model_path, name=name, max_batch=max_batch, precision=precision)

    @classmethod
    def from_built(cls, built: BuiltEngine, *, max_batch: int | None = None, **settings: Any) -> Self:
        """An engine, not loaded yet, of the engine store; it is held against its sidecar before it is opened.

        `max_batch` defaults to the largest that it was built for; `settings` are those of the class.
        """
        record = built.record
        if record.backend != cls.backend:
            raise ConfigError(f"the engine {built.key[:12]} is for {record.backend}, not for {cls.backend}")
        most = record.batch.max if max_batch is None else max_batch
        return cls(built.path, name=record.name, max_batch=most, precision=record.precision, record=record, **settings)

    def __init__(
        self,
        plan_path: Path,
        *,
        name: str,
        max_batch: int,
        precision: str = "fp32",
        record: EngineRecord | None = None,
        device: int = 0,
        layer: str = "cuda-python",
        max_in_flight: int = 2,
        graphs: bool = True,
    ) -> None:
        """Describe the engine; nothing is opened before `load`.

        `precision` is what the plan holds: it is told in `info` and changes nothing here.
        `device` is the GPU's index, `layer` one of foveate.engines.cuda.device.LAYERS.
        `max_in_flight`: with 2, copies hide behind runs; 3 helps only where copies take longer than runs.
        `graphs`: whether runs may be captured as CUDA graphs, for the batch sizes at which that is faster.
        """
        super().__init__()
        for setting, value in (("max_batch", max_batch), ("max_in_flight", max_in_flight)):
            if value < 1:
                raise ConfigError(f"{setting} must be at least 1, not {value}")
        self._path = plan_path
        self._name = name
        self._max_batch = max_batch
        self._precision = precision
        self._record = record
        self._device_index = device
        self._layer = layer
        self._max_in_flight = max_in_flight
        self._graphs = graphs
        self._graph_limit: int | None = None  # not known before the first slot
        self._lost: DeviceLost | None = None
        # Guards what slots share: the compute stream, the context and its memory.
        self._shared = threading.Lock()
        self._device_slots: list[DeviceSlot] = []
        self._placing = threading.Lock()  # guards the placer, which takes one batch at a time
        self._placer: RowPlacer | None = None
        self._placer_resources = ExitStack()
        self._takes_held = False  # the placer is there for more than JPEGs

    @property
    def memory(self) -> EngineMemory:
        """What the engine takes now. Raises: EngineError unless it is loaded."""
        self._require_open()
        with self._on_device():
            free, _ = self._device.memory_info()
        return EngineMemory(
            self._plan.weights_bytes,
            self._memory.nbytes,
            sum(each.device_bytes for each in self._device_slots),
            sum(each.pinned_bytes for each in self._device_slots),
            max(0, self._free_before - free),
        )

    def _load_impl(self) -> EngineInfo:
        device = Device.open(self._device_index, layer=self._layer)  # first: it tells at once that there is no GPU
        try:
            with device.current(), ExitStack() as undo:
                info = self._load_on(device, undo)
                self._resources = undo.pop_all()
        except BaseException:
            device.close()
            raise
        self._device = device
        return info

    def _load_on(self, device: Device, undo: ExitStack) -> EngineInfo:
        trt = tensorrt_library(self.backend)
        version = str(trt.__version__)
        capability = device.compute_capability
        self._free_before, total = device.memory_info()
        if self._record is not None:
            use = EngineUse(self._record.source_sha256, version, capability, self._max_batch, device.name)
            use.require_fit(self._record)
        cache = RuntimeCache(self._path.with_name(f"{self._path.stem}.{capability}.{version}.kernels"))
        plan = Plan(trt, self._content(total), str(self._path), cache)
        undo.callback(plan.close)
        plan.require_batches(self._max_batch)
        compute = device.new_stream(_FIRST)
        undo.callback(compute.close)
        memory = device.new_buffer(plan.context_bytes)
        undo.callback(memory.close)
        context = plan.new_context(memory, compute)
        undo.callback(context.close)
        self._plan, self._compute, self._memory, self._context = plan, compute, memory, context
        return EngineInfo(
            name=self._name,
            backend=self.backend,
            backend_version=version,
            precision=self._precision,
            device=f"cuda:{device.index}",
            inputs=plan.inputs,
            outputs=plan.outputs,
            max_batch=self._max_batch,
            max_in_flight=self._max_in_flight,
        )

    def _content(self, total: int) -> bytes:
        """The plan's bytes, unless it is certain that they do not fit the GPU."""
        try:
            needed = self._path.stat().st_size
            if self._record is not None:
                needed = self._record.memory.needed_bytes(self._max_in_flight)
            if needed > self._free_before:
                raise DeviceOutOfMemory(
                    f"{self._path} needs {needed >> 20} MiB of GPU memory, {self._free_before >> 20} of {total >> 20} "
                    "MiB are free: end what else uses the GPU, or build the model for a smaller batch"
                )
            return self._path.read_bytes()
        except OSError as error:
            raise EngineError(
                f"cannot read the plan {self._path} ({error.strerror}): build it, or correct the path"
            ) from error

    def _new_slot_impl(self, index: int) -> Slot:
        return self._new_slot_over_impl(index, {})

    def _new_slot_over_impl(self, index: int, inputs: Mapping[str, NDArray[Any]]) -> Slot:
        with self._on_device(), self._shared, ExitStack() as undo:
            made = DeviceSlot(index, self._plan, self._max_batch, self._device, inputs)
            undo.callback(made.close)
            undo.callback(self._device.finish)
            if self._graph_limit is None:
                self._warm_up(made)
                self._graph_limit = self._capture_while_faster(made) if self._graphs else 0
            else:
                for batch in range(1, self._graph_limit + 1):
                    made.capture(batch, self._plan, self._memory, self._compute)
            self._resources.push(undo.pop_all())
        self._device_slots.append(made)
        return made.slot

    def _warm_up(self, slot: DeviceSlot) -> None:
        """Run every batch size once, so that no frame waits for its kernels to be compiled or loaded."""
        for batch in range(1, self._max_batch + 1):
            slot.copy_in(batch)
            slot.infer(batch, self._context, self._compute)
            slot.copy_out(batch)
            slot.wait()
        self._plan.save_kernels()

    def _capture_while_faster(self, slot: DeviceSlot) -> int:
        """Capture from batch 1 up, and say for how many sizes that is worth while.

        What a graph saves is the host's time for launching kernels, of which a larger batch has no more: the first
        size that gains nothing is the end of it.
        """
        for batch in range(1, self._max_batch + 1):
            captured = slot.capture(batch, self._plan, self._memory, self._compute)
            if not captured or not slot.graph_pays(batch, self._context, self._compute):
                slot.drop_graph(batch)
                return batch - 1
        return self._max_batch

    def _run_impl(self, slot: Slot, batch: int) -> RunTimes:
        where = f"{self._name} on {self.info.device}, slot {slot.index}"
        try:
            with self._on_device():
                return self._run_on_device(self._device_slots[slot.index], batch)
        except DeviceLost as error:
            raise DeviceLost(f"{where}: {error}") from error
        except EngineError as error:
            raise RunFailed(f"{where}: {error}") from error

    def _run_on_device(self, slot: DeviceSlot, batch: int) -> RunTimes:
        try:
            slot.copy_in(batch)
            with self._shared:
                slot.infer(batch, self._context, self._compute)
            slot.copy_out(batch)
            return slot.wait()
        except BaseException:
            # What of this run is under way still reads and writes the slot, which the lane takes back.
            slot.forget_device_rows()
            self._device.synchronize()
            raise

    def _open_placer_impl(self) -> bool:
        """Where the input is a picture, and NVRTC is there."""
        with self._placing:
            self._takes_held = self._opened_placer() is not None
            return self._takes_held

    def _open_decoder_impl(self) -> bool:
        """Where nvImageCodec is there too."""
        with self._placing:
            placer = self._opened_placer()
            if placer is not None and placer.jpegs is None:
                try:
                    with self._on_device():
                        placer.jpegs = JpegDecoder(self._device)
                except (EngineUnavailable, DeviceOutOfMemory) as error:
                    _log.info("%s has its JPEGs decoded on the CPU: %s", self._name, error)
                    self._close_placer_without_use()
            return placer is not None and placer.jpegs is not None

    def _opened_placer(self) -> RowPlacer | None:
        if self._placer is None and self._takes_pictures:
            try:
                with self._on_device(), ExitStack() as undo:
                    kernels = PictureKernels(self._device, KernelCache())
                    undo.callback(kernels.close)
                    self._placer = RowPlacer(self._device, kernels)
                    undo.callback(self._placer.close)
                    self._placer_resources = undo.pop_all()
            except (EngineUnavailable, BuildFailed, DeviceOutOfMemory) as error:
                _log.info("%s takes no pictures on the device: %s", self._name, error)
        return self._placer

    def _close_placer_without_use(self) -> None:
        if not self._takes_held:
            self._placer = None
            with self._on_device():
                self._placer_resources.close()

    @property
    def _takes_pictures(self) -> bool:
        specs = self.info.inputs
        return len(specs) == 1 and specs[0].dtype == np.uint8 and specs[0].shape[2:] == (3,)

    def _close_decoder_impl(self) -> None:
        with self._placing, self._on_device():
            for slot in self._device_slots:
                slot.forget_device_rows()  # a run would wait for events that are the placer's
            if self._placer is not None:
                self._placer.jpegs = None
                self._close_placer_without_use()

    def _place_encoded_impl(self, slot: Slot, rows: Sequence[EncodedRow]) -> list[bool]:
        (spec,) = self.info.inputs
        height, width, _ = spec.shape
        with self._placing:
            self._require_open()  # it may have been closed while the decoder was busy
            self._device_slots[slot.index].forget_device_rows()
            if self._placer is None or not rows:
                return [False] * len(rows)
            with self._on_device():
                return self._placer.place(rows, slot.device_inputs[spec.name], (width, height))

    @contextmanager
    def _on_device(self) -> Iterator[None]:
        """Inside it the device is the thread's. Raises: DeviceLost from the first time on that it is raised inside."""
        if self._lost is not None:
            raise DeviceLost(f"the GPU was lost before: {self._lost}") from self._lost
        try:
            with self._device.current():
                yield
        except DeviceLost as error:
            self._lost = error
            raise

    def _close_impl(self) -> None:
        with self._placing, self._shared:
            self._placer = None
            try:
                with suppress(DeviceError), self._device.current():
                    self._device.finish()
                    self._placer_resources.close()
                    self._resources.close()
            finally:
                self._device.close()
                self._device_slots.clear()


class TensorRtRtxEngine(TensorRtEngine):
    """A plan of TensorRT for RTX on a GPU; as TensorRtEngine.

    The kernels that it compiles for the GPU at the first load lie beside the plan for the next one.
    """

    backend = "tensorrt_rtx"

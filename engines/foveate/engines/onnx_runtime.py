"""Engines on the CPU by ONNX Runtime: the default where there is no GPU."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from foveate.engines.contract import Engine, EngineInfo, RunTimes, Slot, TensorSpec, host_run_times
from foveate.engines.errors import ConfigError, EngineError, EngineUnavailable, PlanMismatch

__all__ = ["OnnxRuntimeEngine"]

_DTYPES: dict[str, np.dtype[Any]] = {
    "tensor(bool)": np.dtype(np.bool_),
    "tensor(double)": np.dtype(np.float64),
    "tensor(float)": np.dtype(np.float32),
    "tensor(float16)": np.dtype(np.float16),
    "tensor(int16)": np.dtype(np.int16),
    "tensor(int32)": np.dtype(np.int32),
    "tensor(int64)": np.dtype(np.int64),
    "tensor(int8)": np.dtype(np.int8),
    "tensor(uint16)": np.dtype(np.uint16),
    "tensor(uint32)": np.dtype(np.uint32),
    "tensor(uint64)": np.dtype(np.uint64),
    "tensor(uint8)": np.dtype(np.uint8),
}
"""ONNX Runtime's names of the element types that a NumPy buffer can hold."""

_DISABLED_REWRITES = ["WeightBiasQuantization"]
"""It puts float weights between int8 tensors into int8 too, one scale for all channels: just the weights that a
conversion left in float because they lose too much. Of float16 Q/DQ graphs it makes noise."""
_LOG_ERRORS = 3
_FEW_CORES = 4


class OnnxRuntimeEngine(Engine):
    """An ONNX file run by ONNX Runtime on the CPU, reading and writing its slots' buffers in place.

    Shapes: every input and output of the file has a dynamic first dimension, the batch; all others are fixed.
    Raises: ConfigError for a setting out of range. `load` raises EngineUnavailable without ONNX Runtime,
    EngineError where there is no such file, PlanMismatch for a file that it cannot run this way.
    """

    @classmethod
    def from_file(
        cls, model_path: Path, *, name: str, max_batch: int, threads: int | None = None, precision: str = "fp32"
    ) -> OnnxRuntimeEngine:
        return cls(model_path, name=name, max_batch=max_batch, precision=precision, intra_op_threads=threads)

    def __init__(
        self,
        model_path: Path,
        *,
        name: str,
        max_batch: int,
        precision: str = "fp32",
        intra_op_threads: int | None = None,
        allow_spinning: bool | None = None,
        optimize: bool = True,
    ) -> None:
        """Describe the engine; nothing is opened before `load`.

        `precision` is what the file holds: it is told in `info` and changes nothing here.
        `intra_op_threads`: None takes every core this process may run on. A container's CPU quota is not seen
        by it: set the number there.
        `allow_spinning`: None means only where there are more than 4 cores.
        `optimize`: off runs the graph node by node as it stands, to tell a fault of the graph from one of ONNX
        Runtime's rewrites.
        """
        super().__init__()
        if max_batch < 1:
            raise ConfigError(f"max_batch must be at least 1, not {max_batch}")
        if intra_op_threads is not None and intra_op_threads < 1:
            raise ConfigError(f"intra_op_threads must be at least 1, or None for all, not {intra_op_threads}")
        cores = len(os.sched_getaffinity(0))
        self._model_path = model_path
        self._name = name
        self._max_batch = max_batch
        self._precision = precision
        self._threads = cores if intra_op_threads is None else intra_op_threads
        # A spinning pool keeps its cores fully busy after each run, to start the next one some microseconds
        # sooner. With few cores those are the cores that decode the frames which the next run waits for.
        self._spin = cores > _FEW_CORES if allow_spinning is None else allow_spinning
        self._optimize = optimize
        self._session: Any = None
        self._bindings: list[list[Any]] = []

    def _load_impl(self) -> EngineInfo:
        runtime = _import_runtime()
        session = self._session_from_file(runtime)
        info = EngineInfo(
            name=self._name,
            backend="onnxruntime",
            backend_version=runtime.__version__,
            precision=self._precision,
            device="cpu",
            inputs=tuple(self._spec("input", node) for node in session.get_inputs()),
            outputs=tuple(self._spec("output", node) for node in session.get_outputs()),
            max_batch=self._max_batch,
        )
        self._session = session
        return info

    def _session_from_file(self, runtime: ModuleType) -> Any:
        if not self._model_path.is_file():
            raise EngineError(f"no model file at {self._model_path}: prepare the model, or correct the path")
        try:
            return runtime.InferenceSession(
                os.fspath(self._model_path),
                self._options(runtime),
                providers=["CPUExecutionProvider"],
                disabled_optimizers=_DISABLED_REWRITES,
            )
        except Exception as error:  # ONNX Runtime's exceptions have no common base
            raise PlanMismatch(
                f"ONNX Runtime {runtime.__version__} cannot load {self._model_path}: {error}. "
                "Prepare the model again, or install the version that it was prepared for"
            ) from error

    def _options(self, runtime: ModuleType) -> Any:
        options = runtime.SessionOptions()
        options.intra_op_num_threads = self._threads
        options.inter_op_num_threads = 1
        options.execution_mode = runtime.ExecutionMode.ORT_SEQUENTIAL
        options.add_session_config_entry("session.intra_op.allow_spinning", "1" if self._spin else "0")
        levels = runtime.GraphOptimizationLevel
        options.graph_optimization_level = levels.ORT_ENABLE_ALL if self._optimize else levels.ORT_DISABLE_ALL
        options.log_severity_level = _LOG_ERRORS
        return options

    def _spec(self, role: str, node: Any) -> TensorSpec:
        """The description of one input or output; dynamic dimensions are names (or None), others ints."""
        where = f"{self._model_path}: {role} {node.name!r} of type {node.type} and shape {node.shape}"
        if node.type not in _DTYPES:
            raise PlanMismatch(f"{where} cannot be held in a buffer: expected one of {', '.join(_DTYPES)}")
        if not node.shape or isinstance(node.shape[0], int):
            raise PlanMismatch(
                f"{where} has no dynamic batch: its first dimension must be a name, such as 'batch'. "
                "Export the model with a dynamic batch dimension, or prepare it as a model package"
            )
        if not all(isinstance(size, int) for size in node.shape[1:]):
            raise PlanMismatch(
                f"{where} is dynamic beyond the batch: slots are allocated once, so every dimension but "
                "the first must be a number. Export it for one input size, or prepare it as a model package"
            )
        return TensorSpec(node.name, _DTYPES[node.type], tuple(node.shape[1:]))

    def _new_slot_impl(self, index: int) -> Slot:
        return self._bound(super()._new_slot_impl(index))

    def _new_slot_over_impl(self, index: int, inputs: Mapping[str, NDArray[Any]]) -> Slot:
        return self._bound(Slot(index, inputs, super()._new_slot_impl(index).outputs))

    def _bound(self, slot: Slot) -> Slot:
        # All batches are bound now, so that a run is one look-up and one call.
        self._bindings.append([self._bind(slot, batch) for batch in range(1, self._max_batch + 1)])
        return slot

    def _bind(self, slot: Slot, batch: int) -> Any:
        """Rows ``[0:batch]`` of a slot as the session's inputs and outputs, by address."""
        binding = self._session.io_binding()
        for bind, buffers in ((binding.bind_input, slot.inputs), (binding.bind_output, slot.outputs)):
            _bind_rows(bind, buffers, batch)
        return binding

    def _run_impl(self, slot: Slot, batch: int) -> RunTimes:
        binding = self._bindings[slot.index][batch - 1]
        started_ns = time.monotonic_ns()
        self._session.run_with_iobinding(binding)
        return host_run_times(started_ns)

    def _close_impl(self) -> None:
        self._bindings.clear()
        self._session = None


def _bind_rows(bind: Any, buffers: Mapping[str, NDArray[Any]], batch: int) -> None:
    for name, buffer in buffers.items():
        bind(name, "cpu", 0, buffer.dtype.type, (batch, *buffer.shape[1:]), buffer.ctypes.data)


def _import_runtime() -> ModuleType:
    try:
        import onnxruntime
    except ImportError as error:
        raise EngineUnavailable(
            f"ONNX Runtime is not usable here ({error}): install it with `pip install onnxruntime`"
        ) from error
    module: ModuleType = onnxruntime
    return module

"""Plans of TensorRT and TensorRT for RTX, deserialised, and the contexts that run them on streams."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from foveate.engines.atomic_files import write_file
from foveate.engines.contract import TensorSpec
from foveate.engines.cuda import DeviceBuffer, Stream
from foveate.engines.errors import EngineError, EngineUnavailable, PlanMismatch
from foveate.engines.tensorrt_library import MessageLog, new_logger

__all__ = ["Context", "Plan", "RuntimeCache"]

_log = logging.getLogger(__name__)

_REBUILD = "build it again on this machine with `foveate build`"


class RuntimeCache:
    """The kernels that TensorRT for RTX compiles on the GPU, kept on disk for the next start."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._cache: Any = None
        self._kept = b""

    def attach(self, config: Any) -> None:
        """Give what is kept to a runtime configuration; what does not fit it is begun anew."""
        self._cache = config.create_runtime_cache()
        try:
            self._kept = self._path.read_bytes()
        except OSError:
            self._kept = b""
        if self._kept and not self._cache.deserialize(self._kept):
            self._cache.reset()
        config.set_runtime_cache(self._cache)

    def save(self) -> None:
        """Keep what was compiled since; a folder that cannot be written only costs the next start its time."""
        content = b"" if self._cache is None else bytes(self._cache.serialize() or b"")
        if not content or content == self._kept:
            return
        try:
            write_file(self._path, content)
            self._kept = content
        except OSError as error:
            _log.info("the compiled kernels were not kept in %s: %s", self._path, error.strerror)

    def close(self) -> None:
        self._cache = None


class Plan:
    """A deserialised plan. Its device must be current, for each call and for `close`.

    Raises: PlanMismatch for a plan that does not fit the library, the GPU, or a slot's buffers.
    """

    def __init__(self, trt: Any, content: bytes, where: str, cache: RuntimeCache) -> None:
        self._trt = trt
        self._where = where
        self._cache = cache
        self._log = MessageLog()
        self._logger = new_logger(trt, self._log)  # the library keeps no reference to it
        self._runtime: Any = None
        self._engine: Any = None
        self._config: Any = None
        try:
            self._open(content)
        except BaseException:
            self.close()  # now, while the device is there, and not when the error is forgotten
            raise

    @property
    def context_bytes(self) -> int:
        """Of device memory that a context needs while it runs, at the largest batch."""
        return int(self._engine.device_memory_size_v2)

    @property
    def weights_bytes(self) -> int:
        """Of device memory that the weights take."""
        return int(self._engine.get_engine_stat(self._trt.EngineStat.TOTAL_WEIGHTS_SIZE))

    def require_batches(self, most: int) -> None:
        """Raises: PlanMismatch unless the plan takes every batch from 1 to `most`."""
        for spec in self.inputs:
            least, _, greatest = (shape[0] for shape in self._engine.get_tensor_profile_shape(spec.name, 0))
            if least > 1 or greatest < most:
                raise PlanMismatch(
                    f"{self._where} takes batches of {least} to {greatest}, batches of 1 to {most} were asked for: "
                    "serve it with a smaller one, or build it for these"
                )

    def new_context(self, memory: DeviceBuffer, stream: Stream) -> Context:
        """A context that works in the given memory, which others may use too, one after the other on one stream."""
        context = self._engine.create_execution_context(self._config)
        if context is None:
            raise EngineError(f"{self._title} made no context of {self._where}: {self._log.reason()}")
        context.set_device_memory(memory.address, memory.nbytes)
        if context.active_optimization_profile != 0 and not context.set_optimization_profile_async(0, stream.address):
            raise EngineError(f"{self._title} refuses the profile of {self._where}: {self._log.reason()}")
        return Context(context, self._log)

    def save_kernels(self) -> None:
        """Keep what was compiled on the GPU for the next start, where the library compiles there."""
        self._cache.save()

    def close(self) -> None:
        """Release the plan; its contexts must be closed."""
        self._cache.close()
        self._config = self._engine = self._runtime = None

    def _open(self, content: bytes) -> None:
        trt = self._trt
        try:
            self._runtime = trt.Runtime(self._logger)
        except TypeError as error:  # how the bindings say that the library returned nothing
            raise EngineUnavailable(f"{self._title} could not start here: {self._log.reason()}") from error
        self._require_valid(content)
        self._engine = self._runtime.deserialize_cuda_engine(content)
        if self._engine is None:
            raise PlanMismatch(f"{self._title} cannot load {self._where}: {self._log.reason()}; {_REBUILD}")
        names = [self._engine.get_tensor_name(index) for index in range(self._engine.num_io_tensors)]
        given = {name for name in names if self._engine.get_tensor_mode(name) == trt.TensorIOMode.INPUT}
        self.inputs = tuple(self._spec(name) for name in names if name in given)
        self.outputs = tuple(self._spec(name) for name in names if name not in given)
        self._config = self._new_config()

    @property
    def _title(self) -> str:
        return f"{self._trt.__name__} {self._trt.__version__}"

    def _require_valid(self, content: bytes) -> None:
        """Ask whether a plan can run here, by its first bytes, where the library can tell."""
        if not hasattr(self._runtime, "get_engine_validity"):
            return
        header = content[: max(self._runtime.engine_header_size, 1)]
        validity, diagnostics = self._runtime.get_engine_validity(header)
        if validity == self._trt.EngineValidity.INVALID:
            kinds = self._trt.EngineInvalidityDiagnostics.__members__.items()
            reasons = [name for name, kind in kinds if int(kind) & int(diagnostics)] or [str(diagnostics)]
            raise PlanMismatch(f"{self._title} cannot run {self._where} here ({', '.join(reasons)}): {_REBUILD}")
        if validity == self._trt.EngineValidity.SUBOPTIMAL:
            _log.warning("%s is not the best that %s could run here: %s", self._where, self._title, _REBUILD)

    def _new_config(self) -> Any:
        """How contexts are made: on our memory, and with graphs that we capture ourselves."""
        trt = self._trt
        on_ours = trt.ExecutionContextAllocationStrategy.USER_MANAGED
        if not hasattr(self._engine, "create_runtime_config"):  # earlier versions of TensorRT 10
            return on_ours
        config = self._engine.create_runtime_config()
        config.set_execution_context_allocation_strategy(on_ours)
        if hasattr(config, "cuda_graph_strategy"):  # TensorRT for RTX
            config.cuda_graph_strategy = trt.CudaGraphStrategy.DISABLED
            # A size's own kernels are compiled when it first runs, while the first slot is made, and then stay.
            config.dynamic_shapes_kernel_specialization_strategy = trt.DynamicShapesKernelSpecializationStrategy.EAGER
            self._cache.attach(config)
        return config

    def _spec(self, name: str) -> TensorSpec:
        shape = tuple(self._engine.get_tensor_shape(name))
        where = f"{self._where}: tensor {name!r} {shape}"
        if shape[:1] != (-1,) or any(size < 0 for size in shape[1:]):
            raise PlanMismatch(
                f"{where} must have a dynamic batch and otherwise fixed sizes, as slots are allocated once: prepare "
                "the model as a package and build it again"
            )
        if self._engine.get_tensor_location(name) != self._trt.TensorLocation.DEVICE:
            raise PlanMismatch(f"{where} is read on the host, as a shape: export the model without shape inputs")
        try:
            dtype = np.dtype(self._trt.nptype(self._engine.get_tensor_dtype(name)))
        except TypeError as error:
            raise PlanMismatch(f"{where} has no element type of NumPy's: cast it in the graph") from error
        return TensorSpec(name, dtype, shape[1:])


class Context:
    """One execution context: the addresses and the batch that it is bound to."""

    def __init__(self, context: Any, log: MessageLog) -> None:
        self._context = context
        self._log = log
        self._bound: tuple[int, int] | None = None

    def bind(self, key: int, batch: int, inputs: Mapping[TensorSpec, int], outputs: Mapping[TensorSpec, int]) -> None:
        """Read and write at these addresses from now on; `key` names them, so that binding again costs nothing.

        Raises: EngineError if the library refuses.
        """
        if self._bound == (key, batch):
            return
        self._bound = None
        self._log.clear()
        for spec, address in inputs.items():
            self._require(self._context.set_input_shape(spec.name, (batch, *spec.shape)), f"a batch of {batch}")
            self._require(self._context.set_tensor_address(spec.name, address), spec.name)
        for spec, address in outputs.items():
            self._require(self._context.set_tensor_address(spec.name, address), spec.name)
        self._bound = key, batch

    def enqueue(self, stream: Stream) -> None:
        """Run what is bound, in the order of a stream. Raises: EngineError if the library refuses."""
        self._log.clear()
        self._require(self._context.execute_async_v3(stream.address), "the run")

    def capturable(self, stream: Stream) -> bool:
        """Whether a run can be captured; TensorRT itself finds out by trying."""
        if not hasattr(self._context, "is_stream_capturable"):
            return True
        return bool(self._context.is_stream_capturable(stream.address))

    def close(self) -> None:
        self._context = None

    def _require(self, accepted: bool, what: str) -> None:
        if not accepted:
            raise EngineError(f"TensorRT refused {what}: {self._log.reason()}")

"""A stand-in for the runtime of the `tensorrt` and `tensorrt_rtx` modules, whose engines run on a FakeCuda.

Its names and calls are those of TensorRT 11 and of TensorRT for RTX 1.7, as far as an engine uses them. What the
libraries' documentation calls undefined is a Hazard: above all a context that is bound anew after its run was
captured.
"""

from __future__ import annotations

import json
import weakref
from types import SimpleNamespace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from support.fake_cuda import FakeCuda, Hazard, Span

__all__ = ["FakeRuntimeLibrary", "plan_bytes"]

PIXELS = ("pixels", "uint8", (4, 4, 3))
SCORES = ("scores", "float32", (5,))
BOXES = ("boxes", "float16", (2, 4))


def plan_bytes(
    inputs: tuple[Any, ...] = (PIXELS,), outputs: tuple[Any, ...] = (SCORES, BOXES), batches: tuple[int, int] = (1, 4)
) -> bytes:
    """A plan: tensors as (name, dtype, shape without the batch), and the batches that it takes."""
    return json.dumps({"inputs": inputs, "outputs": outputs, "batches": batches}).encode()


class FakeRuntimeLibrary:
    """The module. `cost_ns` is a row's time on the GPU, `launch_ns` the host's for launching a run."""

    ILogger = object
    TensorIOMode = SimpleNamespace(INPUT="input", OUTPUT="output")
    TensorLocation = SimpleNamespace(DEVICE="device", HOST="host")
    ExecutionContextAllocationStrategy = SimpleNamespace(USER_MANAGED="user managed")
    EngineStat = SimpleNamespace(TOTAL_WEIGHTS_SIZE="weights")
    CudaGraphStrategy = SimpleNamespace(DISABLED="disabled")
    DynamicShapesKernelSpecializationStrategy = SimpleNamespace(EAGER="eager")
    EngineValidity = SimpleNamespace(VALID=0, SUBOPTIMAL=1, INVALID=2)
    EngineInvalidityDiagnostics = SimpleNamespace(__members__={"VERSION_MISMATCH": 1, "UNSUPPORTED_CC": 2})

    WEIGHTS = 4096
    CONTEXT = 1024

    def __init__(self, cuda: FakeCuda, *, rtx: bool = False, version: str = "11.4.0.106") -> None:
        self.__name__ = "tensorrt_rtx" if rtx else "tensorrt"
        self.__version__ = version
        self.cuda = cuda
        self.rtx = rtx
        self.cost_ns = 10_000
        self.launch_ns = 50_000
        self.validity = (0, 0)
        self.capturable = True
        """What a context answers; a run of another library that cannot be captured spoils the capture."""
        self.refuses_capture = False
        self.has_configs = True
        """Not in earlier versions of TensorRT 10."""
        self.refuse: set[str] = set()
        """Calls that answer with a refusal."""
        self.runs: list[tuple[int, bool]] = []
        """The batch of each run that was enqueued, and whether that was for a capture."""
        self.caches: list[bytes] = []
        self._alive: weakref.WeakSet[Any] = weakref.WeakSet()

    @property
    def alive(self) -> list[str]:
        return sorted(type(each).__name__ for each in self._alive)

    def nptype(self, dtype: Any) -> Any:
        if dtype == "bfloat16":
            raise TypeError("no such type")
        return np.dtype(dtype).type

    def Runtime(self, logger: Any) -> Any:
        if "Runtime" in self.refuse:
            logger.log(SimpleNamespace(name="ERROR"), "the driver is too old")
            raise TypeError("factory function returned nullptr")
        runtime = _RtxRuntime(self, logger) if self.rtx else _Runtime(self, logger)
        self._alive.add(runtime)
        return runtime


class _Runtime:
    def __init__(self, library: FakeRuntimeLibrary, logger: Any) -> None:
        self._library = library
        self._logger = logger

    def deserialize_cuda_engine(self, content: bytes) -> _Engine | None:
        if content[:1] != b"{":
            self._logger.log(SimpleNamespace(name="ERROR"), "the magic tag does not match")
            return None
        kind = _ConfiguredEngine if self._library.has_configs else _Engine
        engine = kind(self._library, json.loads(content))
        self._library._alive.add(engine)
        return engine


class _RtxRuntime(_Runtime):
    engine_header_size = 16

    def get_engine_validity(self, header: bytes) -> tuple[int, int]:
        assert len(header) <= self.engine_header_size
        return self._library.validity


class _Engine:
    def __init__(self, library: FakeRuntimeLibrary, plan: dict[str, Any]) -> None:
        self.library = library
        self.tensors = {name: (dtype, tuple(shape)) for name, dtype, shape in plan["inputs"] + plan["outputs"]}
        self.inputs: list[str] = [each[0] for each in plan["inputs"]]
        self.outputs: list[str] = [each[0] for each in plan["outputs"]]
        self.batches: tuple[int, int] = tuple(plan["batches"])
        self.device_memory_size_v2 = library.CONTEXT
        library.cuda.reserved_bytes += library.WEIGHTS
        weakref.finalize(self, _give_back, library.cuda, library.WEIGHTS)

    @property
    def num_io_tensors(self) -> int:
        return len(self.tensors)

    def get_tensor_name(self, index: int) -> str:
        return [*self.inputs, *self.outputs][index]

    def get_tensor_mode(self, name: str) -> str:
        return "input" if name in self.inputs else "output"

    def get_tensor_shape(self, name: str) -> tuple[int, ...]:
        shape = self.tensors[name][1]
        return shape[1:] if shape[:1] == (0,) else (-1, *shape)  # a leading 0 stands for a shape without a batch

    def get_tensor_dtype(self, name: str) -> str:
        return str(self.tensors[name][0])

    def get_tensor_location(self, name: str) -> str:
        return "host" if name == "sizes" else "device"

    def get_tensor_profile_shape(self, name: str, profile: int) -> list[tuple[int, ...]]:
        least, most = self.batches
        return [(rows, *self.tensors[name][1]) for rows in (least, most, most)]

    def get_engine_stat(self, stat: str) -> int:
        assert stat == "weights"
        return self.library.WEIGHTS

    def create_execution_context(self, config: Any) -> _Context | None:
        assert getattr(config, "strategy", config) == "user managed"
        if "create_execution_context" in self.library.refuse:
            return None
        context = _RtxContext(self) if self.library.rtx else _Context(self)
        self.library._alive.add(context)
        return context


class _ConfiguredEngine(_Engine):
    def create_runtime_config(self) -> Any:
        return _RtxConfig(self.library) if self.library.rtx else _Config()


def _give_back(cuda: FakeCuda, nbytes: int) -> None:
    cuda.reserved_bytes -= nbytes


class _Config:
    strategy = ""

    def set_execution_context_allocation_strategy(self, strategy: str) -> None:
        self.strategy = strategy


class _RtxConfig(_Config):
    cuda_graph_strategy = dynamic_shapes_kernel_specialization_strategy = ""

    def __init__(self, library: FakeRuntimeLibrary) -> None:
        self._library = library

    def create_runtime_cache(self) -> _Cache:
        return _Cache(self._library)

    def set_runtime_cache(self, cache: _Cache) -> bool:
        self.cache = cache
        return True


class _Cache:
    def __init__(self, library: FakeRuntimeLibrary) -> None:
        self._library = library
        self.content = b""

    def deserialize(self, content: bytes) -> bool:
        self._library.caches.append(content)
        self.content = b"half of it"
        return content != b"stale"

    def reset(self) -> None:
        self.content = b""

    def serialize(self) -> bytes:
        return self.content or b"compiled"


class _Context:
    active_optimization_profile = 0

    def __init__(self, engine: _Engine) -> None:
        self.engine = engine
        self.batch = 0
        self.addresses: dict[str, int] = {}
        self._memory: Span | None = None
        self._captured = False
        self._ran: int = 0

    def set_device_memory(self, address: int, size: int) -> None:
        assert address % 256 == 0
        assert size >= self.engine.device_memory_size_v2
        self._memory = (address, address + size)

    def set_input_shape(self, name: str, shape: tuple[int, ...]) -> bool:
        self._require_unbound()
        least, most = self.engine.batches
        self.batch = shape[0]
        return "set_input_shape" not in self.engine.library.refuse and least <= shape[0] <= most

    def set_tensor_address(self, name: str, address: int) -> bool:
        self._require_unbound()
        self.addresses[name] = address
        return "set_tensor_address" not in self.engine.library.refuse

    def execute_async_v3(self, stream: int) -> bool:
        library = self.engine.library
        if "execute_async_v3" in library.refuse:
            return False
        if self._memory is None or set(self.addresses) != set(self.engine.tensors):
            raise Hazard("a run without memory to work in, or without addresses")
        capturing = library.cuda.capturing(stream)
        if capturing and (self._ran != self.batch or library.refuses_capture):
            library.cuda.spoil_capture(stream)
            return False
        self._captured |= capturing
        self._ran = self.batch
        library.runs.append((self.batch, capturing))
        if not capturing:
            library.cuda.spend_host_ns(library.launch_ns)
        library.cuda.give(
            stream,
            f"a run of {self.batch}",
            _run_of(self),
            reads=[self._span(name) for name in self.engine.inputs],
            writes=[*(self._span(name) for name in self.engine.outputs), self._memory],
            cost_ns=library.cost_ns * self.batch,
        )
        return True

    def _span(self, name: str) -> Span:
        dtype, shape = self.engine.tensors[name]
        start = self.addresses[name]
        return start, start + self.batch * int(np.prod(shape)) * np.dtype(dtype).itemsize

    def _require_unbound(self) -> None:
        if self._captured:
            raise Hazard("a context was bound anew after its run was captured")


def _run_of(context: _Context) -> Any:
    """A run as its context is bound now. It knows its context without keeping it alive, as CUDA's graphs do."""
    known, addresses, batch = weakref.ref(context), dict(context.addresses), context.batch

    def act() -> None:
        alive = known()
        if alive is None:
            raise Hazard("a context was released before its run was done")
        _compute(alive.engine, addresses, batch)

    return act


class _RtxContext(_Context):
    def is_stream_capturable(self, stream: int) -> bool:
        return self.engine.library.capturable


def _compute(engine: _Engine, addresses: dict[str, int], batch: int) -> None:
    cuda = engine.library.cuda
    rows = np.hstack([_read(cuda, engine.tensors[name], addresses[name], batch) for name in engine.inputs])
    for name in engine.outputs:
        dtype, shape = engine.tensors[name]
        weights = np.random.default_rng(len(name)).random((rows.shape[1], int(np.prod(shape))))
        with np.errstate(all="ignore"):  # of floats that nobody has written yet
            cuda.write(addresses[name], (rows @ weights / rows.shape[1]).astype(dtype).tobytes())


def _read(cuda: FakeCuda, tensor: tuple[str, tuple[int, ...]], address: int, batch: int) -> NDArray[np.float64]:
    dtype, shape = np.dtype(tensor[0]), tensor[1]
    content = cuda.read(address, batch * int(np.prod(shape)) * dtype.itemsize)
    return content.view(dtype).reshape(batch, -1).astype(np.float64)

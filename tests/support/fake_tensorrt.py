"""A stand-in for the `tensorrt` module, which compiles nothing and notes what it was told.

Its names and calls are those of TensorRT 10 and 11, as far as the builder uses them.
"""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import onnx

__all__ = ["FakeTensorRt"]


class FakeTensorRt:
    """The module; `told` collects settings by name."""

    PLAN = b"a plan of the fake"

    def __init__(self, version: str = "11.4.0.106") -> None:
        self.__version__ = version
        self.told: dict[str, Any] = {}
        self.NetworkDefinitionCreationFlag = SimpleNamespace(STRONGLY_TYPED=1)
        self.MemoryPoolType = SimpleNamespace(WORKSPACE="workspace")
        self.BuilderFlag = SimpleNamespace(VERSION_COMPATIBLE="version compatible")
        self.HardwareCompatibilityLevel = SimpleNamespace(AMPERE_PLUS="ampere", SAME_COMPUTE_CAPABILITY="same")
        self.ILogger = self.IProgressMonitor = _Base

    def Builder(self, logger: Any) -> _Builder:
        self.told["logger"] = logger
        return _Builder(self.told)

    def OnnxParser(self, network: _Network, logger: Any) -> _Parser:
        return _Parser(network)

    def nptype(self, dtype: Any) -> Any:
        return dtype


class _Base:
    """Of classes that the library lets a program derive from."""


class _Network:
    name = ""

    def __init__(self) -> None:
        self.inputs: list[Any] = []
        self.outputs: list[Any] = []

    @property
    def num_inputs(self) -> int:
        return len(self.inputs)

    @property
    def num_outputs(self) -> int:
        return len(self.outputs)

    def get_input(self, index: int) -> Any:
        return self.inputs[index]

    def get_output(self, index: int) -> Any:
        return self.outputs[index]


class _Parser:
    num_errors = 0

    def __init__(self, network: _Network) -> None:
        self._network = network

    def parse(self, content: bytes) -> bool:
        graph = onnx.load_from_string(content).graph
        for tensors, values in ((self._network.inputs, graph.input), (self._network.outputs, graph.output)):
            tensors.extend(_tensor(value) for value in values)
        return True


def _tensor(value: onnx.ValueInfoProto) -> Any:
    kind = value.type.tensor_type
    shape = tuple(dim.dim_value if dim.HasField("dim_value") else -1 for dim in kind.shape.dim)
    dtype = onnx.helper.tensor_dtype_to_np_dtype(kind.elem_type)
    return SimpleNamespace(name=value.name, shape=shape, dtype=np.dtype(dtype))


class _Config:
    progress_monitor: Any = None

    def __init__(self, told: dict[str, Any]) -> None:
        self._told = told

    def __setattr__(self, name: str, value: Any) -> None:
        if not name.startswith("_"):
            self._told[name] = value
        object.__setattr__(self, name, value)

    def set_memory_pool_limit(self, pool: str, size: int) -> None:
        self._told[pool] = size

    def set_flag(self, flag: str) -> None:
        self._told.setdefault("flags", []).append(flag)

    def add_optimization_profile(self, profile: _Profile) -> int:
        self._told["profile"] = profile.shapes
        return 0

    def create_timing_cache(self, content: bytes) -> _TimingCache:
        return _TimingCache(content)

    def set_timing_cache(self, cache: _TimingCache, ignore_mismatch: bool) -> bool:
        assert not ignore_mismatch
        return cache.content != b"stale"


class _TimingCache:
    def __init__(self, content: bytes) -> None:
        self.content = content

    def serialize(self) -> bytes:
        return self.content + b"+"


class _Profile:
    def __init__(self) -> None:
        self.shapes: dict[str, tuple[Any, ...]] = {}

    def set_shape(self, name: str, *shapes: tuple[int, ...]) -> None:
        self.shapes[name] = shapes


class _Builder:
    def __init__(self, told: dict[str, Any]) -> None:
        self._told = told

    def create_network(self, flags: int) -> _Network:
        self._told["network flags"] = flags
        return _Network()

    def create_builder_config(self) -> _Config:
        return _Config(self._told)

    def create_optimization_profile(self) -> _Profile:
        return _Profile()

    def build_serialized_network(self, network: _Network, config: _Config) -> bytes | None:
        self._told["network name"] = network.name
        monitor, logger = config.progress_monitor, self._told["logger"]
        monitor.phase_start("Building engine", None, 2)
        for step in range(2):
            if not monitor.step_complete("Building engine", step):
                return None
        monitor.phase_finish("Building engine")
        logger.log(SimpleNamespace(name="INFO"), "Total Weights Memory: 1234 bytes")
        return FakeTensorRt.PLAN

"""Backends by name, imported on use: a backend whose library is missing costs nothing until it is used."""

from __future__ import annotations

from importlib import import_module

from foveate.engines.contract import Engine
from foveate.engines.errors import ConfigError

__all__ = ["backend_names", "engine_class"]

_BACKENDS = {
    "fake": "foveate.engines.fake:FakeEngine",
    "onnxruntime": "foveate.engines.onnx_runtime:OnnxRuntimeEngine",
    "tensorrt": "foveate.engines.tensorrt_engine:TensorRtEngine",
    "tensorrt_rtx": "foveate.engines.tensorrt_engine:TensorRtRtxEngine",
    "torch": "foveate.engines.torch_engine:TorchEngine",
}


def backend_names() -> tuple[str, ...]:
    """The backends that `engine_class` knows; whether one can run here is seen when its engine is loaded."""
    return tuple(sorted(_BACKENDS))


def engine_class(backend: str) -> type[Engine]:
    """The class that runs a backend's engines. Raises: ConfigError for an unknown backend."""
    if backend not in _BACKENDS:
        raise ConfigError(f"no backend is called {backend!r}: choose one of {', '.join(backend_names())}")
    module_name, class_name = _BACKENDS[backend].split(":")
    found: type[Engine] = getattr(import_module(module_name), class_name)
    return found

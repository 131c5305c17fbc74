"""CUDA by cuda-python's bindings of the driver: the default."""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from importlib import import_module
from typing import Any

import numpy as np
from numpy.typing import NDArray

from foveate.engines.cuda.layer import Bytes, CudaLayer, Extent, Handle
from foveate.engines.cuda.status import error_from_code
from foveate.engines.errors import EngineUnavailable

__all__ = ["DriverLayer"]

_INSTALL = "install the GPU's packages with `pip install 'foveate[gpu]'`, or 'foveate[rtx]'"


class DriverLayer(CudaLayer):
    """A device by its index. Raises: EngineUnavailable without a driver, its bindings, or such a GPU."""

    name = "cuda-python"

    def __init__(self, index: int = 0) -> None:
        self._driver = _load_driver()
        self._device = self._call(self._driver.cuDeviceGet, index)
        self._context = self._call(self._driver.cuDevicePrimaryCtxRetain, self._device)

    def _call(self, function: Callable[..., Any], *arguments: Any) -> Any:
        return _driver_call(self._driver, function, *arguments)

    def close(self) -> None:
        self._call(self._driver.cuDevicePrimaryCtxRelease, self._device)

    def enter(self) -> None:
        self._call(self._driver.cuCtxPushCurrent, self._context)

    def leave(self) -> None:
        self._call(self._driver.cuCtxPopCurrent)

    def device_name(self) -> str:
        name: bytes = self._call(self._driver.cuDeviceGetName, 256, self._device)
        return name.split(b"\0", 1)[0].decode()

    def compute_capability(self) -> tuple[int, int]:
        kinds = self._driver.CUdevice_attribute
        major = kinds.CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR
        minor = kinds.CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR
        return self._attribute(major), self._attribute(minor)

    def _attribute(self, kind: Any) -> int:
        return int(self._call(self._driver.cuDeviceGetAttribute, kind, self._device))

    def memory_info(self) -> tuple[int, int]:
        free, total = self._call(self._driver.cuMemGetInfo)
        return int(free), int(total)

    def synchronize(self) -> None:
        self._call(self._driver.cuCtxSynchronize)

    def stream_create(self, priority: int) -> Handle:
        flags = int(self._driver.CUstream_flags.CU_STREAM_NON_BLOCKING)
        return int(self._call(self._driver.cuStreamCreateWithPriority, flags, priority))

    def stream_destroy(self, stream: Handle) -> None:
        self._call(self._driver.cuStreamDestroy, stream)

    def stream_address(self, stream: Handle) -> int:
        return int(stream)

    def stream_synchronize(self, stream: Handle) -> None:
        self._call(self._driver.cuStreamSynchronize, stream)

    def stream_wait(self, stream: Handle, event: int) -> None:
        self._call(self._driver.cuStreamWaitEvent, stream, event, 0)

    def event_create(self) -> Handle:
        flags = int(self._driver.CUevent_flags.CU_EVENT_BLOCKING_SYNC)
        return int(self._call(self._driver.cuEventCreate, flags))

    def event_destroy(self, event: Handle) -> None:
        self._call(self._driver.cuEventDestroy, event)

    def event_address(self, event: Handle) -> int:
        return int(event)

    def event_record(self, event: Handle, stream: Handle) -> None:
        self._call(self._driver.cuEventRecord, event, stream)

    def event_synchronize(self, event: Handle) -> None:
        self._call(self._driver.cuEventSynchronize, event)

    def event_elapsed_ms(self, start: Handle, end: Handle) -> float:
        return float(self._call(self._driver.cuEventElapsedTime, start, end))

    def pinned_alloc(self, nbytes: int) -> Bytes:
        address = int(self._call(self._driver.cuMemHostAlloc, nbytes, 0))
        memory = np.ctypeslib.as_array((ctypes.c_uint8 * nbytes).from_address(address))
        memory.fill(0)
        return memory

    def pinned_free(self, memory: Bytes) -> None:
        self._call(self._driver.cuMemFreeHost, memory.ctypes.data)

    def host_register(self, memory: NDArray[Any]) -> Handle:
        self._call(self._driver.cuMemHostRegister, memory.ctypes.data, memory.nbytes, 0)
        return memory.ctypes.data

    def host_unregister(self, registered: Handle) -> None:
        self._call(self._driver.cuMemHostUnregister, registered)

    def memory_alloc(self, nbytes: int) -> int:
        return int(self._call(self._driver.cuMemAlloc, nbytes))

    def memory_free(self, address: int) -> None:
        self._call(self._driver.cuMemFree, address)

    def memory_alloc_async(self, nbytes: int, stream: Handle) -> int:
        return int(self._call(self._driver.cuMemAllocAsync, nbytes, stream))

    def memory_free_async(self, address: int, stream: Handle) -> None:
        self._call(self._driver.cuMemFreeAsync, address, stream)

    def copy_to_device(self, address: int, host: NDArray[Any], stream: Handle) -> None:
        self._call(self._driver.cuMemcpyHtoDAsync, address, host.ctypes.data, host.nbytes, stream)

    def copy_to_host(self, host: NDArray[Any], address: int, stream: Handle) -> None:
        self._call(self._driver.cuMemcpyDtoHAsync, host.ctypes.data, address, host.nbytes, stream)

    def copy_on_device(self, to: int, source: int, nbytes: int, stream: Handle) -> None:
        self._call(self._driver.cuMemcpyDtoDAsync, to, source, nbytes, stream)

    def capture_begin(self, stream: Handle) -> None:
        # Of the modes, this one forgives what other threads do meanwhile: allocate, load modules.
        mode = self._driver.CUstreamCaptureMode.CU_STREAM_CAPTURE_MODE_THREAD_LOCAL
        self._call(self._driver.cuStreamBeginCapture, stream, mode)

    def capture_end(self, stream: Handle) -> Handle:
        graph = self._call(self._driver.cuStreamEndCapture, stream)
        try:
            return self._call(self._driver.cuGraphInstantiate, graph, 0)
        finally:
            self._call(self._driver.cuGraphDestroy, graph)

    def graph_launch(self, graph: Handle, stream: Handle) -> None:
        self._call(self._driver.cuGraphLaunch, graph, stream)

    def graph_destroy(self, graph: Handle) -> None:
        self._call(self._driver.cuGraphExecDestroy, graph)

    def module_load(self, cubin: bytes) -> Handle:
        return self._call(self._driver.cuModuleLoadData, cubin)

    def module_unload(self, module: Handle) -> None:
        self._call(self._driver.cuModuleUnload, module)

    def module_function(self, module: Handle, name: str) -> Handle:
        return self._call(self._driver.cuModuleGetFunction, module, name.encode())

    def launch(
        self, function: Handle, grid: Extent, block: Extent, parameters: ctypes.Structure, stream: Handle
    ) -> None:
        pointers = (ctypes.c_void_p * 1)(ctypes.addressof(parameters))
        self._call(self._driver.cuLaunchKernel, function, *grid, *block, 0, stream, ctypes.addressof(pointers), 0)


def _load_driver() -> Any:
    """The bindings' module of a driver that has been started.

    The driver is asked before anything else: other calls of the bindings were seen to hang where it is missing.
    Raises: EngineUnavailable without the bindings, a driver, or a GPU, saying which.
    """
    try:
        driver = import_module("cuda.bindings.driver")
    except ImportError as error:
        raise EngineUnavailable(f"CUDA's Python bindings are not usable here ({error}): {_INSTALL}") from error
    try:
        _driver_call(driver, driver.cuInit, 0)
    except RuntimeError as error:  # the bindings' way of saying that there is no libcuda
        raise EngineUnavailable(
            "there is no NVIDIA driver here (libcuda.so.1): install it, start the container with the GPU, or choose "
            "the backend onnxruntime"
        ) from error
    return driver


def _driver_call(driver: Any, function: Callable[..., Any], *arguments: Any) -> Any:
    """What a call of the bindings returned, without its status. Raises: as foveate.engines.cuda.status says."""
    status, *values = function(*arguments)
    if status != 0:
        _, text = driver.cuGetErrorString(status)
        description = f"{status.name}: {text.decode()}" if text else status.name
        raise error_from_code(function.__name__, int(status), description)
    return values[0] if len(values) == 1 else values

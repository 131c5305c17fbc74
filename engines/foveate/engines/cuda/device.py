"""A GPU and what lives on it: streams, events, buffers, graphs and kernels, each released by `close`.

One set of classes over any `CudaLayer`. Nothing here is thread-safe beyond what CUDA is: a resource may be used by
any thread that is inside `Device.current`, by one at a time.
"""

from __future__ import annotations

import ctypes
import logging
import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from importlib import import_module
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

from foveate.engines.cuda.layer import CudaLayer, Extent, Handle
from foveate.engines.errors import ConfigError, DeviceError, DeviceLost

__all__ = [
    "LAYERS",
    "Device",
    "DeviceBuffer",
    "Event",
    "Graph",
    "Kernel",
    "Module",
    "PinnedBuffer",
    "PooledBuffer",
    "RegisteredMemory",
    "Stream",
]

_log = logging.getLogger(__name__)

LAYERS = {
    "cuda-python": "foveate.engines.cuda.driver_layer:DriverLayer",
    "pycuda": "foveate.engines.cuda.pycuda_layer:PyCudaLayer",
}
"""The layers by name, imported on use."""

_ALIGNMENT = 256
"""Bytes: what every address on the device is a multiple of, and what TensorRT asks of its memory."""


class _Resource:
    """Something on the device that is released once."""

    def __init__(self, layer: CudaLayer, handle: Handle, release: Callable[[Handle], None]) -> None:
        self._layer = layer
        self._handle: Handle = handle
        self._release = release

    def close(self) -> None:
        """Release it; idempotent. A failure is logged: what comes after it has to be released as well."""
        if self._handle is None:
            return
        handle, self._handle = self._handle, None
        try:
            self._release(handle)
        except DeviceLost:
            _log.debug("a lost device keeps its %s", type(self).__name__)
        except DeviceError:
            _log.exception("a %s could not be released", type(self).__name__)


class Event(_Resource):
    """A point in a stream's work, and the time at which it was reached."""

    def __init__(self, layer: CudaLayer) -> None:
        super().__init__(layer, layer.event_create(), layer.event_destroy)

    @property
    def address(self) -> int:
        """The CUevent."""
        return self._layer.event_address(self._handle)

    def record(self, stream: Stream) -> None:
        self._layer.event_record(self._handle, stream.handle)

    def synchronize(self) -> None:
        """Sleep until the event has happened, without the interpreter's lock."""
        self._layer.event_synchronize(self._handle)

    def ns_since(self, start: Event) -> int:
        """The time from another event to this one; both must have happened."""
        return max(0, round(self._layer.event_elapsed_ms(start._handle, self._handle) * 1e6))


class Stream(_Resource):
    """Work in order. What is copied must stay as it is until the stream has come past it."""

    def __init__(self, layer: CudaLayer, priority: int = 0) -> None:
        super().__init__(layer, layer.stream_create(priority), layer.stream_destroy)

    @property
    def handle(self) -> Handle:
        return self._handle

    @property
    def address(self) -> int:
        """The CUstream."""
        return self._layer.stream_address(self._handle)

    def wait(self, event: Event | int) -> None:
        """Have all later work wait for an event, given by its CUevent if it is not ours."""
        self._layer.stream_wait(self._handle, event.address if isinstance(event, Event) else event)

    def synchronize(self) -> None:
        self._layer.stream_synchronize(self._handle)

    def copy_to_device(self, address: int, host: NDArray[Any]) -> None:
        self._layer.copy_to_device(address, host, self._handle)

    def copy_to_host(self, host: NDArray[Any], address: int) -> None:
        self._layer.copy_to_host(host, address, self._handle)

    def copy_on_device(self, to: int, source: int, nbytes: int) -> None:
        self._layer.copy_on_device(to, source, nbytes, self._handle)


class PinnedBuffer(_Resource):
    """Page-locked host memory as an array, which must not be touched after `close`."""

    def __init__(self, layer: CudaLayer, shape: tuple[int, ...], dtype: DTypeLike) -> None:
        nbytes = _nbytes(shape, dtype)
        super().__init__(layer, layer.pinned_alloc(max(nbytes, 1)), layer.pinned_free)
        self.nbytes = nbytes
        self.array: NDArray[Any] = self._handle[:nbytes].view(dtype).reshape(shape)


class RegisteredMemory(_Resource):
    """Host memory of somebody else's, page-locked until `close`; it is theirs as before, also while it is registered.

    Copies of other host memory are not asynchronous: the driver copies it once more, and the thread waits for that.
    """

    def __init__(self, layer: CudaLayer, array: NDArray[Any]) -> None:
        super().__init__(layer, layer.host_register(array), layer.host_unregister)
        self.array = array  # not unmapped before it is unregistered


class DeviceBuffer(_Resource):
    """Memory of the device, as much as was asked for."""

    def __init__(self, layer: CudaLayer, nbytes: int) -> None:
        super().__init__(layer, layer.memory_alloc(max(nbytes, _ALIGNMENT)), layer.memory_free)
        self.address: int = self._handle
        self.nbytes = nbytes


class PooledBuffer(_Resource):
    """Memory of the device's pool: usable, and given back, in the order of the stream that it was taken on."""

    def __init__(self, layer: CudaLayer, nbytes: int, stream: Stream) -> None:
        def free(address: int) -> None:
            layer.memory_free_async(address, stream.handle)

        super().__init__(layer, layer.memory_alloc_async(max(nbytes, _ALIGNMENT), stream.handle), free)
        self.address: int = self._handle
        self.nbytes = nbytes


class Graph(_Resource):
    """A stream's work, noted once and launched as a whole."""

    def __init__(self, layer: CudaLayer, stream: Stream, work: Callable[[], None]) -> None:
        super().__init__(layer, _captured(layer, stream, work), layer.graph_destroy)

    def launch(self, stream: Stream) -> None:
        self._layer.graph_launch(self._handle, stream.handle)


def _captured(layer: CudaLayer, stream: Stream, work: Callable[[], None]) -> Handle:
    layer.capture_begin(stream.handle)
    try:
        work()
    except BaseException:
        with suppress(DeviceError):  # the work's own failure is what has to be told
            layer.graph_destroy(layer.capture_end(stream.handle))
        raise
    return layer.capture_end(stream.handle)


class Module(_Resource):
    """Compiled kernels on the device."""

    def __init__(self, layer: CudaLayer, cubin: bytes) -> None:
        super().__init__(layer, layer.module_load(cubin), layer.module_unload)

    def kernel(self, name: str) -> Kernel:
        return Kernel(self._layer, self._layer.module_function(self._handle, name))


class Kernel:
    """A kernel whose parameter is one structure; usable as long as its module."""

    def __init__(self, layer: CudaLayer, function: Handle) -> None:
        self._layer = layer
        self._function = function

    def launch(self, stream: Stream, grid: Extent, block: Extent, parameters: ctypes.Structure) -> None:
        self._layer.launch(self._function, grid, block, parameters, stream.handle)


class Device:
    """A GPU, shared with the other libraries of the process.

    Everything made of it must be closed before it is, inside `current`.
    """

    def __init__(self, layer: CudaLayer, index: int = 0) -> None:
        self._layer = layer
        self.index = index
        self._closed = False

    @classmethod
    def open(cls, index: int = 0, *, layer: str = "cuda-python") -> Device:
        """A GPU by its index.

        Raises: EngineUnavailable, at once and saying what to do, without a driver, the layer's library, or such a
        GPU; ConfigError for a layer that is not one of `LAYERS`.
        """
        if layer not in LAYERS:
            raise ConfigError(f"no CUDA layer is called {layer!r}: choose one of {', '.join(LAYERS)}")
        module_name, class_name = LAYERS[layer].split(":")
        return cls(getattr(import_module(module_name), class_name)(index), index)

    @contextmanager
    def current(self) -> Iterator[None]:
        """Make this the calling thread's device; all that is done with it must be done inside."""
        self._layer.enter()
        try:
            yield
        finally:
            with suppress(DeviceError):  # of a lost device; what it was lost by is on its way up already
                self._layer.leave()

    @property
    def name(self) -> str:
        return self._layer.device_name()

    @property
    def compute_capability(self) -> str:
        """Such as ``sm_89``."""
        major, minor = self._layer.compute_capability()
        return f"sm_{major}{minor}"

    def memory_info(self) -> tuple[int, int]:
        """Bytes of the device's memory that are free, and in all; other processes take of it too."""
        return self._layer.memory_info()

    def synchronize(self) -> None:
        """Wait for all work of the device."""
        self._layer.synchronize()

    def finish(self) -> None:
        """Wait for all work of the device, whether it succeeds or fails: what it works with is to be released."""
        with suppress(DeviceError):
            self._layer.synchronize()

    def new_stream(self, priority: int = 0) -> Stream:
        """A stream; a lower priority goes first, where the layer has priorities."""
        return Stream(self._layer, priority)

    def new_event(self) -> Event:
        return Event(self._layer)

    def new_pinned(self, shape: tuple[int, ...], dtype: DTypeLike) -> PinnedBuffer:
        """Zeroed page-locked memory."""
        return PinnedBuffer(self._layer, shape, dtype)

    def register(self, array: NDArray[Any]) -> RegisteredMemory:
        """Page-lock a C-contiguous array that begins on a page of its own, such as memory that processes share.

        Raises: DeviceError where the driver, or the system's limits, do not allow it.
        """
        return RegisteredMemory(self._layer, array)

    def new_buffer(self, nbytes: int) -> DeviceBuffer:
        return DeviceBuffer(self._layer, nbytes)

    def new_pooled(self, nbytes: int, stream: Stream) -> PooledBuffer:
        return PooledBuffer(self._layer, nbytes, stream)

    def capture(self, stream: Stream, work: Callable[[], None]) -> Graph:
        """What `work` does on a stream, as a graph; nothing of it is done now.

        Raises: DeviceError if it cannot be captured, and whatever `work` raises.
        """
        return Graph(self._layer, stream, work)

    def load_module(self, cubin: bytes) -> Module:
        return Module(self._layer, cubin)

    def close(self) -> None:
        """Let go of the device; idempotent."""
        if self._closed:
            return
        self._closed = True
        try:
            self._layer.close()
        except DeviceError as error:
            _log.debug("the device was not released: %s", error)


def _nbytes(shape: tuple[int, ...], dtype: DTypeLike) -> int:
    return math.prod(shape) * np.dtype(dtype).itemsize

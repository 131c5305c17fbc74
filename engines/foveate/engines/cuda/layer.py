"""What the project asks of CUDA, as flat calls on handles, so that one can be exchanged for another.

A layer is one device's primary context, which it shares with every library of the process: TensorRT, decoders.
Handles are whatever the backend uses; nobody looks into them. Buffers on the device are addresses. What failed
is raised as foveate.engines.cuda.status says, named by the driver's call.
"""

from __future__ import annotations

import ctypes
from abc import ABC, abstractmethod
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["Bytes", "CudaLayer", "Handle"]

Handle = Any
Bytes = NDArray[np.uint8]
Extent = tuple[int, int, int]


class CudaLayer(ABC):
    """A device, opened by making the layer and closed by `close`. Every other call needs `enter` on its thread."""

    name: str

    @abstractmethod
    def close(self) -> None:
        """Let go of the device; nothing of it may be left."""

    @abstractmethod
    def enter(self) -> None:
        """Make the device the calling thread's own, until `leave`."""

    @abstractmethod
    def leave(self) -> None: ...

    @abstractmethod
    def device_name(self) -> str: ...

    @abstractmethod
    def compute_capability(self) -> tuple[int, int]: ...

    @abstractmethod
    def memory_info(self) -> tuple[int, int]:
        """Bytes of the device's memory that are free, and in all."""

    @abstractmethod
    def synchronize(self) -> None:
        """Wait for all work of the device."""

    @abstractmethod
    def stream_create(self, priority: int) -> Handle:
        """A stream that does not wait for the default one; a lower priority goes first, and is a hint."""

    @abstractmethod
    def stream_destroy(self, stream: Handle) -> None: ...

    @abstractmethod
    def stream_address(self, stream: Handle) -> int:
        """The CUstream, for libraries that take it as a number."""

    @abstractmethod
    def stream_synchronize(self, stream: Handle) -> None: ...

    @abstractmethod
    def stream_wait(self, stream: Handle, event: int) -> None:
        """Have all later work of a stream wait for an event, by its CUevent, as it was recorded last."""

    @abstractmethod
    def event_create(self) -> Handle:
        """An event that takes the time and lets a waiting thread sleep."""

    @abstractmethod
    def event_destroy(self, event: Handle) -> None: ...

    @abstractmethod
    def event_address(self, event: Handle) -> int: ...

    @abstractmethod
    def event_record(self, event: Handle, stream: Handle) -> None: ...

    @abstractmethod
    def event_synchronize(self, event: Handle) -> None:
        """Block the thread, without the interpreter's lock, until an event has happened."""

    @abstractmethod
    def event_elapsed_ms(self, start: Handle, end: Handle) -> float:
        """The time between two events that have happened."""

    @abstractmethod
    def pinned_alloc(self, nbytes: int) -> Bytes:
        """Zeroed, page-locked host memory, which only `pinned_free` gives back."""

    @abstractmethod
    def pinned_free(self, memory: Bytes) -> None: ...

    @abstractmethod
    def host_register(self, memory: NDArray[Any]) -> Handle:
        """Page-lock a C-contiguous array of the caller's, on pages of its own, until `host_unregister`."""

    @abstractmethod
    def host_unregister(self, registered: Handle) -> None: ...

    @abstractmethod
    def memory_alloc(self, nbytes: int) -> int: ...

    @abstractmethod
    def memory_free(self, address: int) -> None: ...

    @abstractmethod
    def memory_alloc_async(self, nbytes: int, stream: Handle) -> int:
        """Memory of the device's pool, usable in the order of a stream."""

    @abstractmethod
    def memory_free_async(self, address: int, stream: Handle) -> None: ...

    @abstractmethod
    def copy_to_device(self, address: int, host: NDArray[Any], stream: Handle) -> None:
        """Copy a C-contiguous array to the device, in the order of a stream."""

    @abstractmethod
    def copy_to_host(self, host: NDArray[Any], address: int, stream: Handle) -> None: ...

    @abstractmethod
    def copy_on_device(self, to: int, source: int, nbytes: int, stream: Handle) -> None: ...

    @abstractmethod
    def capture_begin(self, stream: Handle) -> None:
        """Note a stream's work instead of doing it, until `capture_end` on the same thread."""

    @abstractmethod
    def capture_end(self, stream: Handle) -> Handle:
        """What was noted, ready to be launched; capturing is over, also when this fails.

        Raises: DeviceError if something of it cannot be noted.
        """

    @abstractmethod
    def graph_launch(self, graph: Handle, stream: Handle) -> None: ...

    @abstractmethod
    def graph_destroy(self, graph: Handle) -> None: ...

    @abstractmethod
    def module_load(self, cubin: bytes) -> Handle: ...

    @abstractmethod
    def module_unload(self, module: Handle) -> None: ...

    @abstractmethod
    def module_function(self, module: Handle, name: str) -> Handle: ...

    @abstractmethod
    def launch(
        self, function: Handle, grid: Extent, block: Extent, parameters: ctypes.Structure, stream: Handle
    ) -> None:
        """Run a kernel whose only parameter is a structure by value, in the order of a stream."""

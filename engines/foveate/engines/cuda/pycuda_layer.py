"""CUDA by PyCUDA, for programs that use it already: its context, streams, memory and copies.

What PyCUDA has no names for, or no numbers to share it by, comes from cuda-python on the same primary context and the
same streams: events, graphs, the stream-ordered pool, kernels. PyCUDA's streams have no priority.
"""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from typing import Any

import numpy as np
from numpy.typing import NDArray

from foveate.engines.cuda.driver_layer import DriverLayer
from foveate.engines.cuda.layer import Bytes, Handle
from foveate.engines.cuda.status import error_from_code
from foveate.engines.errors import EngineUnavailable

__all__ = ["PyCudaLayer"]

_NON_BLOCKING = 1
"""CU_STREAM_NON_BLOCKING, which PyCUDA takes and does not name. Source: the CUDA driver API, enum CUstream_flags."""
_UNKNOWN = 999
"""CUDA_ERROR_UNKNOWN. Source: the CUDA driver API, enum CUresult."""


class PyCudaLayer(DriverLayer):
    """A device by its index. Raises: EngineUnavailable without PyCUDA, cuda-python, a driver, or such a GPU."""

    name = "pycuda"

    def __init__(self, index: int = 0) -> None:
        super().__init__(index)
        try:
            self._pycuda = _import_pycuda()
            self._codes = self._codes_by_text()
            self._ask(self._pycuda.init)
            self._primary = self._ask(self._ask(self._pycuda.Device, index).retain_primary_context)
        except BaseException:
            super().close()
            raise
        self._streams: dict[int, Any] = {}
        self._allocations: dict[int, Any] = {}

    def close(self) -> None:
        try:
            self._ask(self._primary.detach)
        finally:
            super().close()

    def enter(self) -> None:
        self._ask(self._primary.push)

    def leave(self) -> None:
        self._ask(self._pycuda.Context.pop)

    def stream_create(self, priority: int) -> Handle:
        stream = self._ask(self._pycuda.Stream, _NON_BLOCKING)
        self._streams[stream.handle] = stream
        return stream.handle

    def stream_destroy(self, stream: Handle) -> None:
        del self._streams[stream]  # PyCUDA destroys it with its last reference

    def pinned_alloc(self, nbytes: int) -> Bytes:
        memory: Bytes = self._ask(self._pycuda.pagelocked_empty, nbytes, np.uint8)
        memory.fill(0)
        return memory

    def pinned_free(self, memory: Bytes) -> None:
        owner: Any = memory.base
        self._ask(owner.free)

    def host_register(self, memory: NDArray[Any]) -> Handle:
        return self._ask(self._pycuda.register_host_memory, memory).base

    def host_unregister(self, registered: Handle) -> None:
        self._ask(registered.unregister)

    def memory_alloc(self, nbytes: int) -> int:
        allocation = self._ask(self._pycuda.mem_alloc, nbytes)
        self._allocations[int(allocation)] = allocation
        return int(allocation)

    def memory_free(self, address: int) -> None:
        self._ask(self._allocations.pop(address).free)

    def copy_to_device(self, address: int, host: NDArray[Any], stream: Handle) -> None:
        self._ask(self._pycuda.memcpy_htod_async, address, host, self._streams[stream])

    def copy_to_host(self, host: NDArray[Any], address: int, stream: Handle) -> None:
        self._ask(self._pycuda.memcpy_dtoh_async, host, address, self._streams[stream])

    def copy_on_device(self, to: int, source: int, nbytes: int, stream: Handle) -> None:
        self._ask(self._pycuda.memcpy_dtod_async, to, source, nbytes, self._streams[stream])

    def _ask(self, function: Callable[..., Any], *arguments: Any) -> Any:
        try:
            return function(*arguments)
        except self._pycuda.Error as error:  # its text is all that it holds: "cuMemAlloc failed: out of memory"
            call, _, text = str(error).partition(" failed: ")
            known = max(filter(text.startswith, self._codes), key=len, default="")
            raise error_from_code(call, self._codes.get(known, _UNKNOWN), text.partition("\n")[0]) from error

    def _codes_by_text(self) -> dict[str, int]:
        """The driver's error codes by what it says of them."""
        texts = {code: self._call(self._driver.cuGetErrorString, code) for code in self._driver.CUresult}
        return {text.decode(): int(code) for code, text in texts.items() if text}


def _import_pycuda() -> Any:
    try:
        return import_module("pycuda.driver")
    except (ImportError, OSError) as error:
        raise EngineUnavailable(
            f"PyCUDA is not usable here ({error}): install it with `pip install 'foveate[gpu,pycuda]'`, which needs a "
            "CUDA toolkit, or take the layer cuda-python"
        ) from error

"""The compute capability of this machine's GPU, asked of the driver alone: no CUDA library, no context."""

from __future__ import annotations

import ctypes
from typing import Any

__all__ = ["compute_capability", "gpu_handle"]

_MAJOR, _MINOR = 75, 76
"""CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_*. Source: the CUDA driver API, enum CUdevice_attribute."""


def compute_capability(device: int = 0) -> str | None:
    """Of a GPU by its index, such as ``sm_89``; None where there is no NVIDIA driver or no such GPU."""
    opened = gpu_handle(device)
    if opened is None:
        return None
    driver, handle = opened
    major, minor = (_attribute(driver, handle, name) for name in (_MAJOR, _MINOR))
    return f"sm_{major}{minor}"


def gpu_handle(device: int) -> tuple[Any, ctypes.c_int] | None:
    """The driver's library and its handle of a GPU; None where there is no NVIDIA driver or no such GPU."""
    driver = _driver()
    handle = ctypes.c_int()
    if driver is None or driver.cuInit(0) != 0 or driver.cuDeviceGet(ctypes.byref(handle), device) != 0:
        return None
    return driver, handle


def _driver() -> Any:
    try:
        return ctypes.CDLL("libcuda.so.1")
    except OSError:
        return None


def _attribute(driver: Any, handle: ctypes.c_int, name: int) -> int:
    value = ctypes.c_int()
    driver.cuDeviceGetAttribute(ctypes.byref(value), name, handle)
    return value.value

"""Error codes of the CUDA driver as errors of the project's tree."""

from __future__ import annotations

from foveate.engines.errors import DeviceError, DeviceLost, DeviceOutOfMemory, EngineError, EngineUnavailable

__all__ = ["error_from_code"]

_OUT_OF_MEMORY = 2
_PAGE_LOCKING = frozenset(("cuMemHostAlloc", "cuMemHostRegister"))
_UNAVAILABLE = {
    34: "the program is linked with CUDA's stub library: put the driver's libcuda.so.1 before it in the library path",
    46: "another process holds the GPU: end it, or set the compute mode back to default",
    100: "there is no NVIDIA GPU here, or CUDA_VISIBLE_DEVICES hides it",
    101: "there is no GPU of this index: `nvidia-smi -L` lists them",
    802: "the GPU's fabric is not ready yet: wait for its manager, or start it",
    803: "the driver's parts are of different versions: restart the machine after the driver's update",
    804: "the forward-compatible driver does not serve this GPU: install the driver that belongs to the CUDA version",
}
"""What to do about codes that say that no GPU can be used here. Source: the CUDA driver API, enum CUresult."""

_STICKY = frozenset(
    # Illegal address, launch timeout, assert, stack error, illegal instruction, misaligned address, address
    # space, program counter, launch failure, tensor memory, external device; contained and uncorrectable memory
    # and link errors; a destroyed context; the shared server gone.
    (214, 220, 226, 700, 702, 709, 710, 714, 715, 716, 717, 718, 719, 721, 810, 911)
)
"""After these every call of the process fails the same way. Source: the CUDA driver API, enum CUresult: "the process
must be terminated and relaunched"."""


def error_from_code(call: str, code: int, description: str) -> EngineError:
    """The error that a driver's call stands for, by what can be done about it.

    EngineUnavailable where no GPU can be used at all, DeviceLost where only a new process can go on,
    DeviceOutOfMemory, and DeviceError for the rest.
    """
    said = f"{call} failed with {description} ({code})"
    if code in _UNAVAILABLE:
        return EngineUnavailable(f"{said}: {_UNAVAILABLE[code]}")
    if code in _STICKY:
        return DeviceLost(f"{said}: this process cannot use the GPU any more, restart it")
    if code == _OUT_OF_MEMORY and call in _PAGE_LOCKING:
        return DeviceOutOfMemory(
            f"{said}: the host has no memory left to page-lock, take a smaller batch or fewer slots"
        )
    if code == _OUT_OF_MEMORY:
        return DeviceOutOfMemory(f"{said}: free memory on the GPU, or take a smaller batch or fewer slots")
    return DeviceError(said)

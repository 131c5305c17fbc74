"""Which hardware this is: a measurement holds for it and for no other."""

from __future__ import annotations

import ctypes
import os
import platform
from dataclasses import dataclass
from pathlib import Path

from pydantic import BaseModel, ConfigDict

from foveate.engines.compute_capability import gpu_handle

__all__ = ["Gpu", "Machine", "cuda_index", "gpu_of", "this_machine"]

_CPUINFO = Path("/proc/cpuinfo")
_UUID_BYTES = 16
_NAME_BYTES = 256


class Machine(BaseModel):
    """The hardware that an engine runs on.

    Two hosts of one make are one machine: a container has another host name at each start, and the same latency.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    cpu: str
    """The model of the processor."""
    cores: int
    """How many of them this process may use."""
    gpu: str = ""
    """The name of the GPU that the engine runs on; empty for one that runs on the CPU."""
    cuda: str = ""
    """The version of CUDA that the GPU's driver speaks."""

    def __str__(self) -> str:
        cpu = f"{self.cpu}, {self.cores} core{'s' if self.cores > 1 else ''}"
        return f"{self.gpu}, CUDA {self.cuda}; {cpu}" if self.gpu else cpu


@dataclass(frozen=True, slots=True)
class Gpu:
    """A GPU as the driver describes it."""

    name: str
    uuid: str
    """As NVML spells it, so that the GPU is found there whatever CUDA_VISIBLE_DEVICES has hidden."""
    cuda: str
    memory_bytes: int
    """All that it has, whoever uses it."""


def this_machine(device: str = "cpu") -> Machine:
    """The hardware behind an engine's device, such as ``cpu`` or ``cuda:0``."""
    index = cuda_index(device)
    gpu = None if index is None else gpu_of(index)
    cores = len(os.sched_getaffinity(0))
    return Machine(cpu=_cpu_name(), cores=cores, gpu=gpu.name if gpu else "", cuda=gpu.cuda if gpu else "")


def cuda_index(device: str) -> int | None:
    """The index of ``cuda:0``, 0 of ``cuda``; None for a device that is no NVIDIA GPU."""
    kind, _, index = device.partition(":")
    return int(index or 0) if kind == "cuda" else None


def gpu_of(index: int) -> Gpu | None:
    """A GPU by its index in CUDA; None where there is no NVIDIA driver or no such GPU."""
    opened = gpu_handle(index)
    if opened is None:
        return None
    driver, handle = opened
    name = ctypes.create_string_buffer(_NAME_BYTES)
    uuid = (ctypes.c_ubyte * _UUID_BYTES)()
    version, memory_bytes = ctypes.c_int(), ctypes.c_size_t()
    driver.cuDeviceGetName(name, _NAME_BYTES, handle)
    driver.cuDeviceGetUuid_v2(uuid, handle)
    driver.cuDriverGetVersion(ctypes.byref(version))
    driver.cuDeviceTotalMem_v2(ctypes.byref(memory_bytes), handle)
    cuda = f"{version.value // 1000}.{version.value % 1000 // 10}"
    return Gpu(name.value.decode(), _spelt(bytes(uuid)), cuda, memory_bytes.value)


def _spelt(uuid: bytes) -> str:
    text = uuid.hex()
    return "GPU-" + "-".join((text[:8], text[8:12], text[12:16], text[16:20], text[20:]))


def _cpu_name() -> str:
    try:
        lines = _CPUINFO.read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    named = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(named, "") or platform.machine()

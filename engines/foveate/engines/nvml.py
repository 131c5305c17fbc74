"""A GPU as NVML sees it, the management library of NVIDIA's driver: its memory and the energy it has taken."""

from __future__ import annotations

from types import ModuleType
from typing import Any

from foveate.engines.errors import EngineUnavailable
from foveate.engines.machine import gpu_of

__all__ = ["NvmlGpu"]


class NvmlGpu:
    """A GPU by its index in CUDA, looked up by its UUID: NVML counts also those that CUDA_VISIBLE_DEVICES hides.

    Both figures are of the whole GPU, whoever uses it.
    Raises: EngineUnavailable where there is no such GPU, no `nvidia-ml-py`, or NVML does not tell.
    """

    source = "NVML"

    def __init__(self, index: int) -> None:
        gpu = gpu_of(index)
        if gpu is None:
            raise EngineUnavailable(f"there is no NVIDIA GPU {index} here")
        self._nvml = _import_nvml()
        try:
            self._nvml.nvmlInit()
            self._gpu = self._nvml.nvmlDeviceGetHandleByUUID(gpu.uuid)
        except self._nvml.NVMLError as error:
            raise EngineUnavailable(f"NVML does not know {gpu.name}, {gpu.uuid}: {error}") from error

    def used_bytes(self) -> int:
        """Device memory that is taken."""
        return int(self._asked("nvmlDeviceGetMemoryInfo").used)

    def joules(self) -> float:
        """Energy since the driver was loaded; NVML renews it some ten times a second."""
        return float(self._asked("nvmlDeviceGetTotalEnergyConsumption")) / 1e3

    def _asked(self, name: str) -> Any:
        try:
            return getattr(self._nvml, name)(self._gpu)
        except self._nvml.NVMLError as error:
            raise EngineUnavailable(f"NVML does not tell {name.removeprefix('nvmlDeviceGet')}: {error}") from error


def _import_nvml() -> ModuleType:
    try:
        import pynvml
    except ImportError as error:
        raise EngineUnavailable(
            f"NVML cannot be asked ({error}): install `nvidia-ml-py`, which `pip install 'foveate[gpu]'` brings"
        ) from error
    module: ModuleType = pynvml
    return module

"""The devices that a service runs on: named in the settings, or all that are there."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Literal

from foveate.engines.errors import EngineUnavailable
from foveate.engines.machine import cuda_index, gpu_of

__all__ = ["device_names", "visible_gpu"]


def device_names(wanted: Literal["all"] | Sequence[str]) -> tuple[str, ...]:
    """The devices to serve on; of `all`, every GPU that is visible, or the CPU where there is none."""
    if wanted != "all":
        return tuple(wanted)
    gpus = itertools.takewhile(lambda index: gpu_of(index) is not None, itertools.count())
    return tuple(f"cuda:{index}" for index in gpus) or ("cpu",)


def visible_gpu(device: str) -> str | None:
    """What CUDA_VISIBLE_DEVICES has to be for a process that sees this GPU alone.

    None where it must not be set: for what is no GPU, and for the only one, which may be a part of a GPU whose name is
    not to be had from its UUID.
    Raises: EngineUnavailable where there is no such GPU, in place of which the process would take another.
    """
    index = cuda_index(device)
    if index is None:
        return None
    gpu = gpu_of(index)
    if gpu is None:
        raise EngineUnavailable(
            f"there is no GPU {device} here, or the driver does not show it: `nvidia-smi -L` lists the GPUs; name "
            'those that are there in `devices`, or all of them by devices = "all"'
        )
    return None if index == 0 and gpu_of(1) is None else gpu.uuid

"""The devices that a service runs on: named in the settings, or all that are there."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Literal

from foveate.engines.machine import cuda_index, gpu_of

__all__ = ["device_names", "visible_gpu"]


def device_names(wanted: Literal["all"] | Sequence[str]) -> tuple[str, ...]:
    """The devices to serve on; of `all`, every GPU that is visible, or the CPU where there is none."""
    if wanted != "all":
        return tuple(wanted)
    gpus = itertools.takewhile(lambda index: gpu_of(index) is not None, itertools.count())
    return tuple(f"cuda:{index}" for index in gpus) or ("cpu",)


def visible_gpu(device: str) -> str | None:
    """What CUDA_VISIBLE_DEVICES has to be for a process that sees this GPU alone; None for what is no GPU."""
    index = cuda_index(device)
    gpu = None if index is None else gpu_of(index)
    return gpu.uuid if gpu else None

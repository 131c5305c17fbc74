from __future__ import annotations

import ctypes
import os
from pathlib import Path
from typing import Any

import pytest

from foveate.engines import machine as module
from foveate.engines.machine import Gpu, Machine, cuda_index, gpu_of, this_machine


class _Driver:
    """The calls of libcuda that tell what a GPU is."""

    def cuDeviceGetName(self, name: Any, size: int, handle: ctypes.c_int) -> int:
        name.value = b"NVIDIA Test"
        return 0

    def cuDeviceGetUuid_v2(self, uuid: Any, handle: ctypes.c_int) -> int:
        uuid[:] = range(16)
        return 0

    def cuDeviceTotalMem_v2(self, memory: Any, handle: ctypes.c_int) -> int:
        memory._obj.value = 24 << 30
        return 0

    def cuDriverGetVersion(self, version: Any) -> int:
        version._obj.value = 13020
        return 0


@pytest.fixture
def one_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "gpu_handle", lambda index: (_Driver(), ctypes.c_int()) if index == 0 else None)


@pytest.mark.usefixtures("one_gpu")
def test_a_gpu_is_what_the_driver_says() -> None:
    assert gpu_of(0) == Gpu("NVIDIA Test", "GPU-00010203-0405-0607-0809-0a0b0c0d0e0f", "13.2", 24 << 30)
    assert gpu_of(1) is None


@pytest.mark.usefixtures("one_gpu")
def test_a_machine_has_the_gpu_that_the_engine_runs_on() -> None:
    here = this_machine()
    assert (here.gpu, here.cuda) == ("", ""), "a GPU changes nothing for an engine on the CPU"
    assert here.cores == len(os.sched_getaffinity(0))
    assert this_machine("cuda:0") == here.model_copy(update={"gpu": "NVIDIA Test", "cuda": "13.2"})
    assert this_machine("cuda:1").gpu == ""


@pytest.mark.parametrize(
    ("device", "index"), [("cpu", None), ("cuda", 0), ("cuda:0", 0), ("cuda:3", 3), ("cudax", None)]
)
def test_devices(device: str, index: int | None) -> None:
    assert cuda_index(device) == index


@pytest.mark.parametrize(
    ("cpuinfo", "name"),
    [
        ("processor : 0\nmodel name\t: A CPU @ 3 GHz\nmodel name\t: A CPU @ 3 GHz\n", "A CPU @ 3 GHz"),
        (None, os.uname().machine),
    ],
    ids=["x86", "no name"],
)
def test_the_cpu_is_called_by_its_model(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cpuinfo: str | None, name: str
) -> None:
    path = tmp_path / "cpuinfo"
    if cpuinfo is not None:
        path.write_text(cpuinfo)
    monkeypatch.setattr(module, "_CPUINFO", path)
    assert this_machine().cpu == name


def test_people_read_what_it_is() -> None:
    assert str(Machine(cpu="A CPU", cores=1)) == "A CPU, 1 core"
    assert str(Machine(cpu="A CPU", cores=2, gpu="A GPU", cuda="13.0")) == "A GPU, CUDA 13.0; A CPU, 2 cores"

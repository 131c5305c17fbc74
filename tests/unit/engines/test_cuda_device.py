"""Devices and what lives on them, on the stand-in for CUDA; and that the stand-in finds what it is there to find."""

from __future__ import annotations

import sys
import types
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from foveate.engines import ConfigError, DeviceError, DeviceLost, DeviceOutOfMemory, EngineError, EngineUnavailable
from foveate.engines.cuda import Device
from foveate.engines.cuda.device import LAYERS
from foveate.engines.cuda.status import error_from_code
from foveate.tools.gpu_report.shared_pages import shared_pages
from support.cuda_layer_checks import CHECKS
from support.fake_cuda import FakeCuda, Hazard

ILLEGAL_ADDRESS, ALREADY_REGISTERED = 700, 712


@pytest.fixture
def cuda() -> FakeCuda:
    return FakeCuda()


@pytest.fixture
def device(cuda: FakeCuda) -> Iterator[Device]:
    device = cuda.open()
    with device.current():
        yield device
    device.close()


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
def test_the_stand_in_is_a_layer(cuda: FakeCuda, device: Device, check: Callable[[Device], None]) -> None:
    check(device)
    assert cuda.leaks == []


# Errors.


@pytest.mark.parametrize(
    ("code", "kind", "says"),
    [
        (2, DeviceOutOfMemory, "smaller batch"),
        (100, EngineUnavailable, "no NVIDIA GPU"),
        (101, EngineUnavailable, "nvidia-smi"),
        (803, EngineUnavailable, "restart the machine"),
        (ILLEGAL_ADDRESS, DeviceLost, "restart it"),
        (719, DeviceLost, "restart it"),
        (712, DeviceError, r"\(712\)"),
        (1, DeviceError, r"cuCall failed with what it says \(1\)"),
        (901, DeviceError, r"\(901\)"),
    ],
)
def test_codes_are_errors_by_what_can_be_done(code: int, kind: type[EngineError], says: str) -> None:
    error = error_from_code("cuCall", code, "what it says")
    assert type(error) is kind
    with pytest.raises(kind, match=says):
        raise error


@pytest.mark.parametrize("call", ["cuMemHostRegister", "cuMemHostAlloc"])
def test_no_memory_to_page_lock_is_the_hosts(call: str) -> None:
    error = error_from_code(call, 2, "out of memory")
    assert type(error) is DeviceOutOfMemory
    assert "the host has no memory left to page-lock" in str(error)


def test_sticky_codes_are_the_drivers() -> None:
    """Where the driver's own words are that the process must be relaunched, the device is lost."""
    driver = pytest.importorskip("cuda.bindings.driver")
    sticky = [code for code in driver.CUresult if "relaunched" in (code.__doc__ or "")]
    assert sticky
    for code in sticky:
        assert isinstance(error_from_code("cuCall", int(code), ""), DeviceLost), code


@pytest.mark.parametrize("layer", LAYERS)
def test_no_driver_is_told_at_once(layer: str) -> None:
    pytest.importorskip("cuda.bindings.driver")
    if Path("/proc/driver/nvidia").exists():
        pytest.skip("this machine has an NVIDIA driver")
    with pytest.raises(EngineUnavailable, match=r"no NVIDIA driver here \(libcuda.so.1\).*onnxruntime"):
        Device.open(layer=layer)


@pytest.mark.parametrize("layer", LAYERS)
def test_no_bindings(layer: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "cuda.bindings.driver", None)
    with pytest.raises(EngineUnavailable, match=r"foveate\[gpu\]"):
        Device.open(layer=layer)


def test_no_pycuda(monkeypatch: pytest.MonkeyPatch) -> None:
    released: list[str] = []

    def release(device: str) -> tuple[int]:
        released.append(device)
        return (0,)

    driver = types.ModuleType("cuda.bindings.driver")
    vars(driver).update(
        cuInit=lambda flags: (0,),
        cuDeviceGet=lambda index: (0, "device"),
        cuDevicePrimaryCtxRetain=lambda device: (0, "context"),
        cuDevicePrimaryCtxRelease=release,
    )
    monkeypatch.setitem(sys.modules, "cuda.bindings.driver", driver)
    monkeypatch.setitem(sys.modules, "pycuda.driver", None)
    with pytest.raises(EngineUnavailable, match=r"foveate\[gpu,pycuda\].*cuda-python"):
        Device.open(layer="pycuda")
    assert released == ["device"]


def test_pycuda_gives_registered_memory_back_by_what_it_has_of_it(monkeypatch: pytest.MonkeyPatch) -> None:
    class Error(Exception):
        pass

    registered: list[int] = []

    def register(array: np.ndarray[Any, Any]) -> types.SimpleNamespace:
        if array.ctypes.data in registered:
            raise Error("cuMemHostRegister failed: already mapped")
        registered.append(array.ctypes.data)
        return types.SimpleNamespace(base=types.SimpleNamespace(unregister=registered.clear))

    texts = {1: b"invalid", ALREADY_REGISTERED: b"already mapped"}
    driver = types.SimpleNamespace(
        cuInit=lambda flags: (0,),
        cuDeviceGet=lambda index: (0, "device"),
        cuDevicePrimaryCtxRetain=lambda device: (0, "context"),
        cuDevicePrimaryCtxRelease=lambda device: (0,),
        cuGetErrorString=lambda code: (0, texts[code]),
        CUresult=tuple(texts),
    )
    context = types.SimpleNamespace(push=lambda: None, detach=lambda: None)
    pycuda = types.SimpleNamespace(
        Error=Error,
        init=lambda: None,
        Device=lambda index: types.SimpleNamespace(retain_primary_context=lambda: context),
        Context=types.SimpleNamespace(pop=lambda: None),
        register_host_memory=register,
    )
    monkeypatch.setitem(sys.modules, "cuda.bindings.driver", driver)
    monkeypatch.setitem(sys.modules, "pycuda.driver", pycuda)
    memory = shared_pages((8,), np.uint8)
    device = Device.open(layer="pycuda")
    with device.current(), closing(device.register(memory)):
        assert registered == [memory.ctypes.data]
        with pytest.raises(DeviceError, match=r"cuMemHostRegister failed with already mapped \(712\)"):
            device.register(memory)
    assert registered == []
    device.close()


def test_unknown_layer() -> None:
    with pytest.raises(ConfigError, match=r"'cupy'.*cuda-python, pycuda"):
        Device.open(layer="cupy")


# Releasing.


def test_a_release_that_fails_is_logged(cuda: FakeCuda, device: Device, caplog: pytest.LogCaptureFixture) -> None:
    stream = device.new_stream()
    cuda.fail("stream_destroy", 1)
    stream.close()
    assert "Stream could not be released" in caplog.text
    stream.close()
    assert cuda.calls["stream_destroy"] == 1


def test_a_lost_device_is_released_in_silence(caplog: pytest.LogCaptureFixture) -> None:
    cuda = FakeCuda()
    device = cuda.open()
    with device.current():
        stream = device.new_stream()
        cuda.fail("stream_synchronize", ILLEGAL_ADDRESS)
        with pytest.raises(DeviceLost):
            stream.synchronize()
        stream.close()
        device.finish()
    device.close()
    device.close()
    assert not caplog.records


def test_a_capture_that_cannot_end_leaves_nothing(cuda: FakeCuda, device: Device) -> None:
    stream = device.new_stream()
    cuda.fail("capture_end", 901)
    with pytest.raises(DeviceError):
        device.capture(stream, lambda: None)
    stream.synchronize()
    stream.close()
    assert cuda.leaks == []


# The stand-in finds what may go wrong.


def test_unordered_writes_are_found(device: Device) -> None:
    first, second = device.new_stream(), device.new_stream()
    host, buffer = device.new_pinned((8,), np.uint8), device.new_buffer(8)
    first.copy_to_device(buffer.address, host.array)
    with pytest.raises(Hazard, match="nothing orders them"):
        second.copy_on_device(device.new_buffer(8).address, buffer.address, 8)
    with pytest.raises(Hazard, match="nothing orders them"):
        second.copy_to_host(device.new_pinned((8,), np.uint8).array, buffer.address)


def test_reads_beside_each_other_are_no_hazard(device: Device) -> None:
    host, buffer = device.new_pinned((2, 8), np.uint8), device.new_buffer(8)
    for line in host.array:
        device.new_stream().copy_to_host(line, buffer.address)


def test_nothing_is_done_before_somebody_waits(device: Device) -> None:
    stream, event = device.new_stream(), device.new_event()
    host, buffer = device.new_pinned((8,), np.uint8), device.new_buffer(8)
    stream.copy_to_host(host.array, buffer.address)
    event.record(stream)
    assert not host.array.any()
    event.synchronize()
    assert host.array.all()


def test_what_is_in_use_is_not_freed(device: Device) -> None:
    stream = device.new_stream()
    host, buffer = device.new_pinned((8,), np.uint8), device.new_buffer(8)
    stream.copy_to_device(buffer.address, host.array)
    for thing, says in ((host, "pinned memory"), (buffer, "device memory"), (stream, "a stream")):
        with pytest.raises(Hazard, match=f"{says} was (freed|destroyed) before"):
            thing.close()


def test_freed_memory_is_not_used(device: Device) -> None:
    stream, host, buffer = device.new_stream(), device.new_pinned((8,), np.uint8), device.new_buffer(8)
    buffer.close()
    with pytest.raises(Hazard, match="no longer"):
        stream.copy_to_device(buffer.address, host.array)


def test_a_copy_of_host_memory_that_is_not_page_locked_is_waited_for(cuda: FakeCuda, device: Device) -> None:
    stream, buffer = device.new_stream(), device.new_buffer(8)
    memory = shared_pages((8,), np.uint8)
    stream.copy_to_device(buffer.address, memory)
    assert cuda.staged == ["copy to device"]
    assert all(work.done for work in cuda.log)
    with closing(device.register(memory)):
        stream.copy_to_host(memory, buffer.address)
        assert not cuda.log[-1].done
        stream.synchronize()
    assert len(cuda.staged) == 1


def test_memory_that_is_copied_stays_registered(device: Device) -> None:
    registered = device.register(shared_pages((8,), np.uint8))
    device.new_stream().copy_to_device(device.new_buffer(8).address, registered.array)
    with pytest.raises(Hazard, match="registered memory was freed before"):
        registered.close()


def test_a_kernel_needs_memory_that_the_device_reaches(cuda: FakeCuda, device: Device) -> None:
    start = shared_pages((8,), np.uint8).ctypes.data
    with pytest.raises(Hazard, match="not page-locked"):
        cuda.give(device.new_stream().handle, "a kernel", lambda: None, reads=[(start, start + 8)])


def test_a_thread_needs_the_device() -> None:
    device = FakeCuda().open()
    with pytest.raises(Hazard, match="no current device"):
        device.new_stream()

from __future__ import annotations

import ctypes
from typing import Any

import pytest

from foveate.engines import compute_capability as module
from foveate.engines.compute_capability import compute_capability


class _Driver:
    """A driver with some GPUs; the calls are those of libcuda."""

    def __init__(self, *devices: tuple[int, int], init: int = 0) -> None:
        self._devices = devices
        self._init = init

    def cuInit(self, flags: int) -> int:
        return self._init

    def cuDeviceGet(self, handle: Any, device: int) -> int:
        handle._obj.value = 100 + device
        return 0 if device < len(self._devices) else 101

    def cuDeviceGetAttribute(self, value: Any, name: int, handle: ctypes.c_int) -> int:
        value._obj.value = self._devices[handle.value - 100][{75: 0, 76: 1}[name]]
        return 0


def test_the_capability_is_the_drivers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_driver", lambda: _Driver((9, 0), (12, 1)))
    assert compute_capability() == "sm_90"
    assert compute_capability(1) == "sm_121"
    assert compute_capability(2) is None


@pytest.mark.parametrize("driver", [None, _Driver(init=100)], ids=["no driver", "driver without a GPU"])
def test_no_gpu_has_none(monkeypatch: pytest.MonkeyPatch, driver: _Driver | None) -> None:
    monkeypatch.setattr(module, "_driver", lambda: driver)
    assert compute_capability() is None

"""Host memory of others that torch copies from asynchronously, as it is registered with the driver.

By the driver and not by torch's runtime, which keeps what it refuses as an error that the next call of torch's reports.
"""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import ExitStack, suppress
from typing import Any

from numpy.typing import NDArray

from foveate.engines.cuda import Device
from foveate.engines.errors import DeviceError

__all__ = ["PageLocked"]


class PageLocked:
    """Arrays that are page-locked until `close`; each is C-contiguous and begins on a page of its own.

    Raises: EngineUnavailable without the driver's bindings; DeviceError where it cannot page-lock all of them.
    """

    def __init__(self, index: int, arrays: Iterable[NDArray[Any]]) -> None:
        """`index` is the GPU's, on which torch works as well: both share its primary context."""
        with ExitStack() as undo:
            self._device = Device.open(index)
            undo.callback(self._device.close)
            with self._device.current(), ExitStack() as registered:
                for array in arrays:
                    registered.callback(self._device.register(array).close)
                self._registered = registered.pop_all()
            undo.pop_all()

    def close(self) -> None:
        """Give the memory back to its owner; what copies it must be over."""
        with suppress(DeviceError), self._device.current():
            self._registered.close()
        self._device.close()

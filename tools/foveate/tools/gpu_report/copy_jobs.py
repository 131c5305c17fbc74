"""What it costs to bring inputs to the GPU from memory that processes share: registered with the driver, and not."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import ExitStack, closing
from statistics import median
from typing import Any

import numpy as np
from numpy.typing import NDArray

from foveate.engines.cuda import Device, Event, Stream
from foveate.engines.errors import DeviceError
from foveate.tools.gpu_report.child import Keep
from foveate.tools.gpu_report.shared_pages import shared_pages

__all__ = ["copies", "measure_copies"]

_PICTURE = 640 * 640 * 3
_SIZES = {"1 picture of 640 x 640": _PICTURE, "16 pictures of 640 x 640": 16 * _PICTURE}
_WAYS = 4


def copies(_arguments: dict[str, Any], seconds: float, keep: Keep) -> None:
    """Keep, by size and way, how long a copy takes and how much of that the calling thread is kept."""
    device = Device.open()
    with ExitStack() as stack:
        stack.callback(device.close)
        stack.enter_context(device.current())
        found: dict[str, Any] = {}
        for name, nbytes in _SIZES.items():
            found[name] = measure_copies(device, nbytes, seconds / len(_SIZES))
            keep("copies", found)


def measure_copies(device: Device, nbytes: int, seconds: float) -> dict[str, Any]:
    """The four ways to copy so many bytes to a device that is current; a way that it refuses says why.

    ``pinned`` is memory of the driver's. Of shared memory, ``registered`` and ``not registered`` copy from where it
    lies, ``staged`` copies it into pinned memory first, as a slot does whose memory cannot be registered.
    """
    with ExitStack() as stack:
        stream = stack.enter_context(closing(device.new_stream()))
        done = stack.enter_context(closing(device.new_event()))
        buffer = stack.enter_context(closing(device.new_buffer(nbytes)))
        pinned = stack.enter_context(closing(device.new_pinned((nbytes,), np.uint8))).array
        shared = shared_pages((nbytes,), np.uint8)
        shared.fill(1)  # its pages exist from now on, as those of a slot that is in use
        share = seconds / _WAYS

        def timed(source: NDArray[np.uint8], before: Callable[[], object] = lambda: None) -> dict[str, float]:
            def copy() -> None:
                before()
                stream.copy_to_device(buffer.address, source)

            return _timed(copy, stream, done, nbytes, share)

        found: dict[str, Any] = {
            "pinned": timed(pinned),
            "not registered": timed(shared),
            "staged": timed(pinned, lambda: np.copyto(pinned, shared)),
        }
        try:
            started_ns = time.monotonic_ns()
            with closing(device.register(shared)):
                taken_ns = time.monotonic_ns() - started_ns
                found["registered"] = {**timed(shared), "register_us": round(taken_ns / 1e3, 1)}
        except DeviceError as error:
            found["registered"] = {"why_not": str(error)}
        return found


def _timed(copy: Callable[[], None], stream: Stream, done: Event, nbytes: int, seconds: float) -> dict[str, float]:
    end_ns = time.monotonic_ns() + round(seconds * 1e9)
    called_us: list[float] = []
    whole_us: list[float] = []
    while len(called_us) < 2 or time.monotonic_ns() < end_ns:
        began_ns = time.monotonic_ns()
        copy()
        returned_ns = time.monotonic_ns()
        done.record(stream)
        done.synchronize()
        called_us.append((returned_ns - began_ns) / 1e3)
        whole_us.append((time.monotonic_ns() - began_ns) / 1e3)
    whole = median(whole_us[1:])  # the first one warms up
    return {
        "thread_us": round(median(called_us[1:]), 1),
        "whole_us": round(whole, 1),
        "gb_per_s": round(nbytes / whole / 1e3, 3),
        "rounds": len(called_us) - 1,
    }

"""The video decoders of a device in another process, as an ingest sees them.

Whoever decodes a unit waits for it on a thread apart from the event loop, so this has calls of its own.
"""

from __future__ import annotations

import itertools
import mmap
import os
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from foveate.engines.errors import EngineError, EngineUnavailable
from foveate.service.boundary import PictureTicket, VideoUnit
from foveate.service.frame import PixelFormat

__all__ = ["RemoteVideo"]


class RemoteVideo:
    """Thread-safe, but for `serve` and `lose`, which are the event loop's."""

    def __init__(self, send: Callable[..., bool], soon: Callable[[Callable[[], object]], None], lost: str) -> None:
        """`send` says whether a message could be sent; `soon` has a call made in the event loop; `lost` is said of a
        device that is gone."""
        self._send = send
        self._soon = soon
        self._lost = lost
        self._numbers = itertools.count(1)
        self._waiting: dict[int, Future[Any]] = {}
        self._refusals: Mapping[PixelFormat, str] = {}

    def serve(self, refusals: Mapping[PixelFormat, str]) -> None:
        """The device has come, perhaps once more."""
        self._refusals = refusals

    def lose(self) -> None:
        """The device is gone, with its decoders and pictures."""
        for number in list(self._waiting):
            if waiting := self._waiting.pop(number, None):
                waiting.set_exception(EngineUnavailable(self._lost))

    def refusal(self, kind: PixelFormat) -> str:
        """See `DevicePort.video_refusal`."""
        return self._refusals.get(kind, self._lost)

    def decode(self, stream: int, unit: VideoUnit) -> PictureTicket | None:
        """See `DevicePort.decode_unit`."""
        told = self._call("decode", stream, tuple(unit))
        return None if told is None else PictureTicket(*told)

    def pixels(self, picture: int, size: tuple[int, int]) -> NDArray[np.uint8]:
        """See `DevicePort.picture_pixels`."""
        pixels: NDArray[np.uint8] = self._call("pixels", picture, size)
        return pixels

    def drop(self, picture: int) -> None:
        """See `DevicePort.drop_picture`."""
        # In the loop: the thread that collects this garbage may be amid sending something else.
        self._soon(partial(self._send, "drop", picture))

    def answer(self, number: int, outcome: Any, files: Sequence[int]) -> None:
        """What came of a call: a value, pixels in a file, or the error to raise."""
        if files:
            try:
                outcome = _mapped(files[0], outcome)
            except (OSError, ValueError) as error:  # a lane waits for whoever waits for this
                outcome = EngineError(f"the picture could not be taken over: {error}")
        waiting = self._waiting.pop(number, None)
        if waiting is None:
            return
        if isinstance(outcome, Exception):
            waiting.set_exception(outcome)
        else:
            waiting.set_result(outcome)

    def _call(self, kind: str, *arguments: Any) -> Any:
        number = next(self._numbers)
        waiting = self._waiting[number] = Future[Any]()
        if not self._send(kind, number, *arguments):
            self._waiting.pop(number, waiting)
            raise EngineUnavailable(self._lost)
        return waiting.result()


def _mapped(handle: int, shape: tuple[int, ...]) -> NDArray[np.uint8]:
    try:
        return np.frombuffer(mmap.mmap(handle, 0), np.uint8).reshape(shape)
    finally:
        os.close(handle)

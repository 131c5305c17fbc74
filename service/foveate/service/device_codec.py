"""A video stream's units decoded by its device, and its pictures, which stay there."""

from __future__ import annotations

import logging
import weakref
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from foveate.engines.errors import BadFrame, NoRoomForPicture, Overloaded, UnsupportedFormat
from foveate.service.boundary import DevicePort, PictureTicket, VideoUnit
from foveate.service.job import DecodedPicture
from foveate.service.video_decoder import UnitCodec

__all__ = ["DeviceCodec", "DevicePicture"]

_log = logging.getLogger(__name__)


class DevicePicture:
    """`job.DecodedPicture` of which the pixels are on the device, until nobody holds this object any more."""

    nbytes = 0
    """None here: the device bounds what it holds by itself."""

    def __init__(self, ticket: PictureTicket, device: DevicePort) -> None:
        self.number = ticket.picture
        """The device's own for it."""
        self.width, self.height = ticket.width, ticket.height
        self._device = device
        weakref.finalize(self, device.drop_picture, ticket.picture).atexit = False

    def rgb(self) -> NDArray[np.uint8]:
        """See `DecodedPicture`."""
        return self.reduced((self.width, self.height))

    def reduced(self, size: tuple[int, int]) -> NDArray[np.uint8]:
        """See `DecodedPicture`. Blocks until it is here. Raises: EngineError."""
        return self._device.picture_pixels(self.number, size)


class DeviceCodec:
    """`video_decoder.UnitCodec` on a stream's device; on the CPU where that has no decoder for it after all."""

    def __init__(self, device: DevicePort, stream: int, otherwise: Callable[[], UnitCodec] | None) -> None:
        """`otherwise` makes what decodes instead; None: a stream that the device does not decode is refused."""
        self._device = device
        self._stream = stream
        self._otherwise = otherwise
        self._instead: UnitCodec | None = None
        self._unsettled = 0
        """Units from the next one on of which the pictures are not whole yet."""

    def decode(self, unit: VideoUnit) -> DecodedPicture | None:
        """See `UnitCodec`."""
        if self._instead is None:
            try:
                return self._decode_there(unit)
            except NoRoomForPicture:
                raise
            except (Overloaded, UnsupportedFormat) as error:
                if self._otherwise is None or not unit.key:
                    raise
                _log.info("a stream is decoded on the CPU: %s", error)
                self._instead = self._otherwise()
                unit = unit._replace(anew=True)
        return self._instead.decode(unit)

    def _decode_there(self, unit: VideoUnit) -> DecodedPicture | None:
        if unit.lacks_reference:
            raise BadFrame(f"the access unit of {len(unit.data)} bytes builds on one that is missing")
        self._unsettled = unit.recovery if unit.anew else max(0, self._unsettled - 1)
        ticket = self._device.decode_unit(self._stream, unit)
        if ticket is None:
            return None
        picture = DevicePicture(ticket, self._device)  # which gives it back, also where it is not wanted
        return None if self._unsettled else picture

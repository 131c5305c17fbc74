"""Rows of an engine's input written on the device: JPEGs decoded on the way, and pictures that a video decoder made."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from typing import Any

from foveate.engines.contract import DeviceRows, EncodedRow
from foveate.engines.cuda.device import Device, Event
from foveate.engines.cuda.jpeg_decoder import JpegDecoder
from foveate.engines.cuda.picture_pool import GpuPicture
from foveate.engines.cuda.pictures import DevicePicture, PictureKernels, Rectangle
from foveate.engines.errors import BadFrame

__all__ = ["RowPlacer"]


class RowPlacer:
    """Places the pictures of a batch together. One thread at a time; made, used and closed with the device current."""

    def __init__(self, device: Device, kernels: PictureKernels) -> None:
        self.jpegs: JpegDecoder | None = None
        """None: JPEGs are left to the CPU."""
        self._device = device
        self._kernels = kernels
        self._placed: dict[int, Event] = {}
        with ExitStack() as undo:
            self._stream = device.new_stream()
            undo.callback(self._stream.close)
            self._resources = undo.pop_all()

    def place(self, asked: Sequence[EncodedRow], rows: DeviceRows, row_size: tuple[int, int]) -> list[bool]:
        """Write each row on the device; False for one that has to be written by the host.

        That is a JPEG which the decoder does not take, which is cut off or corrupt, or which has not the pixels that it
        was said to have: the decoder on the CPU tells which.
        Returns once the pixels are there, so that a fault on the device is this batch's and nobody else's; where it
        fails, nothing of it is under way any more.
        Units: row_size is (width, height) in pixels.
        Raises: DeviceError.
        """
        placed = self._event_of(rows)
        try:
            images = self._decoded([row.data for row in asked if isinstance(row.data, bytes)])
            decoded = iter(images)  # which hold their memory until the kernels have read it
            done = [self._place(row, _picture_of(row, decoded), rows, row_size) for row in asked]
            placed.record(self._stream)
            placed.synchronize()
        except BaseException:
            # What is under way still writes rows that the next run copies to, also on streams of the library's own.
            self._device.synchronize()
            raise
        for row, there in zip(asked, done, strict=True):
            if there:
                rows.written(row.row, placed.address)
        return done

    def _decoded(self, jpegs: Sequence[bytes]) -> Sequence[Any]:
        if self.jpegs is None or not jpegs:
            return [None] * len(jpegs)
        return self.jpegs.decode(jpegs, self._stream)

    def _place(
        self, asked: EncodedRow, picture: DevicePicture | None, rows: DeviceRows, row_size: tuple[int, int]
    ) -> bool:
        if picture is None:
            return False
        address = rows.address + asked.row * rows.row_bytes
        source, target = Rectangle(*asked.source), Rectangle(*asked.target)
        try:
            self._kernels.place(picture, source, address, row_size, target, self._stream, pad_value=asked.pad_value)
        except BadFrame:
            return False
        return True

    def _event_of(self, rows: DeviceRows) -> Event:
        """An event for each slot: a run that waits for its own must not wait for the next batch's decoding too."""
        if rows.address not in self._placed:
            self._placed[rows.address] = event = self._device.new_event()
            self._resources.callback(event.close)
        return self._placed[rows.address]

    def close(self) -> None:
        """Let go of the decoder, then of the stream; idempotent."""
        self.jpegs = None
        self._resources.close()


def _picture_of(asked: EncodedRow, decoded: Any) -> DevicePicture | None:
    if isinstance(asked.data, bytes):
        image = next(decoded)
        return None if image is None else JpegDecoder.picture(image)
    return asked.data.picture if isinstance(asked.data, GpuPicture) else None

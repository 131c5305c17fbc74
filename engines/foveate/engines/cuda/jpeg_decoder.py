"""JPEGs decoded on the GPU by nvImageCodec, and placed by our kernels: the pixels never leave the device."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from types import ModuleType
from typing import Any

from foveate.engines.contract import DeviceRows
from foveate.engines.cuda.device import Device
from foveate.engines.cuda.pictures import DevicePicture, PictureKernels, PictureLayout, Rectangle
from foveate.engines.errors import EngineUnavailable

__all__ = ["JpegDecoder", "PlacedJpeg", "image_codec"]


@dataclass(frozen=True, slots=True)
class PlacedJpeg:
    """A JPEG, and where it goes."""

    data: bytes
    row: int
    """Of the batch."""
    source: Rectangle
    """In pixels of the picture as it is stored: an EXIF orientation is not applied."""
    target: Rectangle
    """In pixels of the row; the rest of it is padded."""


class JpegDecoder:
    """Decodes the JPEGs of a batch together. One thread at a time; made, used and closed with the device current.

    Raises: EngineUnavailable without nvImageCodec.
    """

    def __init__(self, device: Device, kernels: PictureKernels, codec: ModuleType | None = None) -> None:
        """`codec` is nvImageCodec's module; None imports it."""
        codec = codec or image_codec()
        self._code_stream = codec.CodeStream
        self._parameters = codec.DecodeParams(
            apply_exif_orientation=False, color_spec=codec.ColorSpec.SRGB, sample_format=codec.SampleFormat.I_RGB
        )
        self._decoder = codec.Decoder(device_id=device.index)
        self._kernels = kernels
        with ExitStack() as undo:
            self._stream = device.new_stream()
            undo.callback(self._stream.close)
            self._placed = device.new_event()
            undo.callback(self._placed.close)
            self._resources = undo.pop_all()

    def decode(
        self, jpegs: Sequence[PlacedJpeg], rows: DeviceRows, row_size: tuple[int, int], pad_value: int
    ) -> list[bool]:
        """Decode each JPEG into its row on the device; False for one that has to be decoded on the CPU.

        That is one which this decoder does not take, or which is cut off or corrupt: the decoder on the CPU tells
        which. Returns once the pixels are there, so that a fault on the device is this batch's and nobody else's.
        Units: row_size is (width, height) in pixels.
        Raises: BadFrame if a rectangle leaves its picture, DeviceError.
        """
        streams = [self._code_stream(jpeg.data) for jpeg in jpegs]
        images = self._decoder.decode(streams, params=self._parameters, cuda_stream=self._stream.address)
        decoded = []
        for jpeg, image in zip(jpegs, images, strict=True):
            if image is not None:
                address = rows.address + jpeg.row * rows.row_bytes
                picture = _picture(image)
                self._kernels.place(
                    picture, jpeg.source, address, row_size, jpeg.target, self._stream, pad_value=pad_value
                )
            decoded.append(image is not None)
        self._placed.record(self._stream)
        self._placed.synchronize()  # the images' memory is given back when they go
        for jpeg, done in zip(jpegs, decoded, strict=True):
            if done:
                rows.written(jpeg.row, self._placed.address)
        return decoded

    def close(self) -> None:
        """Let go of the decoder, then of its stream; idempotent."""
        self._decoder = None
        self._resources.close()


def image_codec() -> ModuleType:
    """nvImageCodec's module. Raises: EngineUnavailable naming what to install."""
    try:
        from nvidia import nvimgcodec
    except (ImportError, OSError) as error:  # OSError: the bindings are there, a library under them is not
        raise EngineUnavailable(
            f"nvImageCodec is not usable here ({error}): install it with `pip install 'foveate[gpu]'`"
        ) from error
    module: ModuleType = nvimgcodec
    return module


def _picture(image: Any) -> DevicePicture:
    """The pixels of an image of nvImageCodec, interleaved RGB on the device."""
    described = image.__cuda_array_interface__
    height, width, _ = described["shape"]
    strides = described.get("strides")
    pitch = strides[0] if strides else 3 * width
    return DevicePicture(PictureLayout.RGB, width, height, described["data"][0], pitch)

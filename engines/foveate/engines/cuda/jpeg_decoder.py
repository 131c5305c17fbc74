"""JPEGs decoded on the GPU by nvImageCodec, and placed by our kernels: the pixels never leave the device."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from types import ModuleType
from typing import Any

from foveate.engines.contract import DeviceRows, EncodedRow
from foveate.engines.cuda.device import Device, Event
from foveate.engines.cuda.pictures import DevicePicture, PictureKernels, PictureLayout, Rectangle
from foveate.engines.errors import BadFrame, EngineUnavailable

__all__ = ["JpegDecoder", "image_codec"]


class JpegDecoder:
    """Decodes the JPEGs of a batch together. One thread at a time; made, used and closed with the device current.

    Raises: EngineUnavailable without nvImageCodec, or where it cannot use the device.
    """

    def __init__(self, device: Device, kernels: PictureKernels, codec: ModuleType | None = None) -> None:
        """`codec` is nvImageCodec's module; None imports it."""
        codec = codec or image_codec()
        self._code_stream = codec.CodeStream
        self._parameters = codec.DecodeParams(
            apply_exif_orientation=False, color_spec=codec.ColorSpec.SRGB, sample_format=codec.SampleFormat.I_RGB
        )
        try:
            self._decoder = codec.Decoder(device_id=device.index, backends=_backends(codec))
        except RuntimeError as error:
            raise EngineUnavailable(f"nvImageCodec has no decoder for cuda:{device.index}: {error}") from error
        self._device = device
        self._kernels = kernels
        self._placed: dict[int, Event] = {}
        with ExitStack() as undo:
            self._stream = device.new_stream()
            undo.callback(self._stream.close)
            self._resources = undo.pop_all()

    def decode(self, jpegs: Sequence[EncodedRow], rows: DeviceRows, row_size: tuple[int, int]) -> list[bool]:
        """Decode each JPEG into its row on the device; False for one that has to be decoded on the CPU.

        That is one which this decoder does not take, which is cut off or corrupt, or which has not the pixels that it
        was said to have: the decoder on the CPU tells which.
        Returns once the pixels are there, so that a fault on the device is this batch's and nobody else's; where it
        fails, nothing of it is under way any more.
        Units: row_size is (width, height) in pixels.
        Raises: DeviceError.
        """
        placed = self._event_of(rows)
        try:
            streams = [self._code_stream(jpeg.data) for jpeg in jpegs]
            images = self._decoder.decode(streams, params=self._parameters, cuda_stream=self._stream.address)
            decoded = [self._place(jpeg, image, rows, row_size) for jpeg, image in zip(jpegs, images, strict=True)]
            placed.record(self._stream)
            placed.synchronize()  # the images' memory is given back when they go
        except BaseException:
            # What is under way still writes rows that the next run copies to, also on streams of the library's own.
            self._device.synchronize()
            raise
        for jpeg, done in zip(jpegs, decoded, strict=True):
            if done:
                rows.written(jpeg.row, placed.address)
        return decoded

    def _place(self, jpeg: EncodedRow, image: Any, rows: DeviceRows, row_size: tuple[int, int]) -> bool:
        if image is None:
            return False
        address = rows.address + jpeg.row * rows.row_bytes
        source, target = Rectangle(*jpeg.source), Rectangle(*jpeg.target)
        try:
            self._kernels.place(
                _picture(image), source, address, row_size, target, self._stream, pad_value=jpeg.pad_value
            )
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


def _backends(codec: ModuleType) -> list[Any]:
    """The GPU's alone: its decoders on the CPU take what is cut off for a picture, and are no gain over ours."""
    kinds = codec.BackendKind
    return [codec.Backend(kind) for kind in (kinds.HW_GPU_ONLY, kinds.GPU_ONLY, kinds.HYBRID_CPU_GPU)]


def _picture(image: Any) -> DevicePicture:
    """The pixels of an image of nvImageCodec, interleaved RGB on the device."""
    described = image.__cuda_array_interface__
    height, width, _ = described["shape"]
    strides = described.get("strides")
    pitch = strides[0] if strides else 3 * width
    return DevicePicture(PictureLayout.RGB, width, height, described["data"][0], pitch)

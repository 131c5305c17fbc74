"""JPEGs decoded on the GPU by nvImageCodec: the pixels never leave the device."""

from __future__ import annotations

from collections.abc import Sequence
from types import ModuleType
from typing import Any

from foveate.engines.cuda.device import Device, Stream
from foveate.engines.cuda.pictures import DevicePicture, PictureLayout
from foveate.engines.errors import EngineUnavailable

__all__ = ["JpegDecoder", "image_codec"]


class JpegDecoder:
    """Decodes the JPEGs of a batch together. One thread at a time; made and used with the device current.

    Raises: EngineUnavailable without nvImageCodec, or where it cannot use the device.
    """

    def __init__(self, device: Device, codec: ModuleType | None = None) -> None:
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

    def decode(self, jpegs: Sequence[bytes], stream: Stream) -> Sequence[Any]:
        """The library's image of each, in the order of a stream; None for one that has to be decoded on the CPU.

        An image's memory is given back when it goes.
        """
        sources = [self._code_stream(jpeg) for jpeg in jpegs]
        images: Sequence[Any] = self._decoder.decode(sources, params=self._parameters, cuda_stream=stream.address)
        return images

    @staticmethod
    def picture(image: Any) -> DevicePicture:
        """The pixels of an image, interleaved RGB on the device."""
        described = image.__cuda_array_interface__
        height, width, _ = described["shape"]
        strides = described.get("strides")
        pitch = strides[0] if strides else 3 * width
        return DevicePicture(PictureLayout.RGB, width, height, described["data"][0], pitch)


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

"""Pictures that are on the device already, cut, resized and padded into one row of a batch by our own kernels."""

from __future__ import annotations

import ctypes
from dataclasses import dataclass
from enum import Enum
from importlib.resources import files
from typing import NamedTuple

from foveate.engines.cuda.compile import KernelCache
from foveate.engines.cuda.device import Device, Stream
from foveate.engines.errors import BadFrame
from foveate.engines.video_decoding import DEFAULT_COLOURS, VideoColours

__all__ = ["DevicePicture", "PictureKernels", "PictureLayout", "PlacementParameters", "Rectangle", "picture_source"]

_BLOCK = (32, 8, 1)


class PictureLayout(Enum):
    """How a picture's pixels lie in memory, by the kernel that reads them."""

    RGB = "place_rgb"
    NV12 = "place_nv12"

    @property
    def kernel(self) -> str:
        return self.value


class Rectangle(NamedTuple):
    """Whole pixels."""

    x: int
    y: int
    width: int
    height: int


@dataclass(frozen=True, slots=True)
class DevicePicture:
    """A picture on the device.

    Units: width and height in pixels; pitch, of a line of either plane, in bytes.
    """

    layout: PictureLayout
    width: int
    height: int
    address: int
    pitch: int
    chroma_address: int = 0
    """NV12: of U and V in turn, half as many lines."""
    colours: VideoColours = DEFAULT_COLOURS
    """NV12: what its samples mean."""


class PlacementParameters(ctypes.Structure):
    """The kernels' one parameter, as `Placement` in pictures.cu."""

    _fields_ = (
        ("picture", ctypes.c_uint64),
        ("chroma", ctypes.c_uint64),
        ("row", ctypes.c_uint64),
        *((name, ctypes.c_int32) for name in ("picture_pitch", "chroma_pitch")),
        *((f"source_{name}", ctypes.c_int32) for name in Rectangle._fields),
        *((f"target_{name}", ctypes.c_int32) for name in Rectangle._fields),
        *((name, ctypes.c_int32) for name in ("row_width", "row_height", "pad_value", "by_area", "black")),
        *((name, ctypes.c_float) for name in ("luma_gain", "red_v", "green_u", "green_v", "blue_u")),
    )

    @classmethod
    def of(
        cls,
        picture: DevicePicture,
        source: Rectangle,
        row: int,
        row_size: tuple[int, int],
        target: Rectangle,
        pad_value: int,
    ) -> PlacementParameters:
        """Raises: BadFrame if a rectangle is empty or leaves its picture."""
        _require_inside("source", source, picture.width, picture.height)
        _require_inside("target", target, *row_size)
        shrinks = source.width >= 2 * target.width and source.height >= 2 * target.height
        return cls(
            *(picture.address, picture.chroma_address, row, picture.pitch, picture.pitch),
            *(*source, *target, *row_size, pad_value, int(shrinks)),
            picture.colours.black,
            *picture.colours.rgb_gains(),
        )


class PictureKernels:
    """The kernels on a device, compiled for it now or found in the cache.

    Raises: EngineUnavailable without NVRTC, where the cache does not hold them.
    """

    def __init__(self, device: Device, cache: KernelCache) -> None:
        self._module = device.load_module(cache.cubin(picture_source(), device.compute_capability))
        kernels = {layout.kernel for layout in PictureLayout}
        self._kernels = {name: self._module.kernel(name) for name in kernels}

    def place(
        self,
        picture: DevicePicture,
        source: Rectangle,
        row: int,
        row_size: tuple[int, int],
        target: Rectangle,
        stream: Stream,
        *,
        pad_value: int = 0,
    ) -> None:
        """Resize a part of a picture onto a part of a row, and pad the rest of it, in the order of a stream.

        Shapes: row, its address on the device, is (row_size[1], row_size[0], 3) uint8 RGB without gaps.
        Units: pixels; row_size is (width, height).
        Raises: BadFrame if a rectangle is empty or leaves its picture.
        """
        parameters = PlacementParameters.of(picture, source, row, row_size, target, pad_value)
        grid = (-(-row_size[0] // _BLOCK[0]), -(-row_size[1] // _BLOCK[1]), 1)
        self._kernels[picture.layout.kernel].launch(stream, grid, _BLOCK, parameters)

    def close(self) -> None:
        self._module.close()


def picture_source() -> str:
    """The kernels' CUDA C++."""
    return files("foveate.engines.cuda").joinpath("pictures.cu").read_text(encoding="utf-8")


def _require_inside(name: str, rectangle: Rectangle, width: int, height: int) -> None:
    inside = (
        rectangle.width >= 1
        and rectangle.height >= 1
        and 0 <= rectangle.x <= width - rectangle.width
        and 0 <= rectangle.y <= height - rectangle.height
    )
    if not inside:
        raise BadFrame(f"the {name} {tuple(rectangle)} must be a part of {width} x {height} pixels")

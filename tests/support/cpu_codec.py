"""nvImageCodec and our kernels' cubin, as far as they are used over the stand-in for CUDA."""

from __future__ import annotations

import weakref
from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from foveate.engines.cuda import KernelCache
from support.fake_cuda import FakeCuda

__all__ = ["CpuCodec", "OneCubin"]


class CpuCodec:
    """nvImageCodec's module as far as it is used, decoding into the stand-in's memory."""

    def __init__(self, cuda: FakeCuda) -> None:
        self.cuda = cuda
        self.streams: list[int] = []
        self.ColorSpec = SimpleNamespace(SRGB="srgb")
        self.SampleFormat = SimpleNamespace(I_RGB="rgb")
        self.BackendKind = SimpleNamespace(CPU_ONLY=1, GPU_ONLY=2, HYBRID_CPU_GPU=3, HW_GPU_ONLY=4)
        self.addresses: list[int] = []
        """Where each picture was decoded to."""

    def Backend(self, kind: int) -> int:
        return kind

    def CodeStream(self, data: bytes) -> bytes:
        return data

    def DecodeParams(self, **said: Any) -> dict[str, Any]:
        assert said == {"apply_exif_orientation": False, "color_spec": "srgb", "sample_format": "rgb"}
        return said

    def Decoder(self, *, device_id: int, backends: list[int]) -> CpuCodec:
        assert device_id == 0
        assert sorted(backends) == [2, 3, 4]
        return self

    def decode(self, sources: Sequence[bytes], *, params: Any, cuda_stream: int) -> list[Any]:
        self.streams.append(cuda_stream)
        return [self._decoded(source, cuda_stream) for source in sources]

    def _decoded(self, source: bytes, stream: int) -> Any:
        image = cv2.imdecode(np.frombuffer(source, np.uint8), cv2.IMREAD_COLOR_RGB) if source else None
        if image is None:
            return None
        made = _Image(self.cuda, image.astype(np.uint8), stream)
        self.addresses.append(made.address)
        return made


class _Image:
    """A picture on the device once its stream has come so far; its memory goes with it, whatever still reads it."""

    def __init__(self, cuda: FakeCuda, pixels: NDArray[np.uint8], stream: int) -> None:
        self.address = address = cuda.take(pixels.nbytes)
        weakref.finalize(self, cuda.take_back, address)
        content = pixels.tobytes()
        cuda.give(stream, "a decode", lambda: cuda.write(address, content), writes=[(address, address + len(content))])
        told = {"shape": pixels.shape, "strides": None, "data": (address, False), "typestr": "|u1"}
        self.__cuda_array_interface__ = told


class OneCubin(KernelCache):
    def __init__(self) -> None:
        pass

    def cubin(self, source: str, capability: str) -> bytes:
        return b"\x7fELF place_rgb place_nv12"

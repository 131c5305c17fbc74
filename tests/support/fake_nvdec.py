"""PyNvVideoCodec as far as it is used, over the stand-in for CUDA: FFmpeg decodes, and what the library forbids fails.

Its types are as strict as the bindings, a picture is the decoder's own and overwritten by the next call, and it is
there only once the stream that was given has come so far.
"""

from __future__ import annotations

import ctypes
from enum import IntEnum
from types import SimpleNamespace
from typing import Any

import av
import numpy as np
from av.codec.context import Flags
from av.video.codeccontext import VideoCodecContext
from numpy.typing import NDArray

from support.fake_cuda import FakeCuda, Hazard

__all__ = ["FakeNvdec"]


class _Codec(IntEnum):
    H264 = 4
    HEVC = 8


class _Flag(IntEnum):
    ENDOFSTREAM = 1
    TIMESTAMP = 2
    DISCONTINUITY = 4
    ENDOFPICTURE = 8


class _Error(Exception):
    pass


class _Unsupported(Exception):
    pass


class _Packet:
    """`PacketData`: all of it numbers."""

    __slots__ = ("bsl", "bsl_data", "decode_flag", "dts", "pts")

    def __init__(self) -> None:
        self.bsl = self.bsl_data = self.decode_flag = self.dts = self.pts = 0

    def __setattr__(self, name: str, value: Any) -> None:
        if type(value) is not int:
            raise TypeError(f"{name}: incompatible function arguments, expected int, not {type(value).__name__}")
        object.__setattr__(self, name, value)


class FakeNvdec:
    """The module."""

    cudaVideoCodec = _Codec  # noqa: N815 - its name
    VideoPacketFlag = _Flag
    DisplayDecodeLatencyType = SimpleNamespace(NATIVE="native", LOW="low", ZERO="zero")
    Pixel_Format = SimpleNamespace(NV12="nv12", P016="p016")
    PyNvVCException = _Error
    PyNvVCExceptionUnsupported = _Unsupported
    PacketData = _Packet

    def __init__(self, cuda: FakeCuda) -> None:
        self.cuda = cuda
        self.open = 0
        """Decoders that are there now."""
        self.made = 0
        self.most = 100
        """How many of them have room."""
        self.supported = 1
        self.format = self.Pixel_Format.NV12
        self.flags: list[int] = []
        """Of each packet."""
        self.asked = 0

    def GetDecoderCaps(self, *, gpuid: int, codec: _Codec) -> dict[str, int]:
        assert gpuid == 0
        assert isinstance(codec, _Codec)
        self.asked += 1
        return {"supported": self.supported, "width_max": 4096, "height_max": 4096, "num_decoder_engines": 1}

    def CreateDecoder(
        self, *, gpuid: int, codec: _Codec, cudacontext: int, cudastream: int, usedevicememory: bool, latency: str
    ) -> _Decoder:
        assert (gpuid, cudacontext, usedevicememory, latency) == (0, 0, True, "low")
        self.made += 1
        return _Decoder(self, codec, cudastream)


class _Decoder:
    def __init__(self, module: FakeNvdec, kind: _Codec, stream: int) -> None:
        self._module, self._stream = module, stream
        codec = av.CodecContext.create("h264" if kind is _Codec.H264 else "hevc", "r")
        assert isinstance(codec, VideoCodecContext)
        self._codec = codec
        self._codec.thread_count = 1
        self._codec.flags |= Flags.low_delay
        self._surface = (0, 0)
        self._calls = 0
        self._began = False

    def __del__(self) -> None:
        if self._surface[1]:
            self._module.cuda.take_back(self._surface[0])
        if self._began:
            self._module.open -= 1

    def Decode(self, packet: _Packet) -> list[_Frame]:
        self._calls += 1
        module = self._module
        if not packet.decode_flag & _Flag.ENDOFPICTURE:
            raise AssertionError("without it a picture comes out when the next one goes in")
        module.flags.append(packet.decode_flag)
        if not self._began:  # with the sequence's parameters
            if module.open == module.most:
                raise RuntimeError("cuvidCreateDecoder returned error 2")
            module.open += 1
            self._began = True
        data = ctypes.string_at(packet.bsl_data, packet.bsl)
        unit = av.Packet(data)
        unit.pts = packet.pts
        try:
            frames = self._codec.decode(unit)
        except av.FFmpegError as error:
            raise _Error(f"NVDEC: {error}") from error
        return [self._mapped(_nv12(frame), frame.pts or 0) for frame in frames]

    def _mapped(self, picture: NDArray[np.uint8], timestamp: int) -> _Frame:
        cuda, content = self._module.cuda, picture.tobytes()
        address, nbytes = self._surface
        if nbytes != len(content):
            if nbytes:
                cuda.take_back(address)
            address, _ = self._surface = cuda.take(len(content)), len(content)
        span = (address, address + len(content))
        cuda.give(self._stream, "a video decode", lambda: cuda.write(address, content), writes=[span])
        return _Frame(self, self._calls, timestamp, address, picture.shape[0] * 2 // 3, picture.shape[1])


class _Frame:
    def __init__(self, decoder: _Decoder, call: int, timestamp: int, address: int, height: int, width: int) -> None:
        self.timestamp = timestamp
        self.format = decoder._module.format
        self._decoder, self._call = decoder, call
        self._planes = (
            _plane(address, (height, width, 1), (width, 1, 1)),
            _plane(address + height * width, (height // 2, width // 2, 2), (width, 2, 1)),
        )

    def cuda(self) -> tuple[SimpleNamespace, SimpleNamespace]:
        if self._call != self._decoder._calls:
            raise Hazard("a frame was read after the next unit had gone in")
        return self._planes


def _nv12(frame: av.VideoFrame) -> NDArray[np.uint8]:
    """The samples as they are, in two planes. Shapes: (height * 3 / 2, width)."""
    y, u, v = (
        np.frombuffer(memoryview(plane), np.uint8).reshape(-1, plane.line_size)[: plane.height, : plane.width]
        for plane in frame.planes
    )
    return np.concatenate([y, np.stack([u, v], axis=-1).reshape(u.shape[0], -1)])


def _plane(address: int, shape: tuple[int, ...], strides: tuple[int, ...]) -> SimpleNamespace:
    return SimpleNamespace(__cuda_array_interface__={"shape": shape, "strides": strides, "data": (address, False)})

"""H.264 and H.265 decoded by the GPU's own decoder (NVDEC), by PyNvVideoCodec: the pictures stay on the device."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from contextlib import ExitStack, suppress
from importlib import import_module
from types import ModuleType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from foveate.engines.contract import HeldPicture
from foveate.engines.cuda.compile import KernelCache
from foveate.engines.cuda.device import Device, DeviceBuffer
from foveate.engines.cuda.picture_pool import GpuPicture, PicturePool
from foveate.engines.cuda.pictures import DevicePicture, PictureKernels, PictureLayout, Rectangle
from foveate.engines.errors import (
    BadFrame,
    DeviceError,
    EngineUnavailable,
    NoRoomForPicture,
    Overloaded,
    UnsupportedFormat,
)
from foveate.engines.video_decoding import REORDERED, StreamDecoder, VideoDecoders, VideoFormat

__all__ = ["GpuVideoDecoders", "video_codec"]

_CODECS = {"h264": "H264", "h265": "HEVC"}
_SHARE = 4
"""Of the memory that is free when the first stream comes, the part of it that is for video."""
_MORE_SURFACES = 7
"""Pictures that a decoder takes beyond those that the stream has it keep: under way, mapped, and its copy for us."""


class GpuVideoDecoders(VideoDecoders):
    """The decoders of a GPU. It is shared with the engines, by its primary context.

    Raises: EngineUnavailable without PyNvVideoCodec, or where our kernels cannot be had.
    """

    def __init__(self, device: Device, cache: KernelCache, codec: ModuleType | None = None) -> None:
        """On a device that is this object's from now on, unless this fails. `codec` is PyNvVideoCodec's module."""
        self._codec = codec or video_codec()
        self._device = device
        self._lock = threading.Lock()
        self._bringing_down = threading.Lock()
        self._refusals: dict[str, str] = {}
        self._largest: dict[str, tuple[int, int]] = {}
        self._pool: PicturePool | None = None
        self._streams = set[_GpuStream]()
        self._closed = False
        with device.current(), ExitStack() as undo:
            self._kernels = PictureKernels(device, cache)
            undo.callback(self._kernels.close)
            self._fetching = device.new_stream()
            undo.callback(self._fetching.close)
            self._resources = undo.pop_all()

    @classmethod
    def open(cls, index: int = 0) -> GpuVideoDecoders:
        """Those of a GPU by its index. Raises: EngineUnavailable."""
        codec = video_codec()
        device = Device.open(index)
        try:
            return cls(device, KernelCache(), codec)
        except BaseException:
            device.close()
            raise

    def refusal(self, codec: str) -> str:
        """See `VideoDecoders`."""
        with self._lock:
            if codec not in self._refusals:
                self._refusals[codec] = self._ask(codec)
            return self._refusals[codec]

    def open_stream(self, declared: VideoFormat) -> StreamDecoder:
        """See `VideoDecoders`."""
        if refusal := self.refusal(declared.codec):
            raise EngineUnavailable(refusal)
        most = self._largest[declared.codec]
        if not declared.plain or declared.width > most[0] or declared.height > most[1]:
            raise UnsupportedFormat(
                f"the GPU decodes {declared.codec} of 8 bits and 4:2:0 up to {most[0]}x{most[1]} pixels, and the video "
                f"is {declared.width}x{declared.height}{'' if declared.plain else ' of another kind'}"
            )
        planned = (declared.kept + _MORE_SURFACES) * declared.width * declared.height * 3 // 2
        with self._lock:
            self._require_open()
            with self._device.current():
                pool = self._pool_for_all()
                if not pool.reserve(planned):
                    raise Overloaded(
                        f"the GPU has no memory left for one more video decoder, of {planned >> 20} MiB: stop other "
                        "streams, or send smaller pictures"
                    )
                stream = _GpuStream(self, self._device, self._codec, pool, declared, planned)
            self._streams.add(stream)
            return stream

    def pixels(self, picture: HeldPicture, size: tuple[int, int]) -> NDArray[np.uint8]:
        """See `VideoDecoders`."""
        assert isinstance(picture, GpuPicture), "pictures are brought down by those who made them"
        width, height = size
        pixels = np.empty((height, width, 3), np.uint8)
        whole, row = Rectangle(0, 0, picture.width, picture.height), Rectangle(0, 0, width, height)
        with self._bringing_down, ExitStack() as undo:
            self._require_open()
            undo.enter_context(self._device.current())
            stream = self._fetching
            scaled = self._device.new_pooled(pixels.nbytes, stream)
            undo.callback(stream.synchronize)
            undo.callback(scaled.close)
            self._kernels.place(picture.picture, whole, scaled.address, size, row, stream)
            stream.copy_to_host(pixels, scaled.address)
        return pixels

    def close(self) -> None:
        """See `VideoDecoders`."""
        with self._lock:
            if self._closed:
                return
            self._closed = True
            streams = list(self._streams)
        for stream in streams:
            stream.close()
        with self._bringing_down:
            try:
                with suppress(DeviceError), self._device.current():
                    self._device.finish()
                    if self._pool:
                        self._pool.close()
                    self._resources.close()
            finally:
                self._device.close()

    def forget(self, stream: _GpuStream) -> None:
        """A stream's decoder has been closed."""
        with self._lock:
            self._streams.discard(stream)

    def _require_open(self) -> None:
        if self._closed:
            raise EngineUnavailable("the GPU's video decoders are closed")

    def _pool_for_all(self) -> PicturePool:
        """Made by the first stream: the engines have what they need by then."""
        if self._pool is None:
            self._pool = PicturePool(self._device, self._device.memory_info()[0] // _SHARE)
        return self._pool

    def _ask(self, codec: str) -> str:
        kind = getattr(self._codec.cudaVideoCodec, _CODECS[codec])
        try:
            can = self._codec.GetDecoderCaps(gpuid=self._device.index, codec=kind)
        except _errors(self._codec) as error:
            return f"NVDEC cannot be used: {_first_line(error)}"
        if not can["supported"]:
            return f"this GPU has no decoder for {codec}"
        self._largest[codec] = can["width_max"], can["height_max"]
        return ""


class _GpuStream:
    """`StreamDecoder` over one of PyNvVideoCodec's, whose pictures are overwritten by its next call: each is copied."""

    def __init__(
        self,
        owner: GpuVideoDecoders,
        device: Device,
        codec: ModuleType,
        pool: PicturePool,
        declared: VideoFormat,
        planned_bytes: int,
    ) -> None:
        """What was planned is given back by `close`, or here where this fails."""
        self._owner = owner
        self._device = device
        self._codec = codec
        self._pool = pool
        self._declared = declared
        self._planned_bytes = planned_bytes
        self._units = 0
        self._works = False
        self._using = threading.Lock()  # a stream that ends may do so while its last unit is decoded
        with ExitStack() as undo:
            undo.callback(pool.release, planned_bytes)
            self._stream = device.new_stream()
            undo.callback(self._stream.close)
            self._copied = device.new_event()
            undo.callback(self._copied.close)
            try:
                self._decoder: Any = codec.CreateDecoder(
                    gpuid=device.index,
                    codec=getattr(codec.cudaVideoCodec, _CODECS[declared.codec]),
                    cudacontext=0,  # the primary one, which is ours too
                    cudastream=self._stream.address,
                    usedevicememory=True,
                    latency=codec.DisplayDecodeLatencyType.LOW,
                )
            except _errors(codec) as error:
                raise Overloaded(f"the GPU has no video decoder left: {error}") from error
            self._resources = undo.pop_all()

    def decode(self, data: bytes, *, anew: bool) -> GpuPicture | None:
        """See `StreamDecoder`."""
        with self._using:
            if self._decoder is None:
                raise EngineUnavailable("the stream's decoder is closed")
            with self._device.current():
                frames = self._frames(data, anew)
                own = [frame for frame in frames if frame.timestamp == self._units]
                if len(own) != len(frames):
                    raise BadFrame(REORDERED)
                return self._kept(own[-1]) if own else None

    def close(self) -> None:
        """See `StreamDecoder`."""
        with self._using:
            if self._decoder is None:
                return
            with suppress(DeviceError), self._device.current():  # of a lost one there is nothing to be had back
                self._device_finished()
                self._decoder = None
                self._resources.close()
            self._decoder = None
        self._owner.forget(self)

    def _device_finished(self) -> None:
        try:
            self._stream.synchronize()
        except DeviceError:  # what is to be said of it has been, by whoever waited for a picture
            self._device.finish()

    def _frames(self, data: bytes, anew: bool) -> Sequence[Any]:
        self._units += 1
        flags = self._codec.VideoPacketFlag
        bits = np.frombuffer(data, np.uint8)  # held until they have been read
        packet = self._codec.PacketData()
        packet.bsl_data, packet.bsl = bits.ctypes.data, bits.nbytes
        packet.pts = packet.dts = self._units
        packet.decode_flag = int(flags.ENDOFPICTURE) | (int(flags.DISCONTINUITY) if anew else 0)
        try:
            frames: Sequence[Any] = self._decoder.Decode(packet)
        except _errors(self._codec) as error:
            self._stream.synchronize()  # raises, if it is the device that has failed
            if not self._works:  # the hardware's session begins with the first unit
                raise Overloaded(f"the GPU did not begin to decode the video: {error}") from error
            raise BadFrame(f"the access unit of {len(data)} bytes cannot be decoded by the GPU: {error}") from error
        self._works = self._works or bool(frames)
        return frames

    def _kept(self, frame: Any) -> GpuPicture:
        if frame.format != self._codec.Pixel_Format.NV12:
            raise UnsupportedFormat(f"the GPU's decoder gives {frame.format}, expected pictures of 8 bits and 4:2:0")
        luma, chroma = (view.__cuda_array_interface__ for view in frame.cuda()[:2])
        (height, width), pitch = luma["shape"][:2], luma["strides"][0]
        luma_bytes, chroma_bytes = pitch * height, chroma["strides"][0] * chroma["shape"][0]
        if chroma["strides"][0] != pitch:
            raise UnsupportedFormat("the GPU's decoder gives lines of luma and of chroma that differ in length")
        buffer = self._pool.take(luma_bytes + chroma_bytes)
        if buffer is None:
            raise NoRoomForPicture("the GPU holds as many pictures as it may: send less")
        try:
            self._copy(buffer, (luma["data"][0], luma_bytes), (chroma["data"][0], chroma_bytes))
        except BaseException:
            self._device.finish()
            self._pool.give_back(buffer)
            raise
        picture = DevicePicture(
            PictureLayout.NV12,
            width,
            height,
            buffer.address,
            pitch,
            buffer.address + luma_bytes,
            self._declared.colours,
        )
        return self._pool.keep(buffer, picture)

    def _copy(self, buffer: DeviceBuffer, luma: tuple[int, int], chroma: tuple[int, int]) -> None:
        """The decoder writes its pictures on the same stream. Returns once it is done, so that nobody has to wait."""
        self._stream.copy_on_device(buffer.address, *luma)
        self._stream.copy_on_device(buffer.address + luma[1], *chroma)
        self._copied.record(self._stream)
        self._copied.synchronize()


def video_codec() -> ModuleType:
    """PyNvVideoCodec's module. Raises: EngineUnavailable naming what to install."""
    try:
        return import_module("PyNvVideoCodec")
    except (ImportError, OSError, RuntimeError) as error:  # it looks for the driver when it is imported
        reason = _first_line(error)
        raise EngineUnavailable(
            f"PyNvVideoCodec is not usable here ({reason}): install it with `pip install 'foveate[gpu]'`, and give a "
            "container the driver's `video` capability"
        ) from error


def _first_line(error: Exception) -> str:
    """Advice for containers follows, in many lines."""
    return str(error).strip().partition("\n")[0]


def _errors(codec: ModuleType) -> tuple[type[Exception], ...]:
    """What PyNvVideoCodec raises: its own, which have no base in common with those of its C++ below."""
    return (codec.PyNvVCException, codec.PyNvVCExceptionUnsupported, RuntimeError)

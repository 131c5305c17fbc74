"""Whether a device decodes video: as the settings say, or where that is faster and its engines gain by it."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from fractions import Fraction
from functools import partial
from importlib.util import find_spec
from typing import Literal

import numpy as np

from foveate.engines.errors import EngineError, FoveateError
from foveate.engines.video_decoding import StreamDecoder, VideoDecoders
from foveate.service.device_video import DeviceVideo
from foveate.service.ffmpeg_video import FfmpegCodec, has_ffmpeg
from foveate.service.frame import PixelFormat
from foveate.service.video_decoder import VideoDecoder
from foveate.service.video_units import unit_reader

__all__ = ["device_video", "gpu_video_decoders", "may_decode_video"]

_log = logging.getLogger(__name__)

_WIDTH, _HEIGHT = 1280, 720
_ROW = (640, 360)
"""What an engine takes of it."""
_UNITS = 10
_STREAMS = 4
"""On the device: as many as keep the decoders of most GPUs busy."""

Clock = Callable[[], int]


def gpu_video_decoders() -> VideoDecoders:
    """NVDEC of the first GPU that this process sees. Raises: EngineError."""
    # Imported here: it brings our kernels and what compiles them.
    from foveate.engines.cuda.video_decoder import GpuVideoDecoders

    return GpuVideoDecoders.open()


def may_decode_video(wish: Literal["auto", "cpu", "gpu"]) -> bool:
    """Whether it is worth while to have engines take pictures of their device."""
    return wish != "cpu" and find_spec("PyNvVideoCodec") is not None


def device_video(
    wish: Literal["auto", "cpu", "gpu"],
    engines_take_it: bool,
    threads: int,
    open_decoders: Callable[[], VideoDecoders] = gpu_video_decoders,
    clock: Clock = time.monotonic_ns,
) -> DeviceVideo:
    """What decodes video beside the engines of a device, or why nothing does.

    `engines_take_it` says whether some engine takes pictures that its device holds; `threads` is how many streams the
    CPU decodes side by side; 0: as many as there are cores.
    """
    if wish == "cpu":
        return DeviceVideo.none('video_decode is "cpu"')
    if wish == "auto" and not engines_take_it:
        return DeviceVideo.none("PyNvVideoCodec is not installed, or none of its engines takes pictures of a device")
    try:
        decoders = open_decoders()
    except EngineError as error:
        _log.info("the engines' device decodes no video: %s", error)
        return DeviceVideo.none(str(error))
    try:
        why_not = "" if wish == "gpu" else _why_slower(decoders, threads or len(os.sched_getaffinity(0)), clock)
    except FoveateError as error:
        why_not = f"its decoder could not be tried: {error}"
    except Exception as error:  # noqa: BLE001 - FFmpeg's own, say: a trial that goes wrong must not end the start
        _log.exception("it could not be tried whether the device or the CPU decodes video faster")
        why_not = f"its decoder could not be tried: {type(error).__name__}"
    except BaseException:
        decoders.close()
        raise
    if why_not:
        _log.info("video is decoded on the CPU: %s", why_not)
        decoders.close()
        return DeviceVideo.none(why_not)
    return DeviceVideo(decoders)


def _why_slower(decoders: VideoDecoders, threads: int, clock: Clock) -> str:
    """Why the CPU decodes; "" where the device is faster. Raises: FoveateError."""
    if refusal := decoders.refusal("h264"):
        return refusal
    if not has_ffmpeg():  # there is nothing else that decodes video
        return ""
    units = _sample_units()
    if units is None:
        return "FFmpeg has no encoder here, to make a video by which to compare the device with the CPU"
    with _device_work(decoders, units) as work:
        device_ns = _unit_ns(work, clock)
    cpu_ns = _unit_ns([_cpu_work(units) for _ in range(threads)], clock)
    took = (
        f"an H.264 picture of {_HEIGHT} lines takes {device_ns / 1e6:.2f} ms on the device, "
        f"{cpu_ns / 1e6:.2f} ms on {threads} cores"
    )
    _log.info(took)
    return "" if device_ns < cpu_ns else took


@contextmanager
def _device_work(decoders: VideoDecoders, units: Sequence[bytes]) -> Iterator[list[Callable[[], object]]]:
    """Of decoders that stay open, as the CPU's do: a stream opens one once."""
    reader = unit_reader(PixelFormat.H264, _WIDTH * _HEIGHT * 2)
    reader.read(units[0])
    declared = reader.declared
    assert declared, "an encoder's first unit has its parameters"
    with ExitStack() as undo:
        work: list[Callable[[], object]] = []
        for _ in range(_STREAMS):
            stream = decoders.open_stream(declared)
            undo.callback(stream.close)
            work.append(partial(_decode_twice, stream, units))
        yield work


def _decode_twice(stream: StreamDecoder, units: Sequence[bytes]) -> None:
    for index, unit in enumerate((*units, *units)):
        if stream.decode(unit, anew=index % len(units) == 0) is None:
            raise EngineError("its decoder gives no picture at once")


def _cpu_work(units: Sequence[bytes]) -> Callable[[], object]:
    decoder = VideoDecoder(PixelFormat.H264, _WIDTH * _HEIGHT * 2, FfmpegCodec(PixelFormat.H264, _WIDTH * _HEIGHT * 2))

    def decode() -> None:
        for unit in (*units, *units):
            decoder.decode(unit).reduced(_ROW)

    return decode


def _unit_ns(works: Sequence[Callable[[], object]], clock: Clock) -> float:
    """What a unit takes where all streams are decoded side by side."""
    with ThreadPoolExecutor(len(works)) as threads:
        list(threads.map(lambda work: work(), works))  # once for whatever is made on first use
        began_ns = clock()
        list(threads.map(lambda work: work(), works))
        return (clock() - began_ns) / (2 * _UNITS * len(works))


def _sample_units() -> list[bytes] | None:
    """A video as a camera may send it, for timing decoders; None without an encoder."""
    import av
    from av.video.codeccontext import VideoCodecContext

    if "libx264" not in av.codecs_available:
        return None
    codec = av.CodecContext.create("libx264", "w")
    assert isinstance(codec, VideoCodecContext)
    codec.width, codec.height, codec.pix_fmt = _WIDTH, _HEIGHT, "yuv420p"
    codec.time_base, codec.framerate, codec.bit_rate = Fraction(1, 25), Fraction(25), 4_000_000
    codec.options = {"preset": "veryfast", "tune": "zerolatency", "x264-params": "log-level=none"}
    noise = np.random.default_rng(1).integers(0, 256, (_HEIGHT // 8, _WIDTH // 4, 3)).astype(np.uint8)
    scene = noise.repeat(8, axis=0).repeat(8, axis=1)
    units: list[bytes] = []
    for index in range(_UNITS):
        picture = np.ascontiguousarray(scene[:, 8 * index :][:, :_WIDTH])
        frame = av.VideoFrame.from_ndarray(picture, format="rgb24")
        frame.pts = index
        units += [bytes(packet) for packet in codec.encode(frame)]
    return units

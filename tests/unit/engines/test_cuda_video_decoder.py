"""Video decoded on the device: over a stand-in for CUDA, with one for PyNvVideoCodec that decodes by FFmpeg."""

from __future__ import annotations

import gc
import sys
from collections.abc import Iterator
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest

from foveate.engines.contract import EncodedRow
from foveate.engines.cuda import PictureKernels
from foveate.engines.cuda.picture_pool import GpuPicture
from foveate.engines.cuda.row_placer import RowPlacer
from foveate.engines.cuda.video_decoder import GpuVideoDecoders, video_codec
from foveate.engines.errors import (
    BadFrame,
    DeviceError,
    DeviceLost,
    EngineUnavailable,
    NoRoomForPicture,
    Overloaded,
    UnsupportedFormat,
)
from foveate.engines.video_decoding import StreamDecoder, VideoColours, VideoFormat
from foveate.service.ffmpeg_video import FfmpegCodec
from foveate.service.frame import PixelFormat
from foveate.service.video_decoder import VideoDecoder
from support.cpu_codec import OneCubin
from support.fake_cuda import FakeCuda
from support.fake_nvdec import FakeNvdec
from support.video_streams import access_units, moving_pictures

ILLEGAL_ADDRESS = 700
WIDTH, HEIGHT = 192, 128
PICTURES = moving_pictures(12, WIDTH, HEIGHT)
H264 = VideoFormat("h264", WIDTH, HEIGHT, 4)
UNITS = access_units(PICTURES, PixelFormat.H264)
NV12_BYTES = WIDTH * HEIGHT * 3 // 2


@pytest.fixture
def cuda() -> FakeCuda:
    return FakeCuda()


@pytest.fixture
def nvdec(cuda: FakeCuda) -> FakeNvdec:
    return FakeNvdec(cuda)


@pytest.fixture
def decoders(cuda: FakeCuda, nvdec: FakeNvdec) -> Iterator[GpuVideoDecoders]:
    module: Any = nvdec
    made = GpuVideoDecoders(cuda.open(), OneCubin(), module)
    yield made
    made.close()
    gc.collect()
    assert cuda.leaks == []
    assert nvdec.open == 0


def decoded(stream: StreamDecoder, units: list[bytes]) -> list[GpuPicture]:
    pictures = [stream.decode(unit, anew=not index) for index, unit in enumerate(units)]
    assert all(isinstance(picture, GpuPicture) for picture in pictures)
    return [picture for picture in pictures if isinstance(picture, GpuPicture)]


@pytest.mark.parametrize("kind", [PixelFormat.H264, PixelFormat.H265])
def test_pictures_are_those_of_the_cpu_and_stay_as_they_are(decoders: GpuVideoDecoders, kind: PixelFormat) -> None:
    units, cpu = access_units(PICTURES, kind), VideoDecoder(kind, 10**6, FfmpegCodec(kind, 10**6))
    stream = decoders.open_stream(H264._replace(codec=kind.name.lower()))
    pictures = decoded(stream, units)  # all held: the decoder has only one surface of its own
    stream.close()
    for unit, picture in zip(units, pictures, strict=True):
        expected = cpu.decode(unit)
        assert (picture.width, picture.height) == (WIDTH, HEIGHT)
        whole, small = decoders.pixels(picture, (WIDTH, HEIGHT)), decoders.pixels(picture, (48, 32))
        off = np.abs(whole.astype(int) - expected.rgb())
        assert np.quantile(off, 0.98) <= 4, "two ways to enlarge the chroma"
        assert np.abs(small - whole.reshape(32, 4, 48, 4, 3).mean(axis=(1, 3))).max() <= 1


def test_the_streams_own_colours_are_those_of_its_pictures(decoders: GpuVideoDecoders) -> None:
    units = access_units(PICTURES[:1], PixelFormat.H264, colours=(1, 2))
    right = decoders.open_stream(H264._replace(colours=VideoColours(1, full_range=True)))
    wrong = decoders.open_stream(H264)
    size = (WIDTH, HEIGHT)
    seen, other = (decoders.pixels(decoded(each, units)[0], size).astype(int) for each in (right, wrong))
    expected = VideoDecoder(PixelFormat.H264, 10**6).decode(units[0]).rgb()
    assert np.abs(seen - expected).mean() < 2 < np.abs(other - expected).mean()


def test_a_row_of_a_batch_is_made_of_a_picture_or_a_part_of_it(cuda: FakeCuda, decoders: GpuVideoDecoders) -> None:
    (picture,) = decoded(decoders.open_stream(H264), UNITS[:1])
    said: dict[int, int] = {}
    device = cuda.open()
    with device.current():
        kernels = PictureKernels(device, OneCubin())
        placer, memory = RowPlacer(device, kernels), device.new_buffer(2 * 32 * 32 * 3)
        rows: Any = SimpleNamespace(address=memory.address, row_bytes=32 * 32 * 3, written=said.__setitem__)
        asked = [
            EncodedRow(picture, 1, (64, 32, 64, 64), (0, 0, 32, 32)),
            EncodedRow(b"a JPEG, and nobody decodes those", 0, (0, 0, 8, 8), (0, 0, 32, 32)),
        ]
        assert placer.place(asked, rows, (32, 32)) == [True, False]
        row = cuda.read(memory.address + rows.row_bytes, rows.row_bytes).reshape(32, 32, 3)
        for each in (placer, kernels, memory):
            each.close()
    device.close()
    assert list(said) == [1]
    whole = decoders.pixels(picture, (WIDTH, HEIGHT))[32:96, 64:128]
    assert np.abs(row - whole.reshape(32, 2, 32, 2, 3).mean(axis=(1, 3))).max() <= 1


def test_what_nobody_holds_is_used_again_at_once(decoders: GpuVideoDecoders, cuda: FakeCuda) -> None:
    stream = decoders.open_stream(H264)
    for index, unit in enumerate(UNITS):
        stream.decode(unit, anew=not index)
    assert list(cuda.live.values()).count("device memory") <= 2, "the decoder's own surface and one of ours"


def test_beyond_its_share_of_the_memory_no_picture_is_kept_and_the_chain_goes_on(
    cuda: FakeCuda, nvdec: FakeNvdec, monkeypatch: pytest.MonkeyPatch
) -> None:
    planned = (4 + 7) * NV12_BYTES
    monkeypatch.setattr(FakeCuda, "TOTAL", 4 * 2 * planned)
    module: Any = nvdec
    decoders = GpuVideoDecoders(cuda.open(), OneCubin(), module)
    stream, held = decoders.open_stream(H264), []
    with pytest.raises(Overloaded, match="no memory left for one more video decoder"):
        decoders.open_stream(H264)
    for index, unit in enumerate(UNITS[:11]):
        held.append(stream.decode(unit, anew=not index))
    with pytest.raises(NoRoomForPicture, match="as many pictures as it may"):
        stream.decode(UNITS[11], anew=False)
    held.clear()
    assert decoded(stream, UNITS[10:])
    stream.close()
    assert decoders.open_stream(H264), "the first one's memory is free again"
    decoders.close()


def test_without_a_session_the_stream_is_refused(decoders: GpuVideoDecoders, nvdec: FakeNvdec) -> None:
    nvdec.most = 0
    stream = decoders.open_stream(H264)
    with pytest.raises(Overloaded, match="did not begin to decode"):
        stream.decode(UNITS[0], anew=True)
    stream.close()


def test_what_the_gpu_does_not_decode_is_said_beforehand(decoders: GpuVideoDecoders, nvdec: FakeNvdec) -> None:
    for declared in (H264._replace(plain=False), H264._replace(width=8192)):
        with pytest.raises(UnsupportedFormat, match="8 bits and 4:2:0 up to 4096x4096"):
            decoders.open_stream(declared)
    nvdec.supported = 0
    assert decoders.refusal("h264") == "", "it was asked once"
    assert nvdec.asked == 1
    assert "no decoder for h265" in decoders.refusal("h265")
    with pytest.raises(EngineUnavailable, match="no decoder for h265"):
        decoders.open_stream(H264._replace(codec="h265"))


def test_a_picture_that_is_not_as_declared_is_refused(decoders: GpuVideoDecoders, nvdec: FakeNvdec) -> None:
    nvdec.format = nvdec.Pixel_Format.P016
    with pytest.raises(UnsupportedFormat, match="p016"):
        decoders.open_stream(H264).decode(UNITS[0], anew=True)


def test_a_unit_that_fails_is_bad_and_the_next_key_frame_begins_anew(
    decoders: GpuVideoDecoders, nvdec: FakeNvdec
) -> None:
    stream = decoders.open_stream(H264)
    decoded(stream, UNITS[:2])
    with pytest.raises(BadFrame, match="cannot be decoded by the GPU: NVDEC"):
        stream.decode(b"\0\0\1\x65garbage", anew=False)
    assert isinstance(stream.decode(UNITS[10], anew=True), GpuPicture)
    flags = nvdec.VideoPacketFlag
    anew, on = int(flags.ENDOFPICTURE | flags.DISCONTINUITY), int(flags.ENDOFPICTURE)
    assert nvdec.flags == [anew, on, on, anew]


def test_a_video_that_reorders_is_refused(decoders: GpuVideoDecoders) -> None:
    units = access_units(PICTURES, PixelFormat.H264, bframes=2)
    stream = decoders.open_stream(H264)
    with pytest.raises(BadFrame, match="reorders pictures"):
        decoded(stream, units)


def test_a_fault_of_the_device_is_no_pictures(decoders: GpuVideoDecoders, cuda: FakeCuda) -> None:
    stream = decoders.open_stream(H264)
    cuda.fail("copy_on_device", 1)
    with pytest.raises(DeviceError):
        stream.decode(UNITS[0], anew=True)
    assert decoded(stream, UNITS), "its memory is free again"


def test_a_lost_device_is_told_of_and_closed_all_the_same(cuda: FakeCuda, nvdec: FakeNvdec) -> None:
    module: Any = nvdec
    decoders = GpuVideoDecoders(cuda.open(), OneCubin(), module)
    stream = decoders.open_stream(H264)
    cuda.fail("copy_on_device", ILLEGAL_ADDRESS)
    with pytest.raises(DeviceLost):
        stream.decode(UNITS[0], anew=True)
    with pytest.raises(DeviceLost):
        decoders.open_stream(H264)
    decoders.close()
    with pytest.raises(EngineUnavailable, match="closed"):
        stream.decode(UNITS[1], anew=False)


def test_a_unit_that_fails_as_the_device_is_lost_is_not_the_units_fault(
    decoders: GpuVideoDecoders, cuda: FakeCuda
) -> None:
    stream = decoders.open_stream(H264)
    decoded(stream, UNITS[:2])
    cuda.fail("stream_synchronize", 1)
    with pytest.raises(DeviceError):
        stream.decode(b"\0\0\1\x65garbage", anew=False)


def test_a_stream_may_end_after_everything_else(cuda: FakeCuda, nvdec: FakeNvdec) -> None:
    module: Any = nvdec
    decoders = GpuVideoDecoders(cuda.open(), OneCubin(), module)
    stream = decoders.open_stream(H264)
    (picture,) = decoded(stream, UNITS[:1])
    decoders.close()
    decoders.close()
    stream.close()
    del picture
    with pytest.raises(EngineUnavailable, match="closed"):
        stream.decode(UNITS[1], anew=False)
    with pytest.raises(EngineUnavailable, match="closed"):
        decoders.open_stream(H264)
    assert cuda.leaks == []


def test_without_the_library_or_a_driver_it_is_said_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "PyNvVideoCodec", None)
    with pytest.raises(EngineUnavailable, match=r"foveate\[gpu\]"):
        video_codec()

    def no_driver(name: str) -> ModuleType:
        raise RuntimeError("libnvidia-encode.so.1: cannot open shared object file\n\n=== TROUBLESHOOTING ===")

    monkeypatch.setattr("foveate.engines.cuda.video_decoder.import_module", no_driver)
    with pytest.raises(EngineUnavailable, match=r"\(libnvidia-encode.so.1: cannot open shared object file\)"):
        video_codec()

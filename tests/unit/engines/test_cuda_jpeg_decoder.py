"""JPEGs to rows on the device: over a stand-in for CUDA, with a codec that decodes on the CPU into its memory."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from types import ModuleType, SimpleNamespace
from typing import Any

import cv2
import numpy as np
import pytest

from foveate.engines.contract import DeviceRows
from foveate.engines.cuda import Device, KernelCache, PictureKernels, Rectangle
from foveate.engines.cuda.jpeg_decoder import JpegDecoder, PlacedJpeg, image_codec
from foveate.engines.errors import DeviceError, EngineUnavailable
from support.fake_cuda import FakeCuda

WHOLE = Rectangle(0, 0, 64, 48)
ROW = Rectangle(0, 4, 32, 24)
ROW_SIZE = (32, 32)


class CpuCodec:
    """nvImageCodec's module as far as it is used, decoding into the stand-in's memory."""

    def __init__(self, cuda: FakeCuda) -> None:
        self.cuda = cuda
        self.streams: list[int] = []
        self.ColorSpec = SimpleNamespace(SRGB="srgb")
        self.SampleFormat = SimpleNamespace(I_RGB="rgb")
        self.held: list[int] = []

    def CodeStream(self, data: bytes) -> bytes:
        return data

    def DecodeParams(self, **said: Any) -> dict[str, Any]:
        assert said == {"apply_exif_orientation": False, "color_spec": "srgb", "sample_format": "rgb"}
        return said

    def Decoder(self, *, device_id: int) -> CpuCodec:
        assert device_id == 0
        return self

    def decode(self, sources: Sequence[bytes], *, params: Any, cuda_stream: int) -> list[Any]:
        self.streams.append(cuda_stream)
        return [self._decoded(source) for source in sources]

    def _decoded(self, source: bytes) -> Any:
        image = cv2.imdecode(np.frombuffer(source, np.uint8), cv2.IMREAD_COLOR_RGB) if source else None
        if image is None:
            return None
        address = self.cuda.memory_alloc(image.nbytes)
        self.held.append(address)
        self.cuda.write(address, image.tobytes())
        return SimpleNamespace(
            __cuda_array_interface__={"shape": image.shape, "strides": None, "data": (address, False), "typestr": "|u1"}
        )


class Rows(DeviceRows):
    def __init__(self, cuda: FakeCuda) -> None:
        self._address = cuda.memory_alloc(4 * self.row_bytes)
        self.said: dict[int, int] = {}

    @property
    def address(self) -> int:
        return self._address

    @property
    def row_bytes(self) -> int:
        return ROW_SIZE[0] * ROW_SIZE[1] * 3

    def written(self, row: int, event: int) -> None:
        self.said[row] = event


class OneCubin(KernelCache):
    def __init__(self) -> None:
        pass

    def cubin(self, source: str, capability: str) -> bytes:
        return b"\x7fELF place_rgb place_nv12"


@pytest.fixture
def cuda() -> FakeCuda:
    return FakeCuda()


@pytest.fixture
def device(cuda: FakeCuda) -> Iterator[Device]:
    device = cuda.open()
    with device.current():
        yield device


def jpeg(grey: int = 100) -> bytes:
    done, data = cv2.imencode(".jpg", np.full((48, 64, 3), grey, np.uint8))
    assert done
    return data.tobytes()


def decoder(device: Device, codec: Any) -> JpegDecoder:
    module: ModuleType = codec
    return JpegDecoder(device, PictureKernels(device, OneCubin()), module)


def test_a_batch_is_decoded_on_one_stream_and_each_row_is_said_to_be_the_devices(
    cuda: FakeCuda, device: Device
) -> None:
    codec, rows = CpuCodec(cuda), Rows(cuda)
    made = decoder(device, codec)
    asked = [PlacedJpeg(jpeg(50), 2, WHOLE, ROW), PlacedJpeg(jpeg(90), 0, WHOLE, ROW)]
    assert made.decode(asked, rows, ROW_SIZE, 114) == [True, True]
    assert set(rows.said) == {0, 2}
    assert len(set(rows.said.values())) == 1
    kernels = [work for work in cuda.log if work.what.startswith("kernel place_rgb")]
    assert len(kernels) == 2
    assert {work.stream for work in kernels} == set(codec.streams)
    assert all(work.done for work in kernels), "the images may go now, so their pixels must have been read"


def test_the_kernel_is_told_where_the_picture_and_its_row_lie(cuda: FakeCuda, device: Device) -> None:
    codec, rows = CpuCodec(cuda), Rows(cuda)
    decoder(device, codec).decode([PlacedJpeg(jpeg(), 3, WHOLE, ROW)], rows, ROW_SIZE, 114)
    (kernel,) = [work.what for work in cuda.log if work.what.startswith("kernel")]
    told = bytes.fromhex(kernel.split()[-1])
    picture, _, row = np.frombuffer(told[:24], np.uint64)
    assert picture == codec.held[0]
    assert row == rows.address + 3 * rows.row_bytes


def test_what_cannot_be_decoded_there_is_left_to_the_cpu(cuda: FakeCuda, device: Device) -> None:
    rows = Rows(cuda)
    asked = [PlacedJpeg(b"", 0, WHOLE, ROW), PlacedJpeg(jpeg(), 1, WHOLE, ROW)]
    assert decoder(device, CpuCodec(cuda)).decode(asked, rows, ROW_SIZE, 0) == [False, True]
    assert set(rows.said) == {1}


def test_a_fault_on_the_device_is_raised_and_no_row_is_said_to_be_written(cuda: FakeCuda, device: Device) -> None:
    rows, made = Rows(cuda), decoder(device, CpuCodec(cuda))
    cuda.fail("launch", 719)
    with pytest.raises(DeviceError):
        made.decode([PlacedJpeg(jpeg(), 0, WHOLE, ROW)], rows, ROW_SIZE, 0)
    assert not rows.said


def test_closing_leaves_nothing(cuda: FakeCuda, device: Device) -> None:
    kernels = PictureKernels(device, OneCubin())
    module: Any = CpuCodec(cuda)
    made = JpegDecoder(device, kernels, module)
    made.close()
    made.close()
    kernels.close()
    assert not cuda.leaks


def test_without_the_library_it_is_said_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    monkeypatch.setitem(sys.modules, "nvidia.nvimgcodec", None)
    with pytest.raises(EngineUnavailable, match=r"foveate\[gpu\]"):
        image_codec()


def test_the_real_library_takes_what_is_asked_of_it() -> None:
    """Its own decoder on the CPU, which differs in the device alone."""
    codec = pytest.importorskip("nvidia.nvimgcodec", reason="nvImageCodec is not installed")
    parameters = codec.DecodeParams(
        apply_exif_orientation=False, color_spec=codec.ColorSpec.SRGB, sample_format=codec.SampleFormat.I_RGB
    )
    cpu = codec.Decoder(
        device_id=codec.NVIMGCODEC_DEVICE_CPU_ONLY, backends=[codec.Backend(codec.BackendKind.CPU_ONLY)]
    )
    good, bad = cpu.decode([codec.CodeStream(jpeg(100)), codec.CodeStream(jpeg(100)[:200])], params=parameters)
    assert bad is None
    pixels = np.asarray(good)
    assert pixels.shape == (48, 64, 3)
    assert np.abs(pixels.astype(int) - 100).max() <= 2

"""JPEGs to rows on the device: over a stand-in for CUDA, with a codec that decodes on the CPU into its memory."""

from __future__ import annotations

from collections.abc import Iterator
from types import ModuleType
from typing import Any

import cv2
import numpy as np
import pytest

from foveate.engines.contract import DeviceRows, EncodedRow
from foveate.engines.cuda import Device, PictureKernels, Rectangle
from foveate.engines.cuda.jpeg_decoder import JpegDecoder, image_codec
from foveate.engines.cuda.row_placer import RowPlacer
from foveate.engines.errors import DeviceError, EngineUnavailable
from support.cpu_codec import CpuCodec, OneCubin
from support.fake_cuda import FakeCuda

WHOLE = Rectangle(0, 0, 64, 48)
ROW = Rectangle(0, 4, 32, 24)
ROW_SIZE = (32, 32)


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


def placer(device: Device, codec: Any) -> RowPlacer:
    module: ModuleType = codec
    made = RowPlacer(device, PictureKernels(device, OneCubin()))
    made.jpegs = JpegDecoder(device, module)
    return made


def test_a_batch_is_decoded_on_one_stream_and_each_row_is_said_to_be_the_devices(
    cuda: FakeCuda, device: Device
) -> None:
    codec, rows = CpuCodec(cuda), Rows(cuda)
    made = placer(device, codec)
    asked = [EncodedRow(jpeg(50), 2, WHOLE, ROW), EncodedRow(jpeg(90), 0, WHOLE, ROW)]
    assert made.place(asked, rows, ROW_SIZE) == [True, True]
    assert set(rows.said) == {0, 2}
    assert len(set(rows.said.values())) == 1
    kernels = [work for work in cuda.log if work.what.startswith("kernel place_rgb")]
    assert len(kernels) == 2
    assert {work.stream for work in kernels} == set(codec.streams)
    assert all(work.done for work in kernels), "the images may go now, so their pixels must have been read"


def test_the_kernel_is_told_where_the_picture_and_its_row_lie(cuda: FakeCuda, device: Device) -> None:
    codec, rows = CpuCodec(cuda), Rows(cuda)
    placer(device, codec).place([EncodedRow(jpeg(), 3, WHOLE, ROW, 114)], rows, ROW_SIZE)
    (kernel,) = [work.what for work in cuda.log if work.what.startswith("kernel")]
    told = bytes.fromhex(kernel.split()[-1])
    picture, _, row = np.frombuffer(told[:24], np.uint64)
    assert picture == codec.addresses[0]
    assert row == rows.address + 3 * rows.row_bytes


def test_what_cannot_be_decoded_there_is_left_to_the_cpu(cuda: FakeCuda, device: Device) -> None:
    rows = Rows(cuda)
    asked = [
        EncodedRow(b"no JPEG", 3, WHOLE, ROW),
        EncodedRow(jpeg()[:40], 0, WHOLE, ROW),
        EncodedRow(jpeg(), 1, WHOLE, ROW),
        EncodedRow(jpeg(), 2, (0, 0, 65, 48), ROW),
    ]
    assert placer(device, CpuCodec(cuda)).place(asked, rows, ROW_SIZE) == [False, False, True, False]
    assert set(rows.said) == {1}


def test_each_slot_has_an_event_of_its_own(cuda: FakeCuda, device: Device) -> None:
    """A run that waits for its rows must not wait for the next batch's too."""
    made, slots = placer(device, CpuCodec(cuda)), [Rows(cuda), Rows(cuda)]
    for rows in (*slots, slots[0]):
        made.place([EncodedRow(jpeg(), 0, WHOLE, ROW)], rows, ROW_SIZE)
    assert slots[0].said != slots[1].said
    made.close()
    assert "event" not in cuda.live.values()


def test_a_device_that_the_library_cannot_use_is_said_to_be_so(cuda: FakeCuda, device: Device) -> None:
    class Broken(CpuCodec):
        def Decoder(self, *, device_id: int, backends: list[int]) -> CpuCodec:
            raise RuntimeError("Could not create decoder")

    with pytest.raises(EngineUnavailable, match="no decoder for cuda:0: Could not create decoder"):
        placer(device, Broken(cuda))


def test_a_fault_on_the_device_is_raised_and_no_row_is_said_to_be_written(cuda: FakeCuda, device: Device) -> None:
    rows, made = Rows(cuda), placer(device, CpuCodec(cuda))
    cuda.fail("launch", 719)
    with pytest.raises(DeviceError):
        made.place([EncodedRow(jpeg(), 0, WHOLE, ROW)], rows, ROW_SIZE)
    assert not rows.said


def test_closing_leaves_nothing(cuda: FakeCuda, device: Device) -> None:
    kernels = PictureKernels(device, OneCubin())
    module: Any = CpuCodec(cuda)
    made = RowPlacer(device, kernels)
    made.jpegs = JpegDecoder(device, module)
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
    kinds = codec.BackendKind
    assert [codec.Backend(kind) for kind in (kinds.HW_GPU_ONLY, kinds.GPU_ONLY, kinds.HYBRID_CPU_GPU)]
    sources = [jpeg(100), jpeg(100)[:200], b"no picture", b""]
    good, *bad = cpu.decode([codec.CodeStream(data) for data in sources], params=parameters)
    assert bad == [None, None, None]
    pixels = np.asarray(good)
    assert pixels.shape == (48, 64, 3)
    assert np.abs(pixels.astype(int) - 100).max() <= 2

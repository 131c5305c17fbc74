"""CUDA on a GPU, by each layer: the same checks as the stand-in's, the real kernels, and what only a GPU can tell."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from foveate.engines import EngineUnavailable
from foveate.engines.cuda import Device, DevicePicture, KernelCache, PictureKernels, PictureLayout, Rectangle
from foveate.engines.cuda.device import LAYERS
from foveate.engines.video_decoding import VideoColours
from support.cuda_layer_checks import CHECKS
from support.picture_reference import nv12_as_rgb, place_picture

CASES = {
    "letterbox": (Rectangle(0, 0, 640, 426), (416, 416), Rectangle(0, 69, 416, 277)),
    "area": (Rectangle(0, 0, 640, 426), (160, 160), Rectangle(0, 27, 160, 106)),
    "crop": (Rectangle(101, 51, 33, 47), (224, 224), Rectangle(0, 0, 224, 224)),
}


@pytest.fixture(params=LAYERS)
def device(request: pytest.FixtureRequest) -> Iterator[Device]:
    try:
        opened = Device.open(layer=request.param)
    except EngineUnavailable as error:
        pytest.skip(str(error))
    with opened.current():
        yield opened
    opened.close()


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
def test_layer(device: Device, check: Callable[[Device], None]) -> None:
    check(device)


@pytest.mark.parametrize("colours", [None, VideoColours(6), VideoColours(1), VideoColours(1, full_range=True)])
@pytest.mark.parametrize("case", CASES)
def test_kernels_do_what_the_reference_does(
    device: Device, tmp_path: Path, case: str, colours: VideoColours | None
) -> None:
    """Without colours the picture is RGB."""
    layout = PictureLayout.NV12 if colours else PictureLayout.RGB
    source, size, target = CASES[case]
    rng = np.random.default_rng(1)
    height, width, pitch = 426, 640, 2048
    lines = height if layout is PictureLayout.RGB else height * 3 // 2
    columns = width * 3 if layout is PictureLayout.RGB else width
    with ExitStack() as stack:
        kernels = stack.enter_context(closing(PictureKernels(device, KernelCache(tmp_path))))
        stream = stack.enter_context(closing(device.new_stream()))
        host = stack.enter_context(closing(device.new_pinned((lines, pitch), np.uint8)))
        host.array[:] = rng.integers(0, 256, host.array.shape, np.uint8)
        pixels = stack.enter_context(closing(device.new_buffer(host.nbytes)))
        row = stack.enter_context(closing(device.new_pinned((size[1], size[0], 3), np.uint8)))
        output = stack.enter_context(closing(device.new_buffer(row.nbytes)))
        chroma = pixels.address + height * pitch
        picture = DevicePicture(layout, width, height, pixels.address, pitch, chroma, colours or VideoColours())
        stream.copy_to_device(pixels.address, host.array)
        kernels.place(picture, source, output.address, size, target, stream, pad_value=114)
        stream.copy_to_host(row.array, output.address)
        stream.synchronize()
        visible = host.array[:, :columns]
        expected = place_picture(_as_rgb(visible, height, width, colours), source, size, target, 114)
        off = np.abs(row.array.astype(np.int16) - expected)
        assert off.max() <= 1
        assert (off > 0).mean() < 1e-3


def _as_rgb(
    visible: NDArray[np.uint8], height: int, width: int, colours: VideoColours | None
) -> NDArray[np.uint8] | NDArray[np.float32]:
    if colours is None:
        return visible.reshape(height, width, 3)
    return nv12_as_rgb(visible[:height], visible[height:], colours)


def test_waiting_lets_other_threads_run(device: Device) -> None:
    """The thread that waits for an event must not hold the interpreter's lock."""
    with ExitStack() as stack:
        stream = stack.enter_context(closing(device.new_stream()))
        done = stack.enter_context(closing(device.new_event()))
        buffer = stack.enter_context(closing(device.new_buffer(1 << 29)))
        counted, over = 0, threading.Event()

        def count() -> None:
            nonlocal counted
            while not over.is_set():
                counted += 1

        for _ in range(1000):  # of a few hundred milliseconds in all
            stream.copy_on_device(buffer.address, buffer.address + (1 << 28), 1 << 28)
        done.record(stream)
        thread = threading.Thread(target=count)
        thread.start()
        before = counted
        done.synchronize()
        during = counted - before
        over.set()
        thread.join()
        assert during > 100


def test_opening_again_and_again_leaves_nothing() -> None:
    free = []
    for _ in range(20):
        try:
            device = Device.open()
        except EngineUnavailable as error:
            pytest.skip(str(error))
        with device.current():
            stream, buffer = device.new_stream(), device.new_buffer(64 << 20)
            buffer.close()
            stream.close()
            free.append(device.memory_info()[0])
        device.close()
    assert min(free[1:]) >= free[0] - (8 << 20)

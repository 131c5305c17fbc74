"""The picture kernels: their reference against OpenCV, and their source against the reference, without a GPU."""

from __future__ import annotations

import ctypes
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from foveate.engines import BadFrame
from foveate.engines.cuda import DevicePicture, KernelCache, PictureKernels, PictureLayout, Rectangle
from foveate.engines.cuda.pictures import PlacementParameters, picture_source
from foveate.engines.video_decoding import VideoColours
from support.fake_cuda import FakeCuda
from support.picture_reference import nv12_as_rgb, place_picture

Pixels = NDArray[np.uint8]

CASES = {
    "letterbox down": (Rectangle(0, 0, 640, 427), (416, 416), Rectangle(0, 69, 416, 278)),
    "letterbox far down": (Rectangle(0, 0, 640, 427), (160, 160), Rectangle(0, 26, 160, 107)),
    "stretch": (Rectangle(0, 0, 640, 427), (300, 200), Rectangle(0, 0, 300, 200)),
    "crop up": (Rectangle(100, 51, 33, 47), (224, 224), Rectangle(0, 0, 224, 224)),
    "crop whole": (Rectangle(5, 7, 256, 256), (64, 64), Rectangle(0, 0, 64, 64)),
    "one pixel": (Rectangle(3, 3, 1, 1), (8, 8), Rectangle(2, 2, 1, 1)),
    "as it is": (Rectangle(9, 11, 96, 64), (96, 64), Rectangle(0, 0, 96, 64)),
}
PAD = 114
BT601, BT709, FULL = VideoColours(6), VideoColours(1), VideoColours(1, full_range=True)


@pytest.fixture(scope="module")
def picture() -> Pixels:
    data = pytest.importorskip("skimage.data")
    resized: Pixels = cv2.resize(data.chelsea(), (640, 427)).astype(np.uint8)
    return resized


def as_nv12(picture: Pixels) -> tuple[Pixels, Pixels]:
    """Of even height and width, BT.601, by OpenCV."""
    height, width = (side & ~1 for side in picture.shape[:2])
    planar = cv2.cvtColor(np.ascontiguousarray(picture[:height, :width]), cv2.COLOR_RGB2YUV_I420)
    luma = planar[:height].astype(np.uint8)
    u, v = planar[height:].reshape(2, height // 2, width // 2)
    return luma, np.stack([u, v], axis=-1).reshape(height // 2, width).astype(np.uint8)


def shrinks(case: str) -> bool:
    """By half or more, so that areas are averaged."""
    source, _, target = CASES[case]
    return source.width >= 2 * target.width and source.height >= 2 * target.height


def resized_by_opencv(picture: Pixels, case: str) -> Pixels:
    source, (width, height), target = CASES[case]
    cut = picture[source.y : source.y + source.height, source.x : source.x + source.width]
    row = np.full((height, width, 3), PAD, np.uint8)
    row[target.y : target.y + target.height, target.x : target.x + target.width] = cv2.resize(
        cut, target[2:], interpolation=cv2.INTER_AREA if shrinks(case) else cv2.INTER_LINEAR
    )
    return row


def difference(some: Pixels, other: Pixels) -> NDArray[np.int16]:
    return np.abs(some.astype(np.int16) - other.astype(np.int16))


@pytest.mark.parametrize("case", CASES)
def test_the_reference_is_what_opencv_does(picture: Pixels, case: str) -> None:
    source, size, target = CASES[case]
    assert difference(place_picture(picture, source, size, target, PAD), resized_by_opencv(picture, case)).max() <= 1


def test_the_references_colours_are_opencvs(picture: Pixels) -> None:
    luma, chroma = as_nv12(picture)
    expected = cv2.cvtColor(np.vstack([luma, chroma]), cv2.COLOR_YUV2RGB_NV12)
    found = (nv12_as_rgb(luma, chroma, BT601) + 0.5).astype(np.uint8)
    assert difference(found, expected.astype(np.uint8)).max() <= 2
    other = nv12_as_rgb(luma, chroma, BT709)
    assert np.abs(other - found).max() > 5, "the two standards differ"


@pytest.mark.parametrize("colours", [BT601, BT709])
def test_white_is_white_and_black_is_black(colours: VideoColours) -> None:
    luma, grey = np.array([[235, 16], [255, 0]], np.uint8), np.full((1, 2), 128, np.uint8)
    np.testing.assert_allclose(nv12_as_rgb(luma, grey, colours)[..., 1], [[255, 0], [255, 0]], atol=1e-3)


def test_of_the_full_range_all_levels_are_told_apart() -> None:
    luma, grey = np.arange(256, dtype=np.uint8).reshape(2, 128), np.full((1, 128), 128, np.uint8)
    assert (nv12_as_rgb(luma, grey, FULL)[..., 0] == luma).all()


Run = Callable[[str, PlacementParameters], None]

HOST = """
#include <algorithm>
#include <cmath>
#include <cstddef>
#define __device__
#define __global__
using std::max;
using std::min;
struct Index { int x, y, z; };
static Index blockIdx, blockDim, threadIdx;
#include "pictures.cu"
extern "C" void run(const Placement *p, int nv12) {
    blockDim = {1, 1, 1};
    for (blockIdx.y = 0; blockIdx.y <= p->row_height; ++blockIdx.y)
        for (blockIdx.x = 0; blockIdx.x <= p->row_width; ++blockIdx.x)
            if (nv12) place_nv12(*p); else place_rgb(*p);
}
"""


@pytest.fixture(scope="module")
def run_on_host(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """The kernels' source as C++, run thread by thread on the CPU."""
    compiler = shutil.which("c++")
    if compiler is None:
        pytest.skip("there is no C++ compiler here")
    folder = tmp_path_factory.mktemp("kernels")
    (folder / "pictures.cu").write_text(picture_source())
    (folder / "host.cpp").write_text(HOST)
    options = ["-std=c++17", "-O1", "-ffp-contract=off", "-shared", "-fPIC", "-I", str(folder)]
    subprocess.run([compiler, *options, "-o", str(folder / "host.so"), str(folder / "host.cpp")], check=True)
    library = ctypes.CDLL(str(folder / "host.so"))

    def run(kernel: str, parameters: PlacementParameters) -> None:
        library.run(ctypes.byref(parameters), int(kernel == "place_nv12"))

    return run


def on_host(run: Run, planes: list[Pixels], layout: PictureLayout, case: str, colours: VideoColours = BT601) -> Pixels:
    source, size, target = CASES[case]
    guarded = np.full(size[0] * size[1] * 3 + 64, 7, np.uint8)
    height, width = planes[0].shape[:2]
    chroma = planes[1].ctypes.data if len(planes) > 1 else 0
    picture = DevicePicture(layout, width, height, planes[0].ctypes.data, planes[0].strides[0], chroma, colours)
    run(layout.kernel, PlacementParameters.of(picture, source, guarded.ctypes.data, size, target, PAD))
    assert (guarded[-64:] == 7).all(), "it wrote beyond the row"
    return guarded[:-64].reshape(size[1], size[0], 3)


@pytest.mark.parametrize("case", CASES)
def test_the_source_does_what_the_reference_does(run_on_host: Run, picture: Pixels, case: str) -> None:
    wide = np.zeros((picture.shape[0], 700, 3), np.uint8)
    wide[:, : picture.shape[1]] = picture  # lines with gaps between them, as decoders make them
    found = on_host(run_on_host, [wide[:, : picture.shape[1]]], PictureLayout.RGB, case)
    off = difference(found, place_picture(picture, *CASES[case], PAD))
    assert off.max() <= int(shrinks(case))  # sums over areas are rounded in another order
    assert (off > 0).mean() < 1e-3


@pytest.mark.parametrize("colours", [BT601, BT709, FULL])
@pytest.mark.parametrize("case", CASES)
def test_the_source_reads_nv12(run_on_host: Run, picture: Pixels, case: str, colours: VideoColours) -> None:
    padded = np.vstack([picture, picture[-1:]])  # an even height
    luma, chroma = as_nv12(padded)
    found = on_host(run_on_host, [luma, chroma], PictureLayout.NV12, case, colours)
    off = difference(found, place_picture(nv12_as_rgb(luma, chroma, colours), *CASES[case], PAD))
    assert off.max() <= 1
    assert (off > 0).mean() < 1e-3


@pytest.mark.parametrize(
    ("source", "target"),
    [
        (Rectangle(0, 0, 0, 4), Rectangle(0, 0, 8, 8)),
        (Rectangle(1, 0, 8, 8), Rectangle(0, 0, 8, 8)),
        (Rectangle(-1, 0, 4, 4), Rectangle(0, 0, 8, 8)),
        (Rectangle(0, 0, 8, 8), Rectangle(0, 1, 8, 8)),
        (Rectangle(0, 0, 8, 8), Rectangle(0, 0, 8, 0)),
    ],
)
def test_rectangles_outside_are_refused(source: Rectangle, target: Rectangle) -> None:
    picture = DevicePicture(PictureLayout.RGB, 8, 8, 1, 24)
    with pytest.raises(BadFrame, match="must be a part of 8 x 8 pixels"):
        PlacementParameters.of(picture, source, 1, (8, 8), target, 0)


def test_a_launch_covers_the_row(tmp_path: Path) -> None:
    cuda = FakeCuda()
    device = cuda.open()
    with device.current():
        kernels = PictureKernels(device, _Compiled(tmp_path))
        stream = device.new_stream()
        pixels, row = device.new_buffer(64 * 96), device.new_buffer(33 * 17 * 3)
        picture = DevicePicture(PictureLayout.NV12, 64, 64, pixels.address, 64, pixels.address + 64 * 64)
        whole = Rectangle(0, 0, 64, 64)
        kernels.place(picture, whole, row.address, (33, 17), Rectangle(0, 0, 33, 17), stream, pad_value=3)
        stream.synchronize()
        for each in (kernels, stream, pixels, row):
            each.close()
    device.close()
    (kernel,) = cuda.log
    assert kernel.what.startswith("kernel place_nv12 (2, 3, 1) (32, 8, 1) ")
    assert [end - start for start, end in (*kernel.reads, *kernel.writes)] == [64 * 64, 64 * 32, 33 * 17 * 3]
    assert cuda.leaks == []


class _Compiled(KernelCache):
    def cubin(self, source: str, compute_capability: str) -> Any:
        assert (source, compute_capability) == (picture_source(), "sm_89")
        return b"\x7fELF place_rgb place_nv12"

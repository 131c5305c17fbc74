"""A crop's pixels are those of the same part of the frame sent by itself: whatever the format, turned or reduced."""

from __future__ import annotations

import struct
from collections.abc import Callable
from typing import Literal

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from foveate.engines.errors import BadFrame
from foveate.models.geometry import Rect
from foveate.service.decode import crop_into, decode_into, whole_picture
from foveate.service.frame import PixelFormat
from support.frames import colour_model, encoded, nv12, smooth_picture

WIDTH, HEIGHT = 64, 48
SIZE = (WIDTH, HEIGHT)
LOSSLESS: dict[PixelFormat, Callable[[NDArray[np.uint8]], bytes]] = {
    PixelFormat.PNG: lambda picture: encoded(picture, PixelFormat.PNG),
    PixelFormat.RAW_RGB: lambda picture: picture.tobytes(),
    PixelFormat.RAW_BGR: lambda picture: picture[:, :, ::-1].tobytes(),
}


def cut(picture: NDArray[np.uint8], rect: Rect) -> NDArray[np.uint8]:
    return picture[rect.y : rect.y + rect.height, rect.x : rect.x + rect.width]


def exif(orientation: int) -> bytes:
    """An APP1 segment that says how the camera was held. Source: Exif 2.32, 4.5.4 and 4.6.4."""
    tiff = b"II*\0" + struct.pack("<IHHHIHHI", 8, 1, 0x0112, 3, 1, orientation, 0, 0)
    return b"\xff\xe1" + struct.pack(">H", len(tiff) + 8) + b"Exif\0\0" + tiff


@st.composite
def rects(draw: st.DrawFn) -> Rect:
    x, y = draw(st.integers(0, WIDTH - 1)), draw(st.integers(0, HEIGHT - 1))
    return Rect(x, y, draw(st.integers(1, WIDTH - x)), draw(st.integers(1, HEIGHT - y)))


@settings(deadline=None, max_examples=60)
@given(
    rect=rects(),
    kind=st.sampled_from(sorted(LOSSLESS, key=lambda kind: kind.value)),
    resize=st.sampled_from(["letterbox", "stretch", "center_crop"]),
    seed=st.integers(0, 1000),
)
def test_a_crop_is_what_the_frame_would_be_if_it_were_no_larger(
    rect: Rect, kind: PixelFormat, resize: Literal["letterbox", "stretch", "center_crop"], seed: int
) -> None:
    picture, model = smooth_picture(np.random.default_rng(seed), WIDTH, HEIGHT), colour_model(32, 24, resize)
    rows = np.zeros((2, 24, 32, 3), np.uint8)
    crop_into(rows[0], whole_picture(LOSSLESS[kind](picture), kind, SIZE), rect, SIZE, model)
    alone = encoded(np.ascontiguousarray(cut(picture, rect)), PixelFormat.PNG)
    decode_into(rows[1], alone, PixelFormat.PNG, (rect.width, rect.height), model)
    assert np.array_equal(rows[0], rows[1])


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("part", [1, 2, 4])
def test_a_jpeg_is_cut_as_it_is_seen(orientation: int, part: int) -> None:
    stored = np.zeros((HEIGHT * 2, WIDTH * 2, 3), np.uint8)
    stored[:HEIGHT, :WIDTH], stored[:HEIGHT, WIDTH:] = (250, 20, 20), (20, 250, 20)
    stored[HEIGHT:, :WIDTH], stored[HEIGHT:, WIDTH:] = (20, 20, 250), (240, 240, 240)
    data = encoded(stored, PixelFormat.JPEG)
    data = data[:2] + exif(orientation) + data[2:]
    decoded = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR_RGB)
    assert decoded is not None
    size = (decoded.shape[1], decoded.shape[0])
    least = (size[0] // part, size[1] // part)
    image = whole_picture(data, PixelFormat.JPEG, (WIDTH * 2, HEIGHT * 2), least)
    assert image.shape[:2] == least[::-1]
    model = colour_model(16, 16)
    for x, y in ((0, 0), (1, 0), (0, 1), (1, 1)):
        rect = Rect(x * size[0] // 2 + 8, y * size[1] // 2 + 8, size[0] // 2 - 16, size[1] // 2 - 16)
        row = np.zeros((16, 16, 3), np.uint8)
        crop_into(row, image, rect, size, model)
        expected = decoded[rect.y : rect.y + rect.height, rect.x : rect.x + rect.width].mean(axis=(0, 1))
        assert np.abs(row.mean(axis=(0, 1)) - expected).max() < 6


def test_nv12_is_converted() -> None:
    picture = smooth_picture(np.random.default_rng(4), WIDTH, HEIGHT)
    image = whole_picture(nv12(picture), PixelFormat.RAW_NV12, SIZE)
    assert np.abs(image.astype(int) - picture).mean() < 6


def test_a_picture_that_is_none_is_bad() -> None:
    for kind in (PixelFormat.JPEG, PixelFormat.PNG, PixelFormat.WEBP):
        with pytest.raises(BadFrame):
            whole_picture(b"nothing of the kind", kind, SIZE)

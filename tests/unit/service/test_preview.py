"""Small JPEGs of frames: every format, upright, no larger than asked for."""

from __future__ import annotations

import struct

import numpy as np
import pytest
import simplejpeg
from numpy.typing import NDArray

from foveate.engines.errors import BadFrame
from foveate.service.frame import PixelFormat
from foveate.service.preview import preview_jpeg
from support.frames import encoded, nv12

Pixels = NDArray[np.uint8]


def halves(width: int, height: int) -> Pixels:
    """Red on the left, blue on the right."""
    image = np.zeros((height, width, 3), np.uint8)
    image[:, : width // 2], image[:, width // 2 :] = (220, 20, 20), (20, 20, 220)
    return image


def turned(jpeg: bytes, orientation: int) -> bytes:
    tiff = b"MM\0*\0\0\0\x08\0\x01\x01\x12\0\x03\0\0\0\x01" + struct.pack(">H", orientation) + bytes(6)
    return jpeg[:2] + b"\xff\xe1" + struct.pack(">H", len(tiff) + 8) + b"Exif\0\0" + tiff + jpeg[2:]


def is_red(pixels: Pixels, x: float, y: float) -> bool:
    """At a place given in shares of the picture."""
    red, green, blue = pixels[int(y * pixels.shape[0]), int(x * pixels.shape[1])].tolist()
    assert max(red, blue) > 150 > min(red, blue) + 60, "it is one of the two colours"
    assert green < 70
    return bool(red > blue)


@pytest.mark.parametrize("kind", [PixelFormat.JPEG, PixelFormat.PNG, PixelFormat.WEBP, PixelFormat.RAW_RGB])
@pytest.mark.parametrize(("size", "shown"), [((1000, 500), (320, 160)), ((300, 600), (160, 320)), ((64, 48), (64, 48))])
def test_every_format_is_shown_in_its_colours_and_no_larger_than_asked(
    kind: PixelFormat, size: tuple[int, int], shown: tuple[int, int]
) -> None:
    picture = halves(*size)
    data = picture.tobytes() if kind.raw else encoded(picture, kind)
    small = simplejpeg.decode_jpeg(preview_jpeg(data, kind, size, None, 320))
    assert small.shape == (shown[1], shown[0], 3)
    assert is_red(small, 0.2, 0.5)
    assert not is_red(small, 0.8, 0.5)


def test_bgr_and_nv12_have_their_colours_too() -> None:
    picture = halves(640, 320)
    for kind, data in (
        (PixelFormat.RAW_BGR, picture[:, :, ::-1].tobytes()),
        (PixelFormat.RAW_NV12, nv12(picture)),
    ):
        small = simplejpeg.decode_jpeg(preview_jpeg(data, kind, (640, 320), None, 320))
        assert small.shape == (160, 320, 3)
        assert is_red(small, 0.2, 0.5)
        assert not is_red(small, 0.8, 0.5)


def test_a_jpeg_that_is_to_be_turned_is_shown_turned() -> None:
    jpeg = encoded(halves(1200, 600), PixelFormat.JPEG)
    clockwise = simplejpeg.decode_jpeg(preview_jpeg(turned(jpeg, 6), PixelFormat.JPEG, (1200, 600), None, 300))
    assert clockwise.shape == (300, 150, 3)
    assert is_red(clockwise, 0.5, 0.2)
    assert not is_red(clockwise, 0.5, 0.8)


@pytest.mark.parametrize("kind", [PixelFormat.JPEG, PixelFormat.PNG, PixelFormat.RAW_RGB, PixelFormat.RAW_NV12])
def test_what_is_no_picture_is_said_to_be_none(kind: PixelFormat) -> None:
    with pytest.raises(BadFrame):
        preview_jpeg(b"no picture at all", kind, (640, 480), None, 320)


def test_of_a_decoded_picture_only_what_is_shown_is_converted() -> None:
    class Picture:
        width, height, nbytes = 640, 320, 0

        def rgb(self) -> Pixels:
            raise AssertionError("all of it is not needed")

        def reduced(self, size: tuple[int, int]) -> Pixels:
            assert size == (320, 160)
            return halves(*size)

    small = simplejpeg.decode_jpeg(preview_jpeg(b"", PixelFormat.H264, (640, 320), Picture(), 320))
    assert small.shape == (160, 320, 3)

"""Picture sizes from headers alone: real encoders' output, cut off anywhere, and bytes that nobody encoded."""

from __future__ import annotations

import struct
from contextlib import suppress

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from foveate.engines.errors import BadFrame, FrameError, UnsupportedFormat
from foveate.service.frame import PixelFormat
from foveate.service.picture_header import picture_format, picture_size
from support.frames import encoded, smooth_picture

ENCODINGS = {
    "jpeg": (PixelFormat.JPEG, ()),
    "jpeg progressive": (PixelFormat.JPEG, (cv2.IMWRITE_JPEG_PROGRESSIVE, 1)),
    "jpeg with restarts": (PixelFormat.JPEG, (cv2.IMWRITE_JPEG_RST_INTERVAL, 2)),
    "png": (PixelFormat.PNG, ()),
    "webp lossy": (PixelFormat.WEBP, (cv2.IMWRITE_WEBP_QUALITY, 60)),
    "webp lossless": (PixelFormat.WEBP, (cv2.IMWRITE_WEBP_QUALITY, 101)),
}
SIZES = [(1, 1), (1, 300), (257, 3), (17, 16), (640, 480), (1920, 1080), (65, 4097)]
PICTURES = {PixelFormat.JPEG, PixelFormat.PNG, PixelFormat.WEBP}


def any_picture(width: int, height: int, channels: int = 3) -> np.ndarray[tuple[int, ...], np.dtype[np.uint8]]:
    picture = smooth_picture(np.random.default_rng(width * 7919 + height), width, height)
    if channels == 3:
        return picture
    return np.dstack([picture, np.full((height, width), 128, np.uint8)])


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("encoding", ENCODINGS)
def test_the_size_of_real_encodings(encoding: str, size: tuple[int, int]) -> None:
    kind, parameters = ENCODINGS[encoding]
    data = encoded(any_picture(*size), kind, *parameters)
    assert picture_format(data) is kind
    assert picture_size(data, kind) == size
    assert picture_size(memoryview(data), kind) == size


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize(("quality", "chunk"), [(60, b"VP8X"), (101, b"VP8L")])
def test_the_size_of_webp_with_alpha(quality: int, chunk: bytes, size: tuple[int, int]) -> None:
    data = encoded(any_picture(*size, channels=4), PixelFormat.WEBP, cv2.IMWRITE_WEBP_QUALITY, quality)
    assert data[12:16] == chunk
    assert picture_size(data, PixelFormat.WEBP) == size


@given(st.integers(1, 1 << 24), st.integers(1, 1 << 24))
def test_every_size_that_vp8x_can_declare(width: int, height: int) -> None:
    sides = (width - 1).to_bytes(3, "little") + (height - 1).to_bytes(3, "little")
    data = b"RIFF\0\0\0\0WEBPVP8X" + struct.pack("<I", 10) + b"\0\0\0\0" + sides
    assert picture_size(data, PixelFormat.WEBP) == (width, height)


@given(st.integers(1, 1 << 14), st.integers(1, 1 << 14))
def test_every_size_that_vp8l_can_declare(width: int, height: int) -> None:
    bits = (width - 1) | (height - 1) << 14 | 1 << 28
    data = b"RIFF\0\0\0\0WEBPVP8L" + struct.pack("<IBI", 5, 0x2F, bits)
    assert picture_size(data, PixelFormat.WEBP) == (width, height)


@pytest.mark.parametrize("encoding", ENCODINGS)
def test_a_header_cut_off_at_any_byte_is_a_bad_frame_or_tells_the_size(encoding: str) -> None:
    kind, parameters = ENCODINGS[encoding]
    whole = encoded(any_picture(33, 21), kind, *parameters)
    told: list[int] = []
    for length in range(len(whole)):
        with suppress(BadFrame):
            assert picture_size(whole[:length], kind) == (33, 21)
            told.append(length)
    assert told == list(range(told[0], len(whole))), "once the size can be told, more bytes do not hide it"
    assert told[0] > 20


@pytest.mark.parametrize("encoding", ENCODINGS)
def test_bytes_cut_off_before_the_format_shows_are_refused(encoding: str) -> None:
    kind, parameters = ENCODINGS[encoding]
    whole = encoded(any_picture(33, 21), kind, *parameters)
    for length in range(13):
        with suppress(FrameError):
            assert picture_format(whole[:length]) is kind
    with pytest.raises(BadFrame, match="no bytes"):
        picture_format(b"")


@given(st.sampled_from(sorted(PICTURES, key=str)), st.binary(max_size=400))
def test_random_bytes_raise_nothing_but_frame_errors(kind: PixelFormat, data: bytes) -> None:
    with suppress(BadFrame):
        width, height = picture_size(data, kind)
        assert width > 0
        assert height > 0
    with suppress(BadFrame, UnsupportedFormat):
        assert picture_format(data) in PICTURES


@given(st.sampled_from([b"\xff\xd8", b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR", b"RIFF....WEBPVP8 "]), st.binary(max_size=200))
def test_random_bytes_behind_a_right_beginning_raise_nothing_but_frame_errors(start: bytes, rest: bytes) -> None:
    data = start + rest
    for kind in PICTURES:
        with suppress(BadFrame):
            picture_size(data, kind)


@given(st.data())
def test_a_real_header_with_a_few_bytes_changed_raises_nothing_but_frame_errors(data: st.DataObject) -> None:
    kind, parameters = ENCODINGS[data.draw(st.sampled_from(sorted(ENCODINGS)))]
    damaged = bytearray(encoded(any_picture(20, 12), kind, *parameters))
    for _ in range(data.draw(st.integers(1, 6))):
        damaged[data.draw(st.integers(0, min(len(damaged), 200) - 1))] = data.draw(st.integers(0, 255))
    with suppress(BadFrame):
        width, height = picture_size(bytes(damaged), kind)
        assert width > 0
        assert height > 0


@pytest.mark.parametrize("padding", [b"\xff", b"\xff\xd0", b"\xff\xe0\0\2"])
def test_a_jpeg_of_padding_alone_is_given_up_soon(padding: bytes) -> None:
    """32 MB of it would hold the event loop for seconds; here the count of steps is what is bounded."""
    with pytest.raises(BadFrame, match="no frame header within its first 4096 markers"):
        picture_size(b"\xff\xd8" + padding * 10_000, PixelFormat.JPEG)


def test_a_jpeg_with_many_application_segments_still_tells_its_size() -> None:
    whole = encoded(any_picture(40, 30), PixelFormat.JPEG)
    segments = b"".join(b"\xff\xed" + struct.pack(">H", 2 + 1000) + bytes(1000) for _ in range(300))
    assert picture_size(whole[:2] + segments + whole[2:], PixelFormat.JPEG) == (40, 30)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"\xff\xd8\xff\xda\0\4\0\0", "before any frame header"),
        (b"\xff\xd8\0\0\0\0", "expected a marker at byte 2, got 0x0"),
        (b"\xff\xd8\xff\xc0\0\x0b\x08\0\0\0\x10\3", "empty picture of 16x0"),
        (b"\xff\xd8\xff\xc0\0", "cut off after 5 bytes"),
    ],
)
def test_what_is_wrong_with_a_jpeg_is_said(data: bytes, message: str) -> None:
    with pytest.raises(BadFrame, match=message):
        picture_size(data, PixelFormat.JPEG)


def test_what_is_wrong_with_the_others_is_said() -> None:
    with pytest.raises(BadFrame, match="first chunk is not IHDR"):
        picture_size(b"\x89PNG\r\n\x1a\n\0\0\0\rIDAT" + bytes(16), PixelFormat.PNG)
    with pytest.raises(BadFrame, match="unknown first chunk b'ANIM'"):
        picture_size(b"RIFF\0\0\0\0WEBPANIM" + bytes(30), PixelFormat.WEBP)
    with pytest.raises(UnsupportedFormat, match="begin with 47 49 46 38"):
        picture_format(b"GIF89a" + bytes(20))

"""The size of an encoded picture from its header alone, before any decoder sees it."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from foveate.engines.errors import BadFrame, UnsupportedFormat
from foveate.service.frame import PixelFormat

__all__ = ["Orientation", "is_common_jpeg", "jpeg_orientation", "picture_format", "picture_size"]

_FLIPS = {1: (1, 1), 2: (1, -1), 3: (-1, -1), 4: (-1, 1), 5: (1, 1), 6: (1, -1), 7: (-1, -1), 8: (-1, 1)}
"""Steps along rows and columns, after the transposing of 5 to 8."""

_JPEG_SIZES = frozenset({*range(0xC0, 0xD0)} - {0xC4, 0xC8, 0xCC})  # SOF markers; the three others are tables
_JPEG_BARE = frozenset({0x01, *range(0xD0, 0xD8)})  # markers without a length
_JPEG_SCAN = b"\xff\xda"
_JPEG_MOST_SCANS = 64
"""Encoders make at most a dozen or two; a few hundred bytes per scan can keep a decoder busy for hours."""
_JPEG_MOST_MARKERS = 4096
"""Before the frame header, fill bytes included: real pictures have tens, and a made-up one must not hold the loop."""


@dataclass(frozen=True, slots=True)
class Orientation:
    """One of the eight ways in which EXIF says that stored pixels are to be turned; 1: as they are."""

    value: int

    @property
    def transposed(self) -> bool:
        """Whether width and height change places."""
        return self.value >= 5

    def applied(self, image: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """A view of an image (H, W, 3) as it is to be seen."""
        upright = image.swapaxes(0, 1) if self.transposed else image
        rows, columns = _FLIPS[self.value]
        return upright[::rows, ::columns]


def picture_format(data: bytes | memoryview) -> PixelFormat:
    """Tell JPEG, PNG and WebP apart by their first bytes.

    Raises: BadFrame if there are none, UnsupportedFormat if they begin nothing that is served here.
    """
    head = bytes(data[:12])
    if head.startswith(b"\xff\xd8\xff"):
        return PixelFormat.JPEG
    if head.startswith(b"\x89PNG\r\n\x1a\n"):
        return PixelFormat.PNG
    if head[:4] == b"RIFF" and head[8:12] == b"WEBP":
        return PixelFormat.WEBP
    if not head:
        raise BadFrame("the frame has no bytes: expected a JPEG, PNG or WebP picture")
    raise UnsupportedFormat(
        f"expected a JPEG, PNG or WebP picture, got bytes that begin with {head[:8].hex(' ')}: "
        "encode the frame as one of them, or open the stream with a raw format and its size"
    )


def picture_size(data: bytes | memoryview, kind: PixelFormat) -> tuple[int, int]:
    """The (width, height) in pixels that the header of a JPEG, PNG or WebP declares; the pixels are not read.

    Raises: BadFrame if the header is cut off or makes no sense.
    """
    reader = {PixelFormat.JPEG: _jpeg_size, PixelFormat.PNG: _png_size, PixelFormat.WEBP: _webp_size}[kind]
    try:
        width, height = reader(data)
    except (struct.error, IndexError) as error:
        raise BadFrame(f"the {kind.name} header is cut off after {len(data)} bytes") from error
    if width == 0 or height == 0:
        raise BadFrame(f"the {kind.name} header declares an empty picture of {width}x{height}")
    return width, height


def jpeg_orientation(data: bytes | memoryview) -> Orientation:
    """How a JPEG is to be turned to be seen upright, as its EXIF says; as it is where it says nothing.

    Source: CIPA DC-008 (Exif 2.32), 4.5.4 and 4.6.4, tag 0x0112.
    """
    try:
        for marker, at in _jpeg_segments(data):
            if marker == 0xE1 and bytes(data[at + 4 : at + 10]) == b"Exif\0\0":
                return Orientation(_tiff_orientation(data[at + 10 :]))
            if marker in _JPEG_SIZES:
                break
    except (struct.error, IndexError, BadFrame):
        pass  # a broken EXIF says nothing; whether the picture is broken too, the decoder will say
    return Orientation(1)


def is_common_jpeg(data: bytes | memoryview) -> bool:
    """Whether a JPEG is what cameras make, that every decoder takes alike: baseline, of YCbCr, upright.

    Source: ITU-T T.81, B.2.2; ITU-T T.872, 6.5.3 (the marker APP14 of Adobe tells of other colours).
    """
    try:
        for marker, at in _jpeg_segments(data):
            if marker == 0xEE:
                return False
            if marker in _JPEG_SIZES:
                bits, components = data[at + 4], data[at + 9]
                return marker == 0xC0 and bits == 8 and components == 3 and jpeg_orientation(data).value == 1
    except (struct.error, IndexError, BadFrame):
        pass  # what is wrong with it, the decoder will say
    return False


def _tiff_orientation(tiff: bytes | memoryview) -> int:
    order = "<" if bytes(tiff[:2]) == b"II" else ">"
    (entries,) = struct.unpack_from(order + "I", tiff, 4)
    (count,) = struct.unpack_from(order + "H", tiff, entries)
    for index in range(count):
        tag, _, _, value = struct.unpack_from(order + "HHIH", tiff, entries + 2 + 12 * index)
        if tag == 0x0112:
            return value if 1 <= value <= 8 else 1
    return 1


def _jpeg_size(data: bytes | memoryview) -> tuple[int, int]:
    scans = bytes(data).count(_JPEG_SCAN)
    if scans > _JPEG_MOST_SCANS:
        raise BadFrame(
            f"a JPEG in {scans} scans, at most {_JPEG_MOST_SCANS} are decoded: each costs as much as a picture"
        )
    for marker, at in _jpeg_segments(data):
        if marker in _JPEG_SIZES:
            height, width = struct.unpack_from(">HH", data, at + 5)
            return width, height
    raise BadFrame("broken JPEG: the picture data begin before any frame header")


def _jpeg_segments(data: bytes | memoryview) -> Iterator[tuple[int, int]]:
    """The marker segments before the picture data, each with where its marker lies. Source: ITU-T T.81, B.1."""
    at = 2
    for _ in range(_JPEG_MOST_MARKERS):
        if data[at] != 0xFF:
            raise BadFrame(f"broken JPEG: expected a marker at byte {at}, got {data[at]:#04x}")
        marker = data[at + 1]
        if marker == 0xFF:  # fill byte
            at += 1
        elif marker in _JPEG_BARE:
            at += 2
        elif marker in (0xD9, 0xDA):
            return
        else:
            yield marker, at
            (length,) = struct.unpack_from(">H", data, at + 2)
            at += 2 + length
    raise BadFrame(f"broken JPEG: no frame header within its first {_JPEG_MOST_MARKERS} markers")


def _png_size(data: bytes | memoryview) -> tuple[int, int]:
    """Source: PNG specification, third edition, 11.2.1 (IHDR is the first chunk)."""
    if bytes(data[12:16]) != b"IHDR":
        raise BadFrame("broken PNG: its first chunk is not IHDR")
    width, height = struct.unpack_from(">II", data, 16)
    return width, height


def _webp_size(data: bytes | memoryview) -> tuple[int, int]:
    """Source: RFC 9649, sections 2.5 to 2.7, and RFC 6386, section 9.1."""
    chunk = bytes(data[12:16])
    if chunk == b"VP8X":
        if len(data) < 30:
            raise IndexError("VP8X")
        return 1 + int.from_bytes(data[24:27], "little"), 1 + int.from_bytes(data[27:30], "little")
    if chunk == b"VP8L":
        (bits,) = struct.unpack_from("<I", data, 21)
        return 1 + (bits & 0x3FFF), 1 + (bits >> 14 & 0x3FFF)
    if chunk == b"VP8 ":
        width, height = struct.unpack_from("<HH", data, 26)
        return width & 0x3FFF, height & 0x3FFF
    raise BadFrame(f"broken WebP: unknown first chunk {chunk!r}")

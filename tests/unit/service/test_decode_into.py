"""Decoding into a row of a batch: right pixels, all of the row written, and every bad picture refused."""

from __future__ import annotations

import struct
from contextlib import suppress
from typing import Any, Literal

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from foveate.engines.errors import BadFrame
from foveate.models.package import PreparedModel
from foveate.service.decode import Decoded, decode_into, leave_encoded
from foveate.service.frame import PixelFormat
from support.frames import colour_model, encoded, nv12, smooth_picture

Pixels = NDArray[np.uint8]
Resize = Literal["letterbox", "stretch", "center_crop"]
RESIZES: tuple[Resize, ...] = ("letterbox", "stretch", "center_crop")
POISON = 203
PAD = 99


def blank_row(model: PreparedModel) -> Pixels:
    """A row full of what an earlier batch left behind."""
    spec = model.manifest.input
    return np.full((spec.height_px, spec.width_px, 3), POISON, np.uint8)


def expected_row(picture: Pixels, model: PreparedModel) -> Pixels:
    """The model's input, made the plain way: the padding, and the source cut out and resized by area."""
    placement = model.place(picture.shape[1], picture.shape[0])
    source, target = placement.source, placement.destination
    row = np.full_like(blank_row(model), model.manifest.input.pad_value)
    cut = picture[source.y : source.y + source.height, source.x : source.x + source.width]
    shrinks = source.width > target.width and source.height > target.height
    how = cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR
    resized = cv2.resize(cut, (target.width, target.height), interpolation=how)
    row[target.y : target.y + target.height, target.x : target.x + target.width] = resized
    return row


def distance(one: Pixels, other: Pixels) -> float:
    """The mean difference of two rows, in grey levels."""
    return float(np.abs(one.astype(np.int64) - other.astype(np.int64)).mean())


def decoded(data: bytes, kind: PixelFormat, size: tuple[int, int], model: PreparedModel) -> tuple[Pixels, Decoded]:
    row = blank_row(model)
    return row, decode_into(row, data, kind, size, model)


def bytes_of(picture: Pixels, kind: PixelFormat) -> bytes:
    if kind is PixelFormat.RAW_NV12:
        return nv12(picture)
    if kind.raw:
        return (picture if kind is PixelFormat.RAW_RGB else picture[..., ::-1]).tobytes()
    return encoded(picture, kind)


# Most grey levels that a format may be off on the mean, on smooth pictures. A JPEG that its decoder has reduced is
# cut to whole pixels of the reduced one, which may shift it by half a pixel of the input.
TOLERANCE = {
    PixelFormat.JPEG: 7.0,
    PixelFormat.PNG: 1.0,
    PixelFormat.WEBP: 4.0,
    PixelFormat.RAW_RGB: 1.0,
    PixelFormat.RAW_BGR: 1.0,
    PixelFormat.RAW_NV12: 5.0,
}


@pytest.mark.parametrize("resize", RESIZES)
@pytest.mark.parametrize("kind", TOLERANCE)
@settings(max_examples=12, deadline=None)
@given(width=st.integers(40, 200), height=st.integers(40, 200), seed=st.integers(0, 2**32 - 1))
def test_each_format_gives_the_pixels_of_a_plain_decode_and_resize(
    resize: Resize, kind: PixelFormat, width: int, height: int, seed: int
) -> None:
    width, height = 2 * width, 2 * height
    model = colour_model(48, 36, resize, pad_value=PAD)
    picture = smooth_picture(np.random.default_rng(seed), width, height)
    row, found = decoded(bytes_of(picture, kind), kind, (width, height), model)
    assert (found.width, found.height) == (width, height)
    assert found.placement == model.place(width, height)
    assert distance(row, expected_row(picture, model)) < TOLERANCE[kind]


@pytest.mark.parametrize("size", [(200, 200), (1600, 20), (20, 1600), (1, 1), (3000, 2)])
@pytest.mark.parametrize("anchor", ["center", "top_left"])
def test_padding_is_written_around_pictures_of_any_shape(size: tuple[int, int], anchor: str) -> None:
    model = colour_model(64, 40, "letterbox", pad_value=PAD, anchor=anchor)
    white = np.full((size[1], size[0], 3), 255, np.uint8)
    row, found = decoded(encoded(white, PixelFormat.PNG), PixelFormat.PNG, size, model)
    target = found.placement.destination
    inside = np.zeros(row.shape[:2], bool)
    inside[target.y : target.y + target.height, target.x : target.x + target.width] = True
    assert (row[inside] == 255).all()
    assert (row[~inside] == PAD).all()


@pytest.mark.parametrize("kind", [PixelFormat.RAW_RGB, PixelFormat.RAW_BGR])
@pytest.mark.parametrize("size", [(48, 36), (7, 5), (301, 99)])
def test_colours_come_out_as_rgb(kind: PixelFormat, size: tuple[int, int]) -> None:
    model = colour_model(48, 36, "stretch")
    picture = np.empty((size[1], size[0], 3), np.uint8)
    picture[...] = (10, 120, 230)
    row, _ = decoded(bytes_of(picture, kind), kind, size, model)
    assert (row == (10, 120, 230)).all()


@pytest.mark.parametrize("size", [(800, 600), (801, 599), (1999, 1333), (413, 2047)])
@pytest.mark.parametrize("resize", RESIZES)
def test_a_jpeg_reduced_by_its_decoder_is_close_to_the_whole_one(size: tuple[int, int], resize: Resize) -> None:
    model = colour_model(48, 36, resize, pad_value=PAD)
    picture = smooth_picture(np.random.default_rng(size[0]), *size)
    data = encoded(picture, PixelFormat.JPEG, cv2.IMWRITE_JPEG_QUALITY, 95)
    row, found = decoded(data, PixelFormat.JPEG, size, model)
    assert (found.width, found.height) == size
    assert found.placement == model.place(*size)
    assert distance(row, expected_row(picture, model)) < 3.0


def exif(orientation: int) -> bytes:
    """An APP1 segment that says no more than how the camera was held. Source: Exif 2.32, 4.5.4 and 4.6.4."""
    entry = struct.pack(">HHIHH", 0x0112, 3, 1, orientation, 0)
    body = b"Exif\0\0" + b"MM\0\x2a" + struct.pack(">I", 8) + struct.pack(">H", 1) + entry + struct.pack(">I", 0)
    return b"\xff\xe1" + struct.pack(">H", 2 + len(body)) + body


# What each orientation asks a viewer to do with the stored pixels.
TURNED: dict[int, Any] = {
    1: lambda p: p,
    2: lambda p: p[:, ::-1],
    3: lambda p: p[::-1, ::-1],
    4: lambda p: p[::-1],
    5: lambda p: p.transpose(1, 0, 2),
    6: lambda p: np.rot90(p, -1),
    7: lambda p: p[::-1, ::-1].transpose(1, 0, 2),
    8: lambda p: np.rot90(p),
}


@pytest.mark.parametrize("size", [(60, 40), (640, 400)])
@pytest.mark.parametrize("orientation", TURNED)
def test_a_jpeg_is_seen_as_its_exif_orientation_says(orientation: int, size: tuple[int, int]) -> None:
    model = colour_model(48, 36, "letterbox", pad_value=PAD)
    stored = smooth_picture(np.random.default_rng(orientation), *size)
    plain = encoded(stored, PixelFormat.JPEG, cv2.IMWRITE_JPEG_QUALITY, 95)
    seen = np.ascontiguousarray(TURNED[orientation](stored))
    row, found = decoded(plain[:2] + exif(orientation) + plain[2:], PixelFormat.JPEG, size, model)
    assert (found.width, found.height) == (seen.shape[1], seen.shape[0])
    assert ((found.width, found.height) == size) == (orientation < 5)
    assert distance(row, expected_row(seen, model)) < 3.0


@pytest.mark.parametrize("resize", RESIZES)
@pytest.mark.parametrize("kind", TOLERANCE)
def test_a_row_that_is_a_view_of_something_larger_is_written_in_place(resize: Resize, kind: PixelFormat) -> None:
    model = colour_model(48, 36, resize, pad_value=PAD)
    picture = smooth_picture(np.random.default_rng(5), 90, 70)
    data = bytes_of(picture, kind)
    whole = np.full((2, 40, 60, 3), POISON, np.uint8)
    view = whole[1, 2:38, 6:54]
    assert not view.flags.c_contiguous
    decode_into(view, data, kind, (90, 70), model)
    alone, _ = decoded(data, kind, (90, 70), model)
    np.testing.assert_array_equal(view, alone)
    whole[1, 2:38, 6:54] = POISON
    assert (whole == POISON).all(), "nothing beside the row was touched"


@pytest.mark.parametrize(
    ("stored", "channels"), [("grey", 1), ("alpha", 4), ("sixteen bits", 3)], ids=lambda value: str(value)
)
def test_pngs_of_other_pixel_layouts_become_rgb(stored: str, channels: int) -> None:
    model = colour_model(48, 36, "stretch")
    picture = np.full((36, 48, channels), 90, np.uint16 if stored == "sixteen bits" else np.uint8)
    if stored == "sixteen bits":
        picture *= 257
    done, data = cv2.imencode(".png", picture)
    assert done
    row, _ = decoded(data.tobytes(), PixelFormat.PNG, (48, 36), model)
    assert distance(row, np.full_like(row, 90)) <= 1.0


@pytest.mark.parametrize("share", [0.05, 0.3, 0.6, 0.9, 0.99])
def test_a_truncated_picture_is_refused(share: float, capfd: pytest.CaptureFixture[str]) -> None:
    model = colour_model()
    noise = np.random.default_rng(3).integers(0, 256, (300, 400, 3)).astype(np.uint8)
    for kind in (PixelFormat.JPEG, PixelFormat.PNG, PixelFormat.WEBP):
        data = encoded(noise, kind)
        with pytest.raises(BadFrame, match="cut off"):
            decoded(data[: int(share * len(data))], kind, (400, 300), model)
    capfd.readouterr()  # the codecs' own complaints


def test_padding_around_the_end_of_a_jpeg_does_no_harm() -> None:
    data = encoded(smooth_picture(np.random.default_rng(1), 64, 48), PixelFormat.JPEG)
    plain, _ = decoded(data, PixelFormat.JPEG, (64, 48), colour_model())
    for padded in (data + bytes(2000), data[:-2] + bytes(40) + data[-2:]):
        row, _ = decoded(padded, PixelFormat.JPEG, (64, 48), colour_model())
        np.testing.assert_array_equal(row, plain)


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), kind=st.sampled_from([PixelFormat.JPEG, PixelFormat.PNG, PixelFormat.WEBP]))
def test_garbage_behind_a_right_header_is_a_bad_frame_or_a_picture_of_its_size(seed: int, kind: PixelFormat) -> None:
    rng = np.random.default_rng(seed)
    data = bytearray(encoded(smooth_picture(rng, 64, 48), kind))
    start = int(rng.integers(len(data) // 3, len(data)))
    data[start:-2] = rng.bytes(len(data) - 2 - start)
    with suppress(BadFrame):
        _, found = decoded(bytes(data), kind, (64, 48), colour_model())
        assert (found.width, found.height) == (64, 48)


@pytest.mark.parametrize("kind", [PixelFormat.JPEG, PixelFormat.PNG, PixelFormat.WEBP])
def test_garbage_from_the_first_byte_behind_the_header_is_refused(
    kind: PixelFormat, capfd: pytest.CaptureFixture[str]
) -> None:
    data = encoded(smooth_picture(np.random.default_rng(2), 64, 48), kind)
    garbage = np.random.default_rng(0).bytes(300)
    with pytest.raises(BadFrame, match=f"the {kind.name} of .* cut off or corrupt"):
        decoded(data[:24] + garbage + b"\xff\xd9", kind, (64, 48), colour_model())
    capfd.readouterr()


@pytest.mark.parametrize("kind", [PixelFormat.PNG, PixelFormat.WEBP])
def test_pixels_of_another_size_than_the_header_declared_are_refused(kind: PixelFormat) -> None:
    data = encoded(smooth_picture(np.random.default_rng(2), 64, 48), kind)
    with pytest.raises(BadFrame, match="header declares 640x48, its pixels say otherwise"):
        decoded(data, kind, (640, 48), colour_model(8, 8))


def jpeg(size: tuple[int, int] = (64, 48), *parameters: int) -> bytes:
    return encoded(smooth_picture(np.random.default_rng(3), *size), PixelFormat.JPEG, *parameters)


@pytest.mark.parametrize("resize", RESIZES)
def test_a_jpeg_is_left_as_it_is_with_its_place_beside_it(resize: Resize) -> None:
    model, data = colour_model(100, 60, resize, pad_value=PAD), jpeg()
    row = blank_row(model)
    left = leave_encoded(row, data, PixelFormat.JPEG, (64, 48), model)
    assert left
    found, said = left
    placement = model.place(64, 48)
    assert row.reshape(-1)[: said.nbytes].tobytes() == data
    assert (row.reshape(-1)[said.nbytes :] == POISON).all()
    assert (found.width, found.height, found.placement) == (64, 48, placement)
    source, target = placement.source, placement.destination
    assert said.source == (source.x, source.y, source.width, source.height)
    assert said.target == (target.x, target.y, target.width, target.height)
    assert said.pad_value == PAD


def _exif(orientation: int) -> bytes:
    tiff = b"II*\0" + struct.pack("<IHHHIHHI", 8, 1, 0x0112, 3, 1, orientation, 0, 0)
    return b"\xff\xe1" + struct.pack(">H", len(tiff) + 8) + b"Exif\0\0" + tiff


def _grey() -> bytes:
    return cv2.imencode(".jpg", np.full((48, 64), 80, np.uint8))[1].tobytes()


NOT_LEFT = {
    "turned": jpeg()[:2] + _exif(6) + jpeg()[2:],
    "progressive": jpeg((64, 48), cv2.IMWRITE_JPEG_PROGRESSIVE, 1),
    "grey": _grey(),
    "colours of Adobe": jpeg()[:2] + b"\xff\xee\x00\x0eAdobe\x00\x64\0\0\0\0\x00" + jpeg()[2:],
    "cut off": jpeg()[:-40],
    "its header alone": jpeg()[:24],
    "PNG": encoded(np.zeros((48, 64, 3), np.uint8), PixelFormat.PNG),
}


@pytest.mark.parametrize("what", NOT_LEFT)
def test_what_decoders_differ_on_is_not_left(what: str) -> None:
    model, data = colour_model(100, 60), NOT_LEFT[what]
    row = blank_row(model)
    kind = PixelFormat.PNG if what == "PNG" else PixelFormat.JPEG
    assert leave_encoded(row, data, kind, (64, 48), model) is None
    assert (row == POISON).all()


def test_a_jpeg_that_is_upright_by_its_exif_is_left() -> None:
    data = jpeg()[:2] + _exif(1) + jpeg()[2:]
    assert leave_encoded(blank_row(colour_model(100, 60)), data, PixelFormat.JPEG, (64, 48), colour_model(100, 60))


@pytest.mark.parametrize(("spare", "fits"), [(0, True), (-1, False)])
def test_a_jpeg_that_is_larger_than_its_row_is_not_left(spare: int, fits: bool) -> None:
    data = jpeg()
    row = np.zeros(len(data) + spare, np.uint8)
    assert (leave_encoded(row, data, PixelFormat.JPEG, (64, 48), colour_model()) is not None) is fits


@pytest.mark.parametrize(("height", "fits"), [(2304, True), (2305, False)])
def test_a_jpeg_of_very_many_pixels_is_not_left(height: int, fits: bool) -> None:
    """A batch of them would take the device's memory from its engines."""
    data = encoded(np.full((height, 4096, 3), 90, np.uint8), PixelFormat.JPEG)
    row = np.zeros(len(data), np.uint8)
    left = leave_encoded(row, data, PixelFormat.JPEG, (4096, height), colour_model())
    assert (left is not None) is fits

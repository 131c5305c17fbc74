"""Access units are read as the standards say, whatever the encoder; what is none of them is refused."""

from __future__ import annotations

from contextlib import suppress
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from foveate.engines.errors import BadFrame, LimitExceeded
from foveate.engines.video_decoding import VideoColours
from foveate.service.frame import PixelFormat
from foveate.service.h265_references import reference_sets
from foveate.service.unit_bits import UnitBits
from foveate.service.video_units import AccessUnit, nal_units, unit_reader
from support.video_streams import access_units, moving_pictures

H264, H265 = PixelFormat.H264, PixelFormat.H265
PLENTY = 10**7
PICTURES = moving_pictures(12, 322, 242)
START_CODES = st.sampled_from([b"\0\0\1", b"\0\0\0\1", b"\0\0\0\0\0\1"])
NAL_UNITS = st.binary(min_size=1, max_size=40).map(lambda data: data.replace(b"\0", b"\x80"))


def read_all(units: list[bytes], kind: PixelFormat, max_pixels: int = PLENTY) -> list[AccessUnit]:
    reader = unit_reader(kind, max_pixels)
    return [reader.read(unit) for unit in units]


@settings(deadline=None)
@given(st.lists(st.tuples(START_CODES, NAL_UNITS), min_size=1, max_size=8), st.integers(0, 4))
def test_nal_units_are_split_where_they_were_joined(parts: list[tuple[bytes, bytes]], trailing: int) -> None:
    data = b"".join(code + nal for code, nal in parts) + b"\0" * trailing
    assert list(nal_units(data)) == [nal for _, nal in parts]


@settings(deadline=None)
@given(st.binary(max_size=200).filter(lambda data: not data.strip(b"\0").startswith(b"\1")))
def test_bytes_without_a_start_code_at_their_beginning_are_refused(data: bytes) -> None:
    with pytest.raises(BadFrame, match="start code"):
        list(nal_units(b"\7" + data))


@pytest.mark.parametrize("kind", [H264, H265])
@settings(deadline=None)
@given(data=st.binary(max_size=120))
def test_no_bytes_make_a_reader_raise_anything_but_a_refusal(kind: PixelFormat, data: bytes) -> None:
    sequence, slices = (b"\x67", b"\x65") if kind is H264 else (b"\x42\1", b"\x26\1")
    for prefix in (b"", b"\0\0\1", b"\0\0\1" + sequence, b"\0\0\1" + slices, b"\0\0\1\6"):
        with suppress(BadFrame, LimitExceeded):
            unit_reader(kind, PLENTY).read(prefix + data)


@pytest.mark.parametrize(
    ("kind", "settings"),
    [
        (H264, {}),
        (H264, {"slices": 4, "cqm": "jvt"}),
        (H264, {"cabac": 0, "ref": 1, "8x8dct": 0}),
        (H264, {"pixel_format": "yuv444p"}),
        (H264, {"pixel_format": "yuv422p10le"}),
        (H264, {"aud": 1, "nal-hrd": "cbr", "vbv-maxrate": 500, "vbv-bufsize": 500, "bitrate": 500}),
        (H264, {"intra-refresh": 1}),
        (H265, {}),
        (H265, {"open-gop": 0, "aud": 1, "hash": 1}),
        (H265, {"pixel_format": "yuv444p"}),
        (H265, {"pixel_format": "yuv420p10le"}),
    ],
)
def test_real_streams_are_read(kind: PixelFormat, settings: dict[str, Any]) -> None:
    pixel_format = str(settings.pop("pixel_format", "yuv420p"))
    units = access_units(PICTURES, kind, key_every=5, pixel_format=pixel_format, **settings)
    seen = read_all(units, kind)
    assert len(seen) == len(PICTURES)
    assert [unit.key for unit in seen] == [index % 5 == 0 for index in range(12)]
    assert all(unit.follows for unit in seen)


@pytest.mark.parametrize(("kind", "coded"), [(H264, (336, 256)), (H265, (328, 248))])
def test_a_size_beyond_the_limit_is_refused_by_the_parameter_set_alone(
    kind: PixelFormat, coded: tuple[int, int]
) -> None:
    unit = access_units(PICTURES[:1], kind)[0]
    assert read_all([unit], kind, coded[0] * coded[1])
    with pytest.raises(LimitExceeded, match=f"{coded[0]}x{coded[1]} pixels"):
        read_all([unit], kind, coded[0] * coded[1] - 1)


def test_keeping_many_pictures_is_refused() -> None:
    unit = access_units(PICTURES[:1], H264, ref=16, keyint=60)[0]
    assert read_all([unit], H264, 5 * 336 * 256)
    with pytest.raises(LimitExceeded, match="fewer reference frames"):
        read_all([unit], H264, 2 * 336 * 256)


@pytest.mark.parametrize("lost", [1, 3, 7])
@pytest.mark.parametrize("settings", [{}, {"cabac": 0, "ref": 1}, {"bframes": 2, "b-pyramid": "none", "b-adapt": 0}])
def test_a_lost_unit_shows_in_the_numbers_of_h264(lost: int, settings: dict[str, Any]) -> None:
    units = access_units(PICTURES, H264, key_every=10, **settings)
    followers = [unit.follows for unit in read_all(units[:lost] + units[lost + 1 :], H264)]
    # A picture that nothing builds on may be lost unseen, and hurts nobody.
    assert all(followers[:lost])
    assert not followers[lost] or settings.get("bframes")


def test_more_than_one_picture_in_a_unit_is_refused() -> None:
    for kind in (H264, H265):
        units = access_units(PICTURES[:3], kind)
        with pytest.raises(BadFrame, match="2 pictures in one access unit"):
            read_all([units[0] + units[1]], kind)


def test_a_unit_without_a_picture_is_refused() -> None:
    unit = access_units(PICTURES[:1], H264)[0]
    sets = b"".join(b"\0\0\1" + nal for nal in nal_units(unit) if nal[0] & 0x1F in (7, 8))
    with pytest.raises(BadFrame, match="without a picture"):
        read_all([sets], H264)


def test_what_would_keep_a_decoder_busy_for_long_is_refused() -> None:
    slices = b"\0\0\1\x41\x40" * 700
    with pytest.raises(BadFrame, match="700 slices"):
        read_all([b"\0\0\1\x41\xc0" + slices[5:]], H264)
    with pytest.raises(BadFrame, match="4096 NAL units"):
        read_all([b"\0\0\1\x09" * 5000], H264)


@pytest.mark.parametrize("colours", [(1, 1), (1, 2), (9, 1), None])
@pytest.mark.parametrize(
    ("kind", "settings"),
    [
        (H264, {}),
        (H264, {"cqm": "jvt", "ref": 3, "sar": "7/5"}),
        (H265, {}),
        (H265, {"ref": 5, "sar": 3, "overscan": "show"}),
        (H265, {"scaling-list": "default", "amp": 1, "rect": 1, "sao": 1}),
    ],
)
def test_a_stream_says_what_its_colours_are(
    kind: PixelFormat, settings: dict[str, Any], colours: tuple[int, int] | None
) -> None:
    reader = unit_reader(kind, PLENTY)
    reader.read(access_units(PICTURES[:1], kind, colours=colours, **settings)[0])
    assert reader.declared is not None
    assert reader.declared.plain
    assert (reader.declared.width, reader.declared.height) >= (322, 242)
    assert reader.declared.colours == (VideoColours(colours[0], colours[1] == 2) if colours else VideoColours())


@pytest.mark.parametrize("kind", [H264, H265])
@pytest.mark.parametrize("pixel_format", ["yuv444p", "yuv422p", "yuv420p10le"])
def test_it_says_whether_its_samples_are_of_the_plain_kind(kind: PixelFormat, pixel_format: str) -> None:
    reader = unit_reader(kind, PLENTY)
    reader.read(access_units(PICTURES[:1], kind, pixel_format=pixel_format)[0])
    assert reader.declared is not None
    assert not reader.declared.plain


def test_a_recovery_point_says_how_many_pictures_are_not_whole() -> None:
    refreshed: dict[str, Any] = {"intra-refresh": 1}
    units = read_all(access_units(PICTURES, H264, key_every=8, **refreshed), H264)
    assert units[0].recovery == 0, "it begins with a whole picture"
    later = [unit.recovery for unit in units[1:] if unit.key]
    assert later
    assert all(recovery > 0 for recovery in later)


REFERENCES: list[dict[str, Any]] = [
    {},
    {"ref": 5},
    {"ref": 1},
    {"open-gop": 1},
    {"slices": 3},
    {"hash": 1},
    {"keyint": 300, "min-keyint": 300},
    {"intra-refresh": 1, "keyint": 8},
]


@pytest.mark.parametrize("settings", REFERENCES)
def test_each_missing_h265_unit_is_seen_by_what_builds_on_it(settings: dict[str, Any]) -> None:
    pictures = moving_pictures(300 if settings.get("keyint") == 300 else 24, 64, 64)  # beyond the numbers' 256
    units = access_units(pictures, H265, **settings)
    assert not any(unit.lacks_reference for unit in read_all(units, H265))
    for missing in (1, 5, len(units) - 2):
        rest = read_all(units[:missing] + units[missing + 1 :], H265)
        following = rest[missing]
        assert following.key or following.lacks_reference
        assert not any(unit.lacks_reference for unit in rest[:missing])


def test_after_a_key_frame_all_references_have_come_again() -> None:
    units = access_units(PICTURES, H265, key_every=5)
    read = read_all([units[0], units[2], *units[5:]], H265)
    assert [unit.lacks_reference for unit in read] == [False, True, *[False] * (len(read) - 2)]


def test_what_a_set_differs_in_from_another() -> None:
    """As in ITU-T H.265, 7.4.8, by hand: the picture before each one that the other set kept, and the one before it."""
    bits = [
        *ue(2),  # sets
        *(*ue(2), *ue(0), *ue(0), 1, *ue(1), 1),  # -1 and -3, both built on
        *(1, 1, *ue(0), 1, 0, 1, 1),  # the same, one earlier: -2, kept as -4, and -1
    ]
    assert reference_sets(UnitBits(packed(bits))) == [[(-1, True), (-3, True)], [(-1, True), (-2, True), (-4, False)]]


def ue(value: int) -> list[int]:
    """A number in Exp-Golomb code."""
    code = [int(bit) for bit in f"{value + 1:b}"]
    return [0] * (len(code) - 1) + code


def packed(bits: list[int]) -> bytes:
    filled = bits + [0] * (-len(bits) % 8)
    return bytes(int("".join(map(str, filled[at : at + 8])), 2) for at in range(0, len(filled), 8))


def h264_sequence(number: int) -> bytes:
    """Of the baseline profile, 320 x 240, four bits to a picture's number."""
    return b"\0\0\1\x67" + packed(
        [0, 1, 0, 0, 0, 0, 1, 0, *[1] * 16, *ue(number), *ue(0), *ue(2), *ue(1), 0, *ue(19), *ue(14), 1, 1, 0, 0, 1]
    )


def h265_sequence(number: int) -> bytes:
    sizes = [*ue(1), *ue(320), *ue(240), 0, *ue(0), *ue(0), *ue(0), 0, *ue(1), *ue(0), *ue(0), 1]
    return b"\0\0\1\x42\1" + packed([0, 0, 0, 0, 0, 0, 0, *[1] * 97, *ue(number), *sizes])


@pytest.mark.parametrize(
    ("kind", "taken", "refused"),
    [
        (H264, h264_sequence(31), h264_sequence(32)),
        (H265, h265_sequence(15), h265_sequence(16)),
        (H264, b"\0\0\1\x68" + packed([*ue(255), *ue(0)]), b"\0\0\1\x68" + packed([*ue(256), *ue(0)])),
        (H265, b"\0\0\1\x44\1" + packed([*ue(63), *[1] * 9]), b"\0\0\1\x44\1" + packed([*ue(64), *[1] * 9])),
    ],
    ids=["h264 sequence", "h265 sequence", "h264 picture", "h265 picture"],
)
def test_no_more_parameter_sets_are_kept_than_the_standard_has(kind: PixelFormat, taken: bytes, refused: bytes) -> None:
    with pytest.raises(BadFrame, match="without a picture"):
        unit_reader(kind, PLENTY).read(taken)
    with pytest.raises(BadFrame, match="says what none can"):
        unit_reader(kind, PLENTY).read(refused)


def test_a_slice_goes_by_its_own_parameter_sets() -> None:
    def picture(kind: int, number: int, picture_set: int) -> bytes:
        frame_num = [number >> bit & 1 for bit in (3, 2, 1, 0)]
        return b"\0\0\1" + bytes([kind]) + packed([*ue(0), *ue(7), *ue(picture_set), *frame_num, *[1] * 8])

    sets = h264_sequence(0) + b"\0\0\1\x68" + packed([*ue(3), *ue(0), 1])
    units = [sets + picture(0x65, 0, 3), picture(0x41, 1, 3), picture(0x41, 2, 3), picture(0x41, 7, 3)]
    assert [unit.follows for unit in read_all(units, H264)] == [True, True, True, False]


def test_a_set_of_more_pictures_than_a_decoder_keeps_is_none() -> None:
    many = [*ue(1), *ue(8), *ue(9), *[bit for _ in range(17) for bit in (*ue(0), 1)], 1, 1]
    with pytest.raises(IndexError):
        reference_sets(UnitBits(packed(many)))

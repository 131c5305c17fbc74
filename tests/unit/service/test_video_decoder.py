"""A stream's decoder gives each access unit's own picture at once, or says why there is none; nothing upsets it."""

from __future__ import annotations

import random
import resource
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Literal

import av
import numpy as np
import pytest
from av.video.codeccontext import VideoCodecContext
from numpy.typing import NDArray

from foveate.engines.errors import BadFrame, EngineUnavailable, LimitExceeded, UnsupportedFormat
from foveate.service import ffmpeg_video
from foveate.service.boundary import VideoUnit
from foveate.service.decode import decode_into, picture_into
from foveate.service.ffmpeg_video import FfmpegCodec, VideoPicture
from foveate.service.frame import PixelFormat
from foveate.service.video_decoder import VideoDecoder
from support.frames import colour_model, smooth_picture
from support.video_streams import access_units, moving_pictures

H264, H265 = PixelFormat.H264, PixelFormat.H265
KINDS = [H264, H265]
PLENTY = 10**7
PICTURES = moving_pictures(24)
WAVES: dict[str, Any] = {"intra-refresh": 1}


def outcomes(
    units: Iterable[bytes], kind: PixelFormat, decoder: VideoDecoder | None = None
) -> list[VideoPicture | str]:
    """What became of each unit: its picture, or why there is none."""
    decoder, came = decoder or VideoDecoder(kind, PLENTY), list[VideoPicture | str]()
    for unit in units:
        try:
            picture = decoder.decode(unit)
            assert isinstance(picture, VideoPicture)
            came.append(picture)
        except BadFrame as error:
            came.append(str(error))
    return came


def which_decoded(came: list[VideoPicture | str]) -> list[int]:
    return [index for index, each in enumerate(came) if isinstance(each, VideoPicture)]


def as_ffmpeg_decodes(units: list[bytes], kind: PixelFormat) -> list[NDArray[np.generic]]:
    codec = av.CodecContext.create({H264: "h264", H265: "hevc"}[kind], "r")
    assert isinstance(codec, VideoCodecContext)
    frames = [frame for unit in units for frame in codec.decode(av.Packet(unit))] + codec.decode(None)
    return [frame.to_ndarray(format="rgb24") for frame in frames]


def megabytes_held() -> int:
    resident_pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
    return resident_pages * resource.getpagesize() // (1 << 20)


@pytest.mark.parametrize(
    ("kind", "settings"),
    [
        (H264, {}),
        (H264, {"slices": 4, "cabac": 0}),
        (H264, {"pixel_format": "yuv444p"}),
        (H264, {"pixel_format": "yuv420p10le"}),
        (H264, {"intra-refresh": 1}),
        (H265, {}),
        (H265, {"hash": 1}),
        (H265, {"pixel_format": "yuv422p10le"}),
    ],
)
def test_each_unit_gives_its_own_picture_at_once(kind: PixelFormat, settings: dict[str, Any]) -> None:
    pixel_format = str(settings.pop("pixel_format", "yuv420p"))
    units = access_units(PICTURES, kind, pixel_format=pixel_format, **settings)
    expected = as_ffmpeg_decodes(units, kind)
    came = outcomes(units, kind)
    # A wave of intra-refresh begins with a whole key frame here, and never again.
    assert which_decoded(came) == list(range(24))
    for picture, reference in zip(came, expected, strict=True):
        assert isinstance(picture, VideoPicture)
        assert (picture.width, picture.height) == (192, 128)
        assert picture.nbytes >= 192 * 128 * 1.5
        assert np.abs(picture.rgb().astype(int) - reference.astype(int)).max() <= 2


@pytest.mark.parametrize("kind", KINDS)
def test_nothing_is_decoded_before_a_key_frame(kind: PixelFormat) -> None:
    units = access_units(PICTURES, kind)
    came = outcomes(units[4:], kind)
    assert which_decoded(came) == list(range(6, 20))
    assert came[0] == "the stream has not begun with a key frame; nothing is decoded until the next key frame"


@pytest.mark.parametrize("kind", KINDS)
def test_a_gap_breaks_the_chain_until_the_next_key_frame(kind: PixelFormat) -> None:
    units, decoder = access_units(PICTURES, kind), VideoDecoder(kind, PLENTY)
    assert which_decoded(outcomes(units[:5], kind, decoder)) == list(range(5))
    with pytest.raises(BadFrame, match=r"one access unit before this one is missing; .* until the next key"):
        decoder.decode(units[6], follows=False)
    assert which_decoded(outcomes(units[7:12], kind, decoder)) == [3, 4]
    assert decoder.decode(units[20], follows=False).width == 192, "a key frame needs nothing before it"


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("lost", [1, 5, 8])
def test_a_loss_that_the_numbers_do_not_tell_of_is_found_in_the_video(kind: PixelFormat, lost: int) -> None:
    units = access_units(PICTURES, kind, ref=1) if kind is H264 else access_units(PICTURES, kind)
    came = outcomes(units[:lost] + units[lost + 1 :], kind)
    assert which_decoded(came) == [*range(lost), *range(9, 23)]


def test_a_lost_slice_is_found() -> None:
    units = access_units(PICTURES, H264, slices=4)
    first, second, *rest = units[3].split(b"\0\0\1")
    units[3] = b"\0\0\1".join([first, second, *rest[1:]])
    assert which_decoded(outcomes(units, H264)) == [0, 1, 2, *range(10, 24)]


def test_flipped_bits_are_found_by_the_pictures_own_checksum() -> None:
    """HEVC's decoder makes something of nearly everything; a stream that carries hashes is known to be whole."""
    random_, found = random.Random(5), 0
    units = access_units(PICTURES[:4], H265, hash=1)
    for _ in range(30):
        broken = bytearray(units[2])
        in_the_slice = random_.randrange(12, len(broken) - 64)  # the hash comes last
        broken[in_the_slice] ^= 1 << random_.randrange(8)
        came = outcomes([*units[:2], bytes(broken), units[3]], H265)
        found += which_decoded(came) == [0, 1]
    assert found == 30


def test_a_unit_that_is_cut_off_before_its_hash_is_found() -> None:
    units = access_units(PICTURES[:6], H265, hash=1)
    for length in range(20, len(units[3]) - 1, 7):
        came = outcomes([*units[:3], units[3][:length], *units[4:]], H265)
        assert which_decoded(came) == [0, 1, 2], length


def test_hashes_may_end_with_a_new_sequence() -> None:
    units = access_units(PICTURES[:4], H265, hash=1) + access_units(PICTURES[4:8], H265)
    assert which_decoded(outcomes(units, H265)) == list(range(8))


@pytest.mark.parametrize("kind", KINDS)
def test_a_truncated_key_frame_is_no_beginning(kind: PixelFormat) -> None:
    units = access_units(PICTURES, kind)
    sets_and_first_bytes = 200 if kind is H264 else 120
    units[10] = units[10][:sets_and_first_bytes]
    assert which_decoded(outcomes(units, kind)) == [*range(10), *range(20, 24)]


@pytest.mark.parametrize("kind", KINDS)
def test_a_key_frame_may_change_the_size(kind: PixelFormat) -> None:
    units = access_units(PICTURES[:5], kind) + access_units(moving_pictures(5, 256, 96), kind)
    came = outcomes(units, kind)
    assert [each.width for each in came if isinstance(each, VideoPicture)] == [192] * 5 + [256] * 5


@pytest.mark.parametrize("kind", KINDS)
def test_a_video_with_b_frames_is_refused_and_told_why(kind: PixelFormat) -> None:
    came = outcomes(access_units(PICTURES, kind, bframes=2), kind)
    assert which_decoded(came) == []
    assert all("B-frames" in str(each) for each in came), came


def test_joining_in_the_middle_of_intra_refresh_waits_for_a_whole_picture() -> None:
    units = access_units(PICTURES, H264, **WAVES)
    came = outcomes(units[4:], H264)
    decoded = which_decoded(came)
    assert decoded == list(range(decoded[0], 20))
    assert 6 < decoded[0] < 18
    assert "no whole picture" in str(came[decoded[0] - 1])


def test_too_large_a_video_never_reaches_the_decoder() -> None:
    decoder = VideoDecoder(H264, 192 * 128 - 1)
    unit = access_units(PICTURES[:1], H264)[0]
    with pytest.raises(LimitExceeded, match="192x128"):
        decoder.decode(unit)
    assert isinstance(decoder._codec, FfmpegCodec)
    assert decoder._codec._codec.width == 0


@pytest.mark.parametrize(("matrix", "red"), [(1, (63, 102, 240)), (6, (81, 90, 240))])
@pytest.mark.parametrize("full_range", [False, True])
def test_colours_are_those_that_the_stream_declares(matrix: int, red: tuple[int, int, int], full_range: bool) -> None:
    """Source: ITU-R BT.601 and BT.709, the 75 % and 100 % colour bars' red in 8 bits of the limited range."""
    pictures = [np.full((64, 64, 3), (255, 0, 0), np.uint8)] * 2
    units = access_units(pictures, H264, colours=(matrix, 2 if full_range else 1), pixel_format="yuv420p", qp=1)
    first = outcomes(units, H264)[0]
    assert isinstance(first, VideoPicture)
    assert np.abs(first.rgb()[32, 32].astype(int) - (255, 0, 0)).max() <= 4
    assert np.abs(first.reduced((20, 30))[10, 10].astype(int) - (255, 0, 0)).max() <= 4
    if not full_range:
        stored = [bytes(plane)[0] for plane in first.frame.planes]
        assert np.abs(np.array(stored, int) - red).max() <= 2


@pytest.mark.parametrize("resize", ["letterbox", "stretch", "center_crop"])
@pytest.mark.parametrize("size", [(192, 128), (100, 200), (24, 20)])
def test_a_picture_lies_in_the_row_as_one_sent_raw_does(
    resize: Literal["letterbox", "stretch", "center_crop"], size: tuple[int, int]
) -> None:
    model = colour_model(resize=resize, width=32, height=32)
    picture = outcomes(access_units([smooth_picture(np.random.default_rng(3), *size)], H264, qp=4), H264)[0]
    assert isinstance(picture, VideoPicture)
    rows = np.full((2, 32, 32, 3), 7, np.uint8)
    decoded = picture_into(rows[0], picture, model)
    reference = decode_into(rows[1], picture.rgb().tobytes(), PixelFormat.RAW_RGB, size, model)
    assert (decoded.width, decoded.height, decoded.placement) == (*size, reference.placement)
    # Scaled first and converted then, or the other way round: the same but for rounding and the clipping of colours.
    assert np.abs(rows[0].astype(int) - rows[1]).mean() < 3.5


@pytest.mark.parametrize("kind", KINDS)
def test_garbage_gets_one_answer_each_and_the_next_key_frame_a_picture(kind: PixelFormat) -> None:
    """Thousands of broken units, one decoder: it neither crashes nor grows."""
    random_ = random.Random(11)
    units = access_units(PICTURES[:12], kind, key_every=6)
    huge = access_units(moving_pictures(1, 2048, 1024), kind)[0]
    decoder, count = VideoDecoder(kind, 1_000_000), Counter[str]()

    def broken() -> bytes:
        unit = bytearray(random_.choice(units))
        match random_.randrange(6):
            case 0:
                return bytes(unit[: random_.randrange(len(unit))])
            case 1:
                for _ in range(random_.choice((1, 3, 30))):
                    unit[random_.randrange(len(unit))] ^= 1 << random_.randrange(8)
                return bytes(unit)
            case 2:
                return random_.randbytes(random_.randrange(300))
            case 3:
                return b"\0\0\1" + random_.randbytes(random_.randrange(300))
            case 4:
                at = random_.randrange(len(huge))
                return huge[:at] + bytes(unit)
            case _:
                nals = bytes(unit).split(b"\0\0\1")[1:]
                random_.shuffle(nals)
                return b"".join(b"\0\0\1" + nal for nal in nals)

    def feed(data: bytes) -> None:
        try:
            count[type(decoder.decode(data)).__name__] += 1
        except (BadFrame, LimitExceeded) as error:
            count[type(error).__name__] += 1

    before = 0
    for turn in range(3000):
        feed(broken() if turn % 4 else random_.choice(units))
        if turn == 600:
            before = megabytes_held()
    assert megabytes_held() - before < 40
    assert count.total() == 3000
    assert min(count["VideoPicture"], count["BadFrame"], count["LimitExceeded"]) > 50, count
    assert decoder.decode(units[0], follows=False).width == 192


def test_streams_that_have_ended_hold_no_memory() -> None:
    units = access_units(moving_pictures(3, 640, 480), H264)

    def one_stream() -> None:
        assert which_decoded(outcomes(units, H264)) == [0, 1, 2]

    for _ in range(20):
        one_stream()
    before = megabytes_held()
    for _ in range(200):
        one_stream()
    assert megabytes_held() - before < 20


def test_without_pyav_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ffmpeg_video, "find_spec", lambda name: None)
    with pytest.raises(UnsupportedFormat, match=r"H265 .*foveate\[camera\]"):
        VideoDecoder(H265, PLENTY)


def test_an_ffmpeg_without_the_decoder_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(ffmpeg_video._CODECS, H265, "none_of_that_name")
    with pytest.raises(UnsupportedFormat, match="without a decoder for H265"):
        VideoDecoder(H265, PLENTY)


def test_where_the_device_has_failed_it_is_said_from_when_on_units_are_decoded_again() -> None:
    class Lost:
        def decode(self, unit: VideoUnit) -> VideoPicture | None:
            raise EngineUnavailable("the engine process has died")

    decoder = VideoDecoder(H264, PLENTY, Lost())
    with pytest.raises(EngineUnavailable, match=r"^the engine process has died; nothing is decoded until the next key"):
        decoder.decode(access_units(PICTURES[:1], H264)[0])

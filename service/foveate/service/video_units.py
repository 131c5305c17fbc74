"""Access units of H.264 and H.265 streams (Annex B): what they declare, read before any decoder sees a byte.

Only what must be known beforehand is read: whether a unit can be joined at, how large its pictures are, whether it is
one picture, and, for H.264, whether the picture that it builds on is the one that came before.
Source: ITU-T H.264, 7.3 and annex B; ITU-T H.265, 7.3 and annex B.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass

from foveate.engines.errors import BadFrame, LimitExceeded
from foveate.engines.video_decoding import VideoColours, VideoFormat
from foveate.service.frame import PixelFormat
from foveate.service.h265_references import H265References, H265Sequence, ReferenceSet, reference_sets
from foveate.service.unit_bits import UnitBits

__all__ = ["AccessUnit", "H264Units", "H265Units", "UnitReader", "nal_units", "unit_reader"]

_START_CODE = b"\0\0\1"
_MOST_SLICES = 600
"""In one picture, as H.265 allows at its highest level (table A.8): each may cost as much as a whole picture."""
_MOST_KEPT = 4
"""Pictures of the largest size allowed, or more smaller ones, that a decoder may be told to keep."""
_MOST_NAL_UNITS = 4096
"""In one access unit: real ones have some more than slices, and a made-up one must not hold a thread for long."""
_SLICE_HEAD = 24
"""Bytes of a slice that hold the fields read here, emulation prevention included."""
_SEQUENCE_HEAD = 2048
"""Bytes of a parameter set that hold the fields read here, scaling lists included."""
_IDR, _SEI, _SEQUENCE_SET, _PICTURE_SET = 5, 6, 7, 8
_RECOVERY_POINT = 6
_MOST_SEQUENCE_SET, _MOST_PICTURE_SET = 31, 255
"""The highest numbers that they may have: all that come are kept."""
_H265_SEQUENCE_SET, _H265_PICTURE_SET, _H265_SUFFIX_SEI = 33, 34, 40
_PICTURE_HASH = 132
_MOST_LONG_TERM = 32
_EXTENDED_ASPECT = 255


@dataclass(frozen=True, slots=True)
class AccessUnit:
    """What an access unit says of itself."""

    key: bool
    """Whether decoding can begin with it."""
    follows: bool = True
    """Whether it goes on where the unit before it ended, as far as the stream's own numbers tell."""
    lacks_reference: bool = False
    """Whether a picture that it builds on has not come; FFmpeg's decoders find that by themselves."""
    recovery: int = 0
    """Units from this one on, where decoding begins with it, of which the pictures are not whole yet."""


class UnitReader:
    """What the units of one stream say, in the order of their decoding."""

    def __init__(self, max_pixels: int) -> None:
        self._max_pixels = max_pixels
        self.declared: VideoFormat | None = None
        """What the newest parameter set says."""

    def read(self, data: bytes) -> AccessUnit:
        """Look at the next unit.

        Raises: BadFrame if it is not one access unit, LimitExceeded if its pictures are larger than allowed.
        """
        try:
            return self._read(data)
        except IndexError as error:
            raise BadFrame("broken access unit: a header in it is cut off, or says what none can") from error

    def _read(self, data: bytes) -> AccessUnit:
        raise NotImplementedError

    def _check_size(self, width: int, height: int, kept: int) -> None:
        if width * height > self._max_pixels:
            raise LimitExceeded(
                f"the video has {width}x{height} pixels, at most {self._max_pixels} are taken: scale it down before "
                "encoding"
            )
        if width * height * kept > _MOST_KEPT * self._max_pixels:
            raise LimitExceeded(
                f"the video has its decoder keep {kept} pictures of {width}x{height}, more than is granted here: "
                "encode it with fewer reference frames"
            )


@dataclass(frozen=True, slots=True)
class _H264Sequence:
    """Of an H.264 sequence parameter set, what its slices' headers are read by."""

    frame_num_bits: int
    separate_planes: bool
    gaps_allowed: bool
    fields: bool
    """Whether a picture may come as two fields."""


class H264Units(UnitReader):
    """Units of an H.264 stream."""

    def __init__(self, max_pixels: int) -> None:
        super().__init__(max_pixels)
        self._sequences: dict[int, _H264Sequence] = {}
        self._sequence_of: dict[int, int] = {}
        self._last_frame_num: int | None = None
        """Of the last picture that others may build on."""

    def _read(self, data: bytes) -> AccessUnit:
        key, slices, pictures, first, recovery = False, 0, 0, b"", 0
        for nal in nal_units(data):
            kind = nal[0] & 0x1F
            if kind == _SEQUENCE_SET:
                self._learn_sequence(nal)
            elif kind == _PICTURE_SET:
                bits = UnitBits(nal[1 : 1 + _SLICE_HEAD])
                number = bits.counted(_MOST_PICTURE_SET)
                self._sequence_of[number] = bits.counted(_MOST_SEQUENCE_SET)
            elif kind == _SEI:  # the decoder gives no picture before the recovery is complete
                messages = dict(_messages(nal[1:_SEQUENCE_HEAD]))
                if _RECOVERY_POINT in messages:
                    key, recovery = True, UnitBits(messages[_RECOVERY_POINT]).exp_golomb()
            elif kind in (1, 2, _IDR):
                key, slices = key or kind == _IDR, slices + 1
                if nal[1] & 0x80:  # its first macroblock is the picture's first
                    pictures, first = pictures + 1, first or nal[: 1 + _SLICE_HEAD]
        _check_slices(slices)
        sequence = self._sequence(first)
        if pictures > 1 + bool(sequence and sequence.fields):
            raise BadFrame(f"{pictures} pictures in one access unit: send each as a frame of its own")
        return AccessUnit(key, self._follows(first, sequence), recovery=0 if _starts_anew(first) else recovery)

    def _learn_sequence(self, nal: bytes) -> None:
        bits = UnitBits(nal[1:_SEQUENCE_HEAD])
        profile = bits.read(8)
        bits.skip(16)
        number, chroma, separate, depth = bits.counted(_MOST_SEQUENCE_SET), 1, False, 0
        if profile in _H264_WITH_CHROMA:
            chroma = bits.exp_golomb()
            separate = chroma == 3 and bool(bits.read(1))
            depth = bits.exp_golomb() + bits.exp_golomb()
            bits.skip(1)
            if bits.read(1):
                _skip_scaling_lists(bits, 12 if chroma == 3 else 8)
        frame_num_bits = bits.exp_golomb() + 4
        _skip_picture_order(bits)
        kept = bits.exp_golomb()
        gaps_allowed = bool(bits.read(1))
        width, rows, whole_frames = bits.exp_golomb() + 1, bits.exp_golomb() + 1, bits.read(1)
        height = 16 * rows * (2 - whole_frames)
        self._check_size(16 * width, height, kept + 1)
        plain = chroma == 1 and not depth
        self.declared = VideoFormat("h264", 16 * width, height, kept + 1, plain, _h264_colours(bits, whole_frames))
        self._sequences[number] = _H264Sequence(frame_num_bits, separate, gaps_allowed, not whole_frames)

    def _sequence(self, slice_head: bytes) -> _H264Sequence | None:
        if not slice_head:
            return None
        bits = UnitBits(slice_head[1:])
        bits.skip_exp_golomb(2)
        return self._sequences.get(self._sequence_of.get(bits.exp_golomb(), -1))

    def _follows(self, slice_head: bytes, sequence: _H264Sequence | None) -> bool:
        """Whether no picture is missing between the last one and this, by their `frame_num` (7.4.3)."""
        if sequence is None:
            return True
        bits = UnitBits(slice_head[1:])
        bits.skip_exp_golomb(3)
        bits.skip(2 * sequence.separate_planes)
        number, last = bits.read(sequence.frame_num_bits), self._last_frame_num
        if slice_head[0] & 0x60:
            self._last_frame_num = number
        if last is None or _starts_anew(slice_head) or sequence.gaps_allowed:
            return True
        # 1: a picture may have had the decoder forget all others, and count anew.
        return number in (last, (last + 1) % (1 << sequence.frame_num_bits), 1)


def _starts_anew(slice_head: bytes) -> bool:
    return bool(slice_head) and slice_head[0] & 0x1F == _IDR


_H264_WITH_CHROMA = frozenset({100, 110, 122, 244, 44, 83, 86, 118, 128, 138, 139, 134, 135})
"""Profiles whose sequence parameter set says more of the samples (7.3.2.1.1)."""


class H265Units(UnitReader):
    """Units of an H.265 stream."""

    def __init__(self, max_pixels: int) -> None:
        super().__init__(max_pixels)
        self._has_hashes = False
        """Whether each picture is followed by its hash, by which the decoder knows it to be whole."""
        self._references = H265References()

    def _read(self, data: bytes) -> AccessUnit:
        key, slices, pictures, hashed, begins, first = False, 0, 0, False, False, b""
        for nal in nal_units(data):
            kind, layer = nal[0] >> 1 & 0x3F, (nal[0] & 1) << 5 | nal[1] >> 3
            if layer:
                continue  # of an extension, which is not decoded
            if kind == _H265_SEQUENCE_SET:
                self._learn_sequence(nal)
                begins = True
            elif kind == _H265_PICTURE_SET:
                self._references.learn_picture_set(nal)
            elif kind == _H265_SUFFIX_SEI:
                hashed = hashed or _PICTURE_HASH in dict(_messages(nal[2:_SEQUENCE_HEAD]))
            elif kind < 32:
                key, slices = key or 16 <= kind <= 21, slices + 1
                pictures += nal[2] >> 7
                first = first or nal
        _check_slices(slices)
        if pictures > 1:
            raise BadFrame(f"{pictures} pictures in one access unit: send each as a frame of its own")
        if self._has_hashes and not (hashed or begins):
            raise BadFrame("the access unit ends before the hash of its picture, which others have: it is cut off")
        self._has_hashes = hashed
        return AccessUnit(key, lacks_reference=not self._references.complete(first))

    def _learn_sequence(self, nal: bytes) -> None:
        bits = UnitBits(nal[2:_SEQUENCE_HEAD])
        bits.skip(4)
        sub_layers = bits.read(3)
        bits.skip(1 + 96)
        present = [(bits.read(1), bits.read(1)) for _ in range(sub_layers)]
        bits.skip(2 * (8 - sub_layers) if sub_layers else 0)
        for profile, level in present:
            bits.skip(88 * profile + 8 * level)
        number, chroma = bits.exp_golomb(), bits.exp_golomb()
        separate = chroma == 3 and bool(bits.read(1))
        width, height = bits.exp_golomb(), bits.exp_golomb()
        if bits.read(1):
            bits.skip_exp_golomb(4)
        depth, order_bits = bits.exp_golomb() + bits.exp_golomb(), bits.exp_golomb() + 4
        kept = 1
        for _ in range(sub_layers + 1 if bits.read(1) else 1):
            kept = max(kept, bits.exp_golomb() + 1)
            bits.skip_exp_golomb(2)
        self._check_size(width, height, kept)
        plain = chroma == 1 and not depth
        sets, colours = _h265_sets_and_colours(bits, order_bits)
        self._references.learn_sequence(number, H265Sequence(order_bits, separate, sets))
        self.declared = VideoFormat("h265", width, height, kept, plain, colours)


def unit_reader(kind: PixelFormat, max_pixels: int) -> UnitReader:
    """The reader of a stream of this format."""
    return {PixelFormat.H264: H264Units, PixelFormat.H265: H265Units}[kind](max_pixels)


def nal_units(data: bytes) -> Iterator[bytes]:
    """The NAL units of an access unit in order, without their start codes. Raises: BadFrame if it has none."""
    at, count = data.find(_START_CODE), 0
    if at < 0 or data[:at].strip(b"\0"):
        raise BadFrame(
            f"{len(data)} bytes that do not begin with a start code: expected an access unit as in Annex B, with "
            "00 00 01 before each NAL unit, not with lengths as in MP4 files"
        )
    while at >= 0:
        begin, at = at + len(_START_CODE), data.find(_START_CODE, at + len(_START_CODE))
        nal = data[begin : at if at >= 0 else len(data)].rstrip(b"\0")
        if nal:
            count += 1
            yield nal
        if count > _MOST_NAL_UNITS:
            raise BadFrame(f"an access unit of more than {_MOST_NAL_UNITS} NAL units: send each as a frame of its own")


def _check_slices(count: int) -> None:
    if not count:
        raise BadFrame("an access unit without a picture: send parameter sets together with their key frame")
    if count > _MOST_SLICES:
        raise BadFrame(f"a picture in {count} slices, at most {_MOST_SLICES} are decoded")


def _skip_scaling_lists(bits: UnitBits, count: int) -> None:
    """Source: ITU-T H.264, 7.3.2.1.1.1."""
    for index in range(count):
        if not bits.read(1):
            continue
        last = following = 8
        for _ in range(16 if index < 6 else 64):
            if following:
                following = (last + bits.signed_exp_golomb()) % 256
            last = following or last


def _skip_picture_order(bits: UnitBits) -> None:
    kind = bits.exp_golomb()
    if kind == 0:
        bits.skip_exp_golomb(1)
    elif kind == 1:
        bits.skip(1)
        bits.skip_exp_golomb(2)
        bits.skip_exp_golomb(bits.exp_golomb())


def _h264_colours(bits: UnitBits, whole_frames: int) -> VideoColours:
    """Of the rest of a sequence parameter set; where it makes no sense, the decoder will say so."""
    with suppress(IndexError):
        bits.skip(0 if whole_frames else 1)
        bits.skip(1)
        if bits.read(1):  # cropped
            bits.skip_exp_golomb(4)
        if bits.read(1):
            return _usability_colours(bits)
    return VideoColours()


def _h265_sets_and_colours(bits: UnitBits, order_bits: int) -> tuple[list[ReferenceSet] | None, VideoColours]:
    """The same for H.265, from the sizes of blocks on (7.3.2.2.1); of the sets None where they make no sense."""
    sets = None
    with suppress(IndexError):
        bits.skip_exp_golomb(6)
        if bits.read(1) and bits.read(1):
            _skip_h265_scaling_lists(bits)
        bits.skip(2)
        if bits.read(1):  # samples as they are
            bits.skip(8)
            bits.skip_exp_golomb(2)
            bits.skip(1)
        sets = reference_sets(bits)
        if bits.read(1):  # pictures that are kept for long
            bits.skip(bits.counted(_MOST_LONG_TERM) * (order_bits + 1))
        bits.skip(2)
        if bits.read(1):
            return sets, _usability_colours(bits)
    return sets, VideoColours()


def _usability_colours(bits: UnitBits) -> VideoColours:
    """Source: ITU-T H.264, E.1.1; ITU-T H.265, E.2.1, which begins the same."""
    if bits.read(1) and bits.read(8) == _EXTENDED_ASPECT:
        bits.skip(32)
    if bits.read(1):
        bits.skip(1)
    if not bits.read(1):
        return VideoColours()
    bits.skip(3)
    full_range, described = bool(bits.read(1)), bits.read(1)
    bits.skip(16 * described)
    return VideoColours(bits.read(8), full_range) if described else VideoColours(full_range=full_range)


def _skip_h265_scaling_lists(bits: UnitBits) -> None:
    """Source: ITU-T H.265, 7.3.4."""
    for size in range(4):
        for _ in range(2 if size == 3 else 6):
            if not bits.read(1):
                bits.skip_exp_golomb(1)
            else:
                bits.skip_exp_golomb((size > 1) + min(64, 16 << 2 * size))


def _messages(payload: bytes) -> Iterator[tuple[int, bytes]]:
    """The messages in an SEI NAL unit, by their types. Source: ITU-T H.264, 7.3.2.3.1."""
    at = 0
    while at + 1 < len(payload):
        fields = []
        for _ in range(2):  # type and size
            value = 0
            while payload[at] == 0xFF:
                value, at = value + 0xFF, at + 1
            fields.append(value + payload[at])
            at += 1
        yield fields[0], payload[at : at + fields[1]]
        at += fields[1]

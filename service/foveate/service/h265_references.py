"""Which pictures a unit of an H.265 stream builds on, and whether they have all come.

H.265 numbers pictures by their order of output, so a gap shows in nothing but a reference that is not there.
Source: ITU-T H.265, 7.3.6.1, 7.3.7, 7.4.8, 8.3.1 and 8.3.2.
"""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass

from foveate.service.unit_bits import UnitBits

__all__ = ["H265References", "H265Sequence", "ReferenceSet", "reference_sets"]

ReferenceSet = list[tuple[int, bool]]
"""How much earlier (negative) or later each kept picture is shown, nearest first; whether this one builds on it."""

_MOST_SETS, _MOST_PICTURES = 64, 16
_MOST_SEQUENCE_SET, _MOST_PICTURE_SET = 15, 63
"""The highest numbers that they may have: all that come are kept."""
_HEAD_BYTES = 128
"""Of a slice, that hold its references."""


@dataclass(frozen=True, slots=True)
class H265Sequence:
    """Of a sequence parameter set, what references are read by."""

    order_bits: int
    separate_planes: bool
    sets: list[ReferenceSet] | None
    """None: they could not be read."""


@dataclass(frozen=True, slots=True)
class _PictureSet:
    sequence: int
    says_output: bool
    extra_bits: int


class H265References:
    """The pictures that a decoder has, as units go by. What cannot be read counts as complete, up to a key picture."""

    def __init__(self) -> None:
        self._sequences: dict[int, H265Sequence] = {}
        self._picture_sets: dict[int, _PictureSet] = {}
        self._kept: set[int] | None = None
        """By their order; None: not known."""
        self._base = 0
        """The order of the last picture of the lowest layer that others may build on."""

    def learn_sequence(self, number: int, sequence: H265Sequence) -> None:
        """A sequence parameter set has come. Raises: IndexError if no set may have this number."""
        if number > _MOST_SEQUENCE_SET:
            raise IndexError("no stream of the standard's has as many")
        self._sequences[number] = sequence

    def learn_picture_set(self, nal: bytes) -> None:
        """A picture parameter set has come. Raises: IndexError if it is cut off, or no set may have its number."""
        bits = UnitBits(nal[2:_HEAD_BYTES])
        number, sequence = bits.counted(_MOST_PICTURE_SET), bits.counted(_MOST_SEQUENCE_SET)
        bits.skip(1)
        self._picture_sets[number] = _PictureSet(sequence, bool(bits.read(1)), bits.read(3))

    def complete(self, first_slice: bytes) -> bool:
        """Whether the next picture has all that it builds on, by its first slice."""
        known, self._kept = self._kept, None
        with suppress(IndexError, KeyError):
            return self._has_all(first_slice, known)
        return True

    def _has_all(self, nal: bytes, known: set[int] | None) -> bool:
        kind, layer = nal[0] >> 1 & 0x3F, (nal[1] & 7) - 1
        bits = UnitBits(nal[2:_HEAD_BYTES])
        if not bits.read(1):
            return True  # the head of the picture is missing: the decoder will say so
        is_key = 16 <= kind <= 23
        bits.skip(is_key)
        picture_set = self._picture_sets[bits.exp_golomb()]
        sequence = self._sequences[picture_set.sequence]
        bits.skip(picture_set.extra_bits)
        bits.skip_exp_golomb(1)
        bits.skip(picture_set.says_output + 2 * sequence.separate_planes)
        if kind in (19, 20):  # IDR
            order, references = 0, ReferenceSet()
        else:
            order, references = (
                self._order(bits.read(sequence.order_bits), sequence, is_key),
                _references(bits, sequence),
            )
        if layer == 0 and (kind >= 16 or (kind % 2 and kind < 6)):
            self._base = order
        if is_key:  # nothing after it, in the order of its output, builds on what was before
            self._kept = {order}
            return True
        if known is None:
            return True
        self._kept = {order, *(order + delta for delta, _ in references if order + delta in known)}
        return all(order + delta in known for delta, used in references if used)

    def _order(self, low: int, sequence: H265Sequence, is_key: bool) -> int:
        if is_key:
            return low
        span = 1 << sequence.order_bits
        order = self._base - self._base % span + low
        if order - self._base >= span // 2:
            return order - span
        return order + span if self._base - order > span // 2 else order


def reference_sets(bits: UnitBits) -> list[ReferenceSet]:
    """Those of a sequence parameter set. Raises: IndexError."""
    sets: list[ReferenceSet] = []
    count = bits.counted(_MOST_SETS)
    for _ in range(count):
        sets.append(_reference_set(bits, sets, in_slice=False))
    return sets


def _references(bits: UnitBits, sequence: H265Sequence) -> ReferenceSet:
    if sequence.sets is None:
        raise IndexError("the sequence's sets could not be read")
    if not bits.read(1):
        return _reference_set(bits, sequence.sets, in_slice=True)
    return sequence.sets[bits.read((len(sequence.sets) - 1).bit_length())]


def _reference_set(bits: UnitBits, before: list[ReferenceSet], *, in_slice: bool) -> ReferenceSet:
    """The next set, which may be told by what it differs in from one of those before."""
    if before and bits.read(1):
        base = before[-1 - (bits.counted(len(before) - 1) if in_slice else 0)]
        sign, step = bits.read(1), bits.exp_golomb() + 1
        moved = ReferenceSet()
        for delta, _ in (*base, (0, True)):
            used = bool(bits.read(1))
            if used or bits.read(1):
                moved.append((delta + (-step if sign else step), used))
    else:
        moved, counts = ReferenceSet(), (bits.counted(_MOST_PICTURES), bits.counted(_MOST_PICTURES))
        for direction, count in zip((-1, 1), counts, strict=True):
            delta = 0
            for _ in range(count):
                delta += direction * (bits.exp_golomb() + 1)
                moved.append((delta, bool(bits.read(1))))
    if len(moved) > _MOST_PICTURES:
        raise IndexError("no set of the standard's has as many")
    earlier, later = (each for each in moved if each[0] < 0), (each for each in moved if each[0] > 0)
    return [*sorted(earlier, reverse=True), *sorted(later)]

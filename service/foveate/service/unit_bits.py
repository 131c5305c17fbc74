"""The bits of a NAL unit, as the syntax tables of H.264 and H.265 read them."""

from __future__ import annotations

__all__ = ["UnitBits"]

_MOST_EXP_GOLOMB = 32


class UnitBits:
    """The bits of a NAL unit's payload. Reading beyond its end is an IndexError."""

    def __init__(self, payload: bytes) -> None:
        plain = payload.replace(b"\0\0\3", b"\0\0")  # emulation prevention: ITU-T H.264, 7.4.1.1
        self._value, self._left = int.from_bytes(plain), 8 * len(plain)

    def read(self, count: int) -> int:
        """The next bits as a number."""
        self.skip(count)
        return self._value >> self._left & (1 << count) - 1

    def skip(self, count: int) -> None:
        if count > self._left:
            raise IndexError("the NAL unit has ended")
        self._left -= count

    def exp_golomb(self) -> int:
        """The next number in Exp-Golomb code. Source: ITU-T H.264, 9.1."""
        zeros = 0
        while not self.read(1):
            zeros += 1
            if zeros > _MOST_EXP_GOLOMB:
                raise IndexError("no number of the standard's is as large")
        return (1 << zeros) - 1 + self.read(zeros)

    def skip_exp_golomb(self, count: int) -> None:
        for _ in range(count):
            self.exp_golomb()

    def signed_exp_golomb(self) -> int:
        """The same for numbers that may be negative. Source: ITU-T H.264, 9.1.1."""
        code = self.exp_golomb()
        return (code + 1) // 2 if code % 2 else -(code // 2)

    def counted(self, most: int) -> int:
        """How many of something follow. Raises: IndexError if they are more than the standard has."""
        count = self.exp_golomb()
        if count > most:
            raise IndexError("no stream of the standard's has as many")
        return count

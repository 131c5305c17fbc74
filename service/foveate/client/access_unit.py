"""Access units of H.264 and H.265 streams, as far as a sender must know them."""

from __future__ import annotations

from foveate.client.settings import PixelFormat

__all__ = ["VIDEO_FORMATS", "is_key_frame"]

VIDEO_FORMATS = frozenset({PixelFormat.H264, PixelFormat.H265})
_START_CODE = b"\0\0\1"


def is_key_frame(data: bytes, video: PixelFormat) -> bool:
    """Whether decoding can begin with an access unit in Annex B.

    Source: ITU-T H.264, table 7-1 and D.1.8 (a recovery point counts too); ITU-T H.265, table 7-1.
    """
    at = data.find(_START_CODE)
    while 0 <= at < len(data) - 4:
        header, following = data[at + 3], data[at + 4]
        if video == PixelFormat.H265:
            key = 16 <= header >> 1 & 0x3F <= 21
        else:
            key = header & 0x1F == 5 or (header & 0x1F == 6 and following == 6)
        if key:
            return True
        at = data.find(_START_CODE, at + 3)
    return False

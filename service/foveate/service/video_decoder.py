"""The units of one video stream in order: which can be decoded, and when those that follow one that cannot can again.

Who decodes them, a CPU or a device, makes no difference to that.
"""

from __future__ import annotations

from typing import Protocol

from foveate.engines.errors import BadFrame, EngineError, FrameError, LimitExceeded, NoRoomForPicture, Overloaded
from foveate.service.boundary import VideoUnit
from foveate.service.ffmpeg_video import FfmpegCodec
from foveate.service.frame import PixelFormat
from foveate.service.job import DecodedPicture
from foveate.service.video_units import unit_reader

__all__ = ["UnitCodec", "VideoDecoder"]

_UNTIL_KEY_FRAME = "nothing is decoded until the next key frame"


class UnitCodec(Protocol):
    """Decodes what it is given, and knows nothing of gaps. For one thread at a time."""

    def decode(self, unit: VideoUnit) -> DecodedPicture | None:
        """The picture of the next unit; None if no whole one came out of it.

        Raises: BadFrame, UnsupportedFormat, Overloaded, EngineError. NoRoomForPicture is of this picture alone.
        """


class VideoDecoder:
    """Decodes the access units of one stream, one after the other. For one thread at a time."""

    def __init__(self, kind: PixelFormat, max_pixels: int, codec: UnitCodec | None = None) -> None:
        """`codec` is FFmpeg on the CPU by default. Raises: UnsupportedFormat without PyAV or a decoder, then."""
        self._units = unit_reader(kind, max_pixels)
        self._codec = codec or FfmpegCodec(kind, max_pixels)
        self._broken = "the stream has not begun with a key frame"
        """Why the next unit has nothing to build on; empty: it has."""

    def decode(self, data: bytes, *, follows: bool = True) -> DecodedPicture:
        """The picture of the next unit; `follows` says whether none before it is missing.

        Raises: BadFrame if it gives none, LimitExceeded if it is too large, Overloaded where there is no room for it,
        EngineError if the device that decodes it failed. Where later units cannot be decoded either, the message says
        so, and they raise BadFrame.
        """
        broken = self._broken if follows else "at least one access unit before this one is missing"
        self._broken = "decoding an earlier access unit failed"  # whatever it may be that goes wrong
        waiting = ""
        try:
            unit = self._units.read(data)
            if not broken and not unit.follows:
                broken = "by the video's own numbers at least one access unit before this one is missing"
            if broken and not unit.key:
                waiting = broken
                raise BadFrame(waiting)
            asked = VideoUnit(data, self._units.declared, unit.key, bool(broken), unit.recovery, unit.lacks_reference)
            picture = self._codec.decode(asked)
        except NoRoomForPicture:
            self._broken = ""
            raise
        except (FrameError, LimitExceeded, Overloaded) as error:
            self._broken = waiting or f"an earlier access unit was refused: {error}"
            raise type(error)(f"{error}; {_UNTIL_KEY_FRAME}") from error
        except EngineError as error:
            raise type(error)(f"{error}; {_UNTIL_KEY_FRAME}") from error
        self._broken = ""
        if picture is None:
            raise BadFrame(
                "no whole picture came out of the access unit: it is a single field, which is not served, or the units "
                "since a recovery point have not renewed all of the picture yet"
            )
        return picture

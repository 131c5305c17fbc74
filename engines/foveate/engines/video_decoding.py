"""Video decoded on an engine's device: what a stream declares, and what is asked of whoever decodes it there.

Pictures stay on the device. An engine that can takes them from there into its own input (`Engine.place_encoded`);
for everything else they can be brought down, scaled.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from foveate.engines.contract import HeldPicture

__all__ = ["DEFAULT_COLOURS", "REORDERED", "StreamDecoder", "VideoColours", "VideoDecoders", "VideoFormat"]

REORDERED = (
    "the video reorders pictures (B-frames), so that a picture comes out only after later ones have come in: encode it "
    "without (x264 and x265: bframes=0)"
)
_BT601 = 6
_LUMA_SHARES = {1: (0.2126, 0.0722), 4: (0.30, 0.11), _BT601: (0.299, 0.114), 7: (0.212, 0.087), 9: (0.2627, 0.0593)}
"""What red and blue count for in the luma, by the number of the matrix. Source: ITU-T H.273, table 4."""


class VideoColours(NamedTuple):
    """How a video's luma and chroma are made of colours."""

    matrix: int = _BT601
    """By its number in ITU-T H.273, table 4; those that are not known count as BT.601's."""
    full_range: bool = False
    """Whether 8-bit samples use all values, or 16 to 235 (chroma: 240)."""

    @property
    def luma_shares(self) -> tuple[float, float]:
        """What red and blue count for in the luma."""
        return _LUMA_SHARES.get(self.matrix, _LUMA_SHARES[_BT601])

    @property
    def black(self) -> int:
        """The luma of black."""
        return 0 if self.full_range else 16

    def rgb_gains(self) -> tuple[float, float, float, float, float]:
        """Of luma less black and chroma less 128, in 8 bits: luma to all; V to red; U and V to green; U to blue.

        Source: ITU-T H.273, 8.3.
        """
        red, blue = self.luma_shares
        green = 1.0 - red - blue
        luma, chroma = (1.0, 1.0) if self.full_range else (255 / 219, 255 / 224)
        red_v, blue_u = 2 * chroma * (1 - red), 2 * chroma * (1 - blue)
        return luma, red_v, -blue_u * blue / green, -red_v * red / green, blue_u


DEFAULT_COLOURS = VideoColours()
"""Of a stream that says nothing about them."""


class VideoFormat(NamedTuple):
    """What a stream's parameter set declares of its pictures."""

    codec: str
    """``h264`` or ``h265``."""
    width: int
    """Pixels as they are coded: a picture may be cut to less."""
    height: int
    kept: int
    """Pictures that a decoder has to keep at a time."""
    plain: bool = True
    """Whether samples have 8 bits, and chroma half the width and height of luma."""
    colours: VideoColours = DEFAULT_COLOURS


class StreamDecoder(Protocol):
    """The decoder of one stream. For one thread at a time."""

    def decode(self, data: bytes, *, anew: bool) -> HeldPicture | None:
        """The picture of the next access unit, complete on the device; None if no whole one came out of it.

        `anew`: nothing builds on what came before. Raises: BadFrame if it cannot be decoded, NoRoomForPicture if it
        was and its picture cannot be kept, Overloaded if the device has no decoder for the stream after all,
        UnsupportedFormat if its pictures are of another kind than it declared, DeviceError.
        """

    def close(self) -> None:
        """Let go of it; its pictures stay valid. Idempotent."""


class VideoDecoders(ABC):
    """Opens decoders on one device. Thread-safe."""

    @abstractmethod
    def refusal(self, codec: str) -> str:
        """Why no stream of ``h264`` or ``h265`` is decoded there; "" where they are."""

    @abstractmethod
    def open_stream(self, declared: VideoFormat) -> StreamDecoder:
        """A decoder for a stream.

        Raises: UnsupportedFormat for what the device does not decode, Overloaded where it has no memory left for one
        more, EngineUnavailable, DeviceError.
        """

    @abstractmethod
    def pixels(self, picture: HeldPicture, size: tuple[int, int]) -> NDArray[np.uint8]:
        """A picture brought down from the device, resized.

        Shapes: (height, width, 3) uint8, RGB. Units: size is (width, height) in pixels. Raises: DeviceError.
        """

    @abstractmethod
    def close(self) -> None:
        """Release the device; decoders and pictures must not be used any more. Idempotent."""

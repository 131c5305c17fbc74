"""Access units as cameras send them, made by the real encoders."""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction
from typing import Any

import av
import cv2
import numpy as np
from av.video.codeccontext import VideoCodecContext
from numpy.typing import NDArray

from foveate.service.frame import PixelFormat

__all__ = ["access_units", "grey_units", "moving_pictures"]

Pixels = NDArray[np.uint8]

_ENCODERS = {PixelFormat.H264: ("libx264", "x264-params"), PixelFormat.H265: ("libx265", "x265-params")}


def moving_pictures(count: int, width: int = 192, height: int = 128, seed: int = 0) -> list[Pixels]:
    """A textured background that drifts behind some bright boxes. Shapes: each (height, width, 3) uint8, RGB."""
    random = np.random.default_rng(seed)
    coarse = random.integers(0, 256, (height // 8, width // 4, 3)).astype(np.uint8)
    scene = cv2.resize(coarse, (2 * width, height), interpolation=cv2.INTER_CUBIC)
    pictures = []
    for index in range(count):
        picture = np.ascontiguousarray(scene[:, 2 * index % width :][:, :width])
        for box in range(3):
            x, y = (20 + 37 * box + 3 * index) % width, (10 + 35 * box) % height
            cv2.rectangle(picture, (x, y), (x + 20, y + 16), (250, 60 * box, 30), -1)
        pictures.append(picture.astype(np.uint8, copy=False))
    return pictures


def access_units(
    pictures: Sequence[Pixels],
    kind: PixelFormat,
    *,
    key_every: int = 10,
    pixel_format: str = "yuv420p",
    colours: tuple[int, int] | None = None,
    **settings: Any,
) -> list[bytes]:
    """Pictures encoded one unit each in Annex B, in decoding order.

    `settings` are those of the encoder itself; it reorders nothing unless they say `bframes`. `colours` are the
    numbers of the matrix and of the range that the stream declares.
    """
    encoder, settings_name = _ENCODERS[kind]
    codec = av.CodecContext.create(encoder, "w")
    assert isinstance(codec, VideoCodecContext)
    codec.height, codec.width = pictures[0].shape[:2]
    codec.pix_fmt, codec.time_base, codec.framerate = pixel_format, Fraction(1, 25), Fraction(25)
    if colours:
        codec.colorspace, codec.color_range = colours
    quiet = {"log-level": "none"} if kind is PixelFormat.H265 else {}
    wanted = {"bframes": 0, "keyint": key_every, "min-keyint": key_every, "scenecut": 0, "threads": 1} | settings
    if kind is PixelFormat.H265:
        del wanted["threads"]
        wanted |= {"pools": "none", "frame-threads": 1}
    codec.options = {settings_name: ":".join(f"{name}={value}" for name, value in (quiet | wanted).items())}
    units = []
    for index, picture in enumerate(pictures):
        frame = av.VideoFrame.from_ndarray(picture, format="rgb24")
        if colours:
            frame = frame.reformat(format=pixel_format, dst_colorspace=colours[0], dst_color_range=colours[1])
        frame.pts, frame.time_base = index, codec.time_base
        units += [bytes(packet) for packet in codec.encode(frame)]
    return units + [bytes(packet) for packet in codec.encode(None)]


def grey_units(greys: Sequence[int], kind: PixelFormat, *, key_every: int = 10, **settings: Any) -> list[bytes]:
    """Pictures in one grey each, which `support.service`'s fake detector tells apart."""
    pictures = [np.full((48, 64, 3), grey, np.uint8) for grey in greys]
    return access_units(pictures, kind, key_every=key_every, **settings)

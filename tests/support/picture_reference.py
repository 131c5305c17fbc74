"""What the kernels of pictures.cu compute, in NumPy: the same steps in float32, so that the answers are the same."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from foveate.engines.cuda import Rectangle
from foveate.engines.video_decoding import VideoColours

__all__ = ["nv12_as_rgb", "place_picture", "rgb_of_nv12"]

Pixels = NDArray[np.uint8]
Floats = NDArray[np.float32]


def nv12_as_rgb(luma: Pixels, chroma: Pixels, colours: VideoColours) -> Floats:
    """Shapes: luma (H, W), chroma (H / 2, W), U and V in turn; result (H, W, 3), 0..255."""
    return rgb_of_nv12(luma, chroma, colours.black, colours.rgb_gains())


def rgb_of_nv12(luma: Pixels, chroma: Pixels, black: int, gains: tuple[float, float, float, float, float]) -> Floats:
    """The same, by what the kernels are told of its colours."""
    gain, red_v, green_u, green_v, blue_u = (np.float32(each) for each in gains)
    height, width = luma.shape
    pairs = chroma.reshape(chroma.shape[0], -1, 2).repeat(2, axis=0).repeat(2, axis=1)[:height, :width]
    u, v = (pairs[..., index].astype(np.float32) - np.float32(128) for index in (0, 1))
    grey = gain * np.maximum(luma.astype(np.float32) - np.float32(black), np.float32(0))
    channels = (grey + red_v * v, grey + green_u * u + green_v * v, grey + blue_u * u)
    rgb: Floats = np.clip(np.stack(channels, axis=-1), np.float32(0), np.float32(255))
    return rgb


def place_picture(
    picture: Pixels | Floats, source: Rectangle, row_size: tuple[int, int], target: Rectangle, pad_value: int
) -> Pixels:
    """Shapes: picture (H, W, 3) RGB; result (row_size[1], row_size[0], 3)."""
    cut = picture[source.y : source.y + source.height, source.x : source.x + source.width].astype(np.float32)
    shrinks = source.width >= 2 * target.width and source.height >= 2 * target.height
    resized = (_area_means if shrinks else _bilinear)(cut, target)
    row = np.full((row_size[1], row_size[0], 3), pad_value, np.uint8)
    part = row[target.y : target.y + target.height, target.x : target.x + target.width]
    part[...] = np.clip(resized, np.float32(0), np.float32(255)) + np.float32(0.5)
    return row


def _bilinear(cut: Floats, target: Rectangle) -> Floats:
    left, right, to_right = _neighbours(cut.shape[1], target.width)
    top, bottom, to_bottom = _neighbours(cut.shape[0], target.height)
    across: Floats = to_right[None, :, None]
    down: Floats = to_bottom[:, None, None]
    one = np.float32(1)
    mixed: Floats = (one - across) * (one - down) * cut[top][:, left]
    mixed += across * (one - down) * cut[top][:, right]
    mixed += (one - across) * down * cut[bottom][:, left]
    mixed += across * down * cut[bottom][:, right]
    return mixed


def _neighbours(length: int, count: int) -> tuple[NDArray[np.intp], NDArray[np.intp], Floats]:
    step = np.float32(length) / np.float32(count)
    at = (np.arange(count, dtype=np.float32) + np.float32(0.5)) * step - np.float32(0.5)
    at = np.clip(at, np.float32(0), np.float32(length - 1)).astype(np.float32)
    first = at.astype(np.intp)
    return first, np.minimum(first + 1, length - 1), at - first.astype(np.float32)


def _area_means(cut: Floats, target: Rectangle) -> Floats:
    across = _covered(cut.shape[1], target.width)
    down = _covered(cut.shape[0], target.height)
    total: NDArray[np.float64] = np.einsum("yh,hwc,xw->yxc", down, cut.astype(np.float64), across, optimize=True)
    weights = down.sum(axis=1)[:, None] * across.sum(axis=1)[None, :]
    means: Floats = (total / weights[..., None]).astype(np.float32)
    return means


def _covered(length: int, count: int) -> NDArray[np.float64]:
    """How much of each source pixel each target pixel covers, along one side. Shapes: (count, length)."""
    step = np.float32(length) / np.float32(count)
    start = np.arange(count, dtype=np.float32) * step
    end = np.minimum(start + step, np.float32(length))
    pixel = np.arange(length, dtype=np.float32)
    spans = np.minimum(end[:, None], pixel + np.float32(1)) - np.maximum(start[:, None], pixel)
    covered: NDArray[np.float64] = np.maximum(spans, 0).astype(np.float64)
    return covered

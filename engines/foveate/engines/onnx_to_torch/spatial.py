"""Operators over pictures: convolution, pooling, resizing, sampling."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812  # its usual name
from torch import Tensor

from foveate.engines.onnx_to_torch.node import Computation, Lowerings, Node

__all__ = ["SPATIAL"]

SPATIAL = Lowerings()

_CONVOLUTIONS: dict[int, Callable[..., Tensor]] = {1: F.conv1d, 2: F.conv2d, 3: F.conv3d}
_TRANSPOSED: dict[int, Callable[..., Tensor]] = {1: F.conv_transpose1d, 2: F.conv_transpose2d, 3: F.conv_transpose3d}
_MAX_POOLS: dict[int, Callable[..., Tensor]] = {1: F.max_pool1d, 2: F.max_pool2d, 3: F.max_pool3d}
_AVERAGE_POOLS: dict[int, Callable[..., Tensor]] = {1: F.avg_pool1d, 2: F.avg_pool2d, 3: F.avg_pool3d}


def _per_dimension(table: dict[int, Callable[..., Tensor]], node: Node) -> Callable[..., Tensor]:
    dims = node.rank(0) - 2
    if dims not in table:
        raise node.refuse(f"works on {dims} dimensions, not on 1 to 3")
    return table[dims]


def _padding(node: Node, kernel: Sequence[int], strides: Sequence[int], dilations: Sequence[int]) -> list[int]:
    """What is added to each side, all beginnings and then all ends."""
    dims = len(kernel)
    how = node.attribute("auto_pad", "NOTSET")
    if how == "NOTSET":
        return list(node.attribute("pads", [0] * 2 * dims))
    if how == "VALID":
        return [0] * 2 * dims
    begins, ends = [], []
    sizes = node.shape(0)[2:]
    for size, window, stride, dilation in zip(sizes, kernel, strides, dilations, strict=True):
        reach = (window - 1) * dilation + 1
        total = max(0, (math.ceil(size / stride) - 1) * stride + reach - size)
        small, large = total // 2, total - total // 2
        begins.append(large if how == "SAME_LOWER" else small)
        ends.append(small if how == "SAME_LOWER" else large)
    return begins + ends


def _widths(pads: Sequence[int]) -> list[int]:
    """ONNX's order of paddings in torch's: the last axis first, begin and end together."""
    dims = len(pads) // 2
    return [width for axis in reversed(range(dims)) for width in (pads[axis], pads[axis + dims])]


def _symmetric(pads: Sequence[int]) -> bool:
    dims = len(pads) // 2
    return list(pads[:dims]) == list(pads[dims:])


def _window(node: Node, kernel: Sequence[int]) -> tuple[list[int], list[int]]:
    dims = len(kernel)
    return list(node.attribute("strides", [1] * dims)), list(node.attribute("dilations", [1] * dims))


@SPATIAL.of("Conv")
def _conv(node: Node) -> Computation:
    convolve = _per_dimension(_CONVOLUTIONS, node)
    kernel = node.shape(1)[2:]
    strides, dilations = _window(node, kernel)
    pads, groups = _padding(node, kernel, strides, dilations), node.attribute("group", 1)
    if _symmetric(pads):
        sides = pads[: len(kernel)]
        return lambda x, weight, bias=None: convolve(x, weight, bias, strides, sides, dilations, groups)
    widths = _widths(pads)
    return lambda x, weight, bias=None: convolve(F.pad(x, widths), weight, bias, strides, 0, dilations, groups)


@SPATIAL.of("ConvTranspose")
def _conv_transpose(node: Node) -> Computation:
    convolve = _per_dimension(_TRANSPOSED, node)
    kernel = node.shape(1)[2:]
    strides, dilations = _window(node, kernel)
    if node.attribute("output_shape") is not None or node.attribute("auto_pad", "NOTSET") not in ("NOTSET", "VALID"):
        raise node.refuse("finds its padding from a size of its output")
    dims, groups = len(kernel), node.attribute("group", 1)
    pads = _padding(node, kernel, strides, dilations)
    extra = node.attribute("output_padding", [0] * dims)
    # Computed without padding; what the padding takes away is cut off, what the output gains is part of the cut.
    sizes = node.shape(0)[2:]
    ends = [
        (size - 1) * stride + dilation * (window - 1) + 1 + more - end
        for size, stride, dilation, window, more, end in zip(
            sizes, strides, dilations, kernel, extra, pads[dims:], strict=True
        )
    ]
    if _symmetric(pads) and all(more < stride for more, stride in zip(extra, strides, strict=True)):
        sides = pads[:dims]
        return lambda x, weight, bias=None: convolve(x, weight, bias, strides, sides, extra, groups, dilations)
    if any(more > end for more, end in zip(extra, pads[dims:], strict=True)):
        raise node.refuse(f"adds {extra} to its output, more than its padding {pads} takes away")
    cut = (slice(None), slice(None), *map(slice, pads[:dims], ends))
    return lambda x, weight, bias=None: convolve(x, weight, bias, strides, 0, 0, groups, dilations)[cut]


@SPATIAL.of("MaxPool")
def _max_pool(node: Node) -> Computation:
    if node.outputs > 1:
        raise node.refuse("wants the places of the maxima")
    pool = _per_dimension(_MAX_POOLS, node)
    kernel = node.attribute("kernel_shape")
    strides, dilations = _window(node, kernel)
    pads, ceil = _padding(node, kernel, strides, dilations), bool(node.attribute("ceil_mode", 0))
    sides = pads[: len(kernel)]
    if _symmetric(pads) and all(2 * side <= window for side, window in zip(sides, kernel, strict=True)):
        return lambda x: pool(x, kernel, strides, sides, dilations, ceil)
    if ceil:
        raise node.refuse(f"rounds its size up with the uneven padding {pads}")
    widths, lowest = _widths(pads), _lowest(node.input(0).dtype)
    return lambda x: pool(F.pad(x, widths, value=lowest), kernel, strides, 0, dilations)


def _lowest(dtype: torch.dtype) -> float:
    return -math.inf if dtype.is_floating_point else torch.iinfo(dtype).min


@SPATIAL.of("AveragePool")
def _average_pool(node: Node) -> Computation:
    pool = _per_dimension(_AVERAGE_POOLS, node)
    kernel = node.attribute("kernel_shape")
    strides, dilations = _window(node, kernel)
    if any(dilation != 1 for dilation in dilations):
        raise node.refuse(f"averages over gaps (dilations {dilations})")
    pads, ceil = _padding(node, kernel, strides, dilations), bool(node.attribute("ceil_mode", 0))
    whole = bool(node.attribute("count_include_pad", 0))
    sides = pads[: len(kernel)]
    if _symmetric(pads) and all(2 * side <= window for side, window in zip(sides, kernel, strict=True)):
        return lambda x: pool(x, kernel, strides, sides, ceil, whole)
    if ceil:
        raise node.refuse(f"rounds its size up with the uneven padding {pads}")
    widths = _widths(pads)
    if whole:
        return lambda x: pool(F.pad(x, widths), kernel, strides)
    node.keep(1 / pool(F.pad(torch.ones(1, 1, *node.shape(0)[2:]), widths), kernel, strides))
    return lambda x, share: pool(F.pad(x, widths), kernel, strides) * share.to(x.dtype)


@SPATIAL.of("GlobalAveragePool")
def _global_average_pool(node: Node) -> Computation:
    axes = tuple(range(2, node.rank(0)))
    return lambda x: x.mean(axes, keepdim=True)


@SPATIAL.of("GlobalMaxPool")
def _global_max_pool(node: Node) -> Computation:
    axes = tuple(range(2, node.rank(0)))
    return lambda x: x.amax(axes, keepdim=True)


@SPATIAL.of("Resize")
def _resize(node: Node) -> Computation:
    sizes = _resized(node)
    mode = node.attribute("mode", "nearest")
    if mode == "nearest":
        return _nearest(node, sizes)
    transform = node.attribute("coordinate_transformation_mode", "half_pixel")
    before = node.shape(0)
    known = {"half_pixel": False, "pytorch_half_pixel": False, "align_corners": True}
    single = transform == "pytorch_half_pixel" and any(
        size == 1 and old > 1 for size, old in zip(sizes, before, strict=True)
    )
    flat = node.rank(0) == 4 and sizes[:2] == list(before[:2])
    plain = not node.attribute("antialias", 0) and not node.attribute("exclude_outside", 0)
    own_cubic = mode == "cubic" and node.attribute("cubic_coeff_a", -0.75) != -0.75
    if transform not in known or not flat or not plain or single or own_cubic or mode not in ("linear", "cubic"):
        raise node.refuse(
            f"resizes {list(before)} to {sizes} by {mode}, {transform}: of these only pictures' two "
            "last axes by linear or cubic with half_pixel or align_corners, without antialias"
        )
    how = {"linear": "bilinear", "cubic": "bicubic"}[mode]
    corners, size = known[transform], sizes[2:]
    return lambda x, *_: F.interpolate(x, size, mode=how, align_corners=corners)


def _resized(node: Node) -> list[int]:
    shape, axes = node.shape(0), node.attribute("axes")
    places = list(range(len(shape))) if axes is None else [node.axis(axis) for axis in axes]
    sizes = list(shape)
    if node.attribute("keep_aspect_ratio_policy", "stretch") != "stretch":
        raise node.refuse("keeps the aspect ratio while it resizes")
    if node.attribute("coordinate_transformation_mode") == "tf_crop_and_resize":
        raise node.refuse("crops while it resizes")
    node.read_beforehand.add(1)  # the region of a crop
    asked = node.ints(3)
    if asked is not None:
        for axis, size in zip(places, asked, strict=True):
            sizes[axis] = size
        return sizes
    for axis, scale in zip(places, node.value(2).tolist(), strict=True):
        sizes[axis] = math.floor(shape[axis] * scale)
        if sizes[axis] != shape[axis] * scale and node.attribute("mode") != "nearest":
            raise node.refuse(f"scales {shape[axis]} by {scale}, which is no whole number of pixels")
    return sizes


def _nearest(node: Node, sizes: Sequence[int]) -> Computation:
    """Nearest neighbours by index: ONNX has eight ways to find them and torch two."""
    shape = node.shape(0)
    scales = node.value(2).tolist() if node.has(2) and node.input(2).numel() else None
    axes = node.attribute("axes")
    places = list(range(len(shape))) if axes is None else [node.axis(axis) for axis in axes]
    by_axis = {} if scales is None else dict(zip(places, scales, strict=True))
    changed = [axis for axis, size in enumerate(sizes) if size != shape[axis]]
    indices = [
        _nearest_places(node, shape[axis], sizes[axis], by_axis.get(axis, sizes[axis] / shape[axis]))
        for axis in changed
    ]
    doubled = all(
        torch.equal(index, torch.arange(sizes[axis]) * shape[axis] // sizes[axis])
        for axis, index in zip(changed, indices, strict=True)
    )
    if doubled and node.rank(0) == 4 and set(changed) <= {2, 3}:
        size = list(sizes[2:])
        return lambda x, *_: F.interpolate(x, size, mode="nearest")
    for index in indices:
        node.keep(index)

    def pick(x: Tensor, *rest: Any) -> Tensor:
        for axis, index in zip(changed, rest[len(rest) - len(changed) :], strict=True):
            x = x.index_select(axis, index)
        return x

    return pick


def _nearest_places(node: Node, before: int, after: int, scale: float) -> Tensor:
    transform = node.attribute("coordinate_transformation_mode", "half_pixel")
    places = torch.arange(after, dtype=torch.float64)
    if transform == "asymmetric":
        source = places / scale
    elif transform == "align_corners":
        source = places * (before - 1) / max(1, after - 1)
    elif transform == "half_pixel" or (transform == "pytorch_half_pixel" and after > 1):
        source = (places + 0.5) / scale - 0.5
    elif transform == "pytorch_half_pixel":
        source = torch.zeros_like(places)
    else:
        raise node.refuse(f"finds its pixels by {transform}")
    rounding = node.attribute("nearest_mode", "round_prefer_floor")
    rounded = {
        "round_prefer_floor": torch.ceil(source - 0.5),
        "round_prefer_ceil": torch.floor(source + 0.5),
        "floor": torch.floor(source),
        "ceil": torch.ceil(source),
    }[rounding]
    return rounded.clamp(0, before - 1).to(torch.int64)


@SPATIAL.of("GridSample")
def _grid_sample(node: Node) -> Computation:
    mode = node.attribute("mode", "bilinear")
    how = {"linear": "bilinear", "cubic": "bicubic"}.get(mode, mode)
    padding, corners = node.attribute("padding_mode", "zeros"), bool(node.attribute("align_corners", 0))
    return lambda x, grid: F.grid_sample(x, grid, mode=how, padding_mode=padding, align_corners=corners)

"""Operators that move values and compute none: reshaping, slicing, gathering, joining, padding."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812  # its usual name
from torch import Tensor

from foveate.engines.onnx_to_torch.node import Computation, Lowerings, Node, tensor_from_proto

__all__ = ["SHAPING"]

SHAPING = Lowerings()


@SHAPING.of("Constant")
def _constant(node: Node) -> Computation:
    for name, dtype in (("value_float", torch.float32), ("value_floats", torch.float32)):
        if (value := node.attribute(name)) is not None:
            return _always(torch.tensor(value, dtype=dtype))
    for name in ("value_int", "value_ints"):
        if (value := node.attribute(name)) is not None:
            return _always(torch.tensor(value, dtype=torch.int64))
    if (proto := node.attribute("value")) is None:
        raise node.refuse("is a constant of text or a sparse tensor")
    return _always(tensor_from_proto(proto))


@SHAPING.of("Shape")
def _shape(node: Node) -> Computation:
    node.read_beforehand.add(0)
    sizes = node.shape(0)[node.attribute("start", 0) : node.attribute("end")]
    return _always(torch.tensor(sizes, dtype=torch.int64))


@SHAPING.of("Size")
def _size(node: Node) -> Computation:
    node.read_beforehand.add(0)
    return _always(torch.tensor(math.prod(node.shape(0)), dtype=torch.int64))


def _always(tensor: Tensor) -> Computation:
    return lambda *_: tensor


@SHAPING.of("ConstantOfShape")
def _constant_of_shape(node: Node) -> Computation:
    proto = node.attribute("value")
    value = torch.zeros(1) if proto is None else tensor_from_proto(proto)
    node.keep(value.reshape(()))
    shape = node.ints(0) or []
    return lambda _, value: value.expand(shape)


@SHAPING.of("Reshape")
def _reshape(node: Node) -> Computation:
    asked, had = node.ints(1) or [], node.shape(0)
    if not node.attribute("allowzero", 0):
        asked = [had[place] if size == 0 else size for place, size in enumerate(asked)]
    return lambda tensor, _: tensor.reshape(asked)


@SHAPING.of("Flatten")
def _flatten(node: Node) -> Computation:
    axis, shape = node.attribute("axis", 1), node.shape(0)
    axis = axis + len(shape) if axis < 0 else axis
    sizes = (math.prod(shape[:axis]), math.prod(shape[axis:]))
    return lambda tensor: tensor.reshape(sizes)


@SHAPING.of("Transpose")
def _transpose(node: Node) -> Computation:
    order = node.attribute("perm", list(reversed(range(node.rank(0)))))
    return lambda tensor: tensor.permute(*order)


@SHAPING.of("Squeeze")
def _squeeze(node: Node) -> Computation:
    axes, shape = node.ints(1), node.shape(0)
    gone = {place for place, size in enumerate(shape) if size == 1} if axes is None else {*map(node.axis, axes)}
    sizes = [size for place, size in enumerate(shape) if place not in gone]
    return lambda tensor, *_: tensor.reshape(sizes)


@SHAPING.of("Unsqueeze")
def _unsqueeze(node: Node) -> Computation:
    axes = node.ints(1) or []
    rank = node.rank(0) + len(axes)
    places, sizes = {node.axis(axis, rank) for axis in axes}, iter(node.shape(0))
    shape = [1 if place in places else next(sizes) for place in range(rank)]
    return lambda tensor, _: tensor.reshape(shape)


@SHAPING.of("Expand")
def _expand(node: Node) -> Computation:
    shape = torch.broadcast_shapes(node.shape(0), tuple(node.ints(1) or ()))
    return lambda tensor, _: tensor.expand(shape)


@SHAPING.of("Tile")
def _tile(node: Node) -> Computation:
    repeats = node.ints(1) or []
    return lambda tensor, _: tensor.repeat(repeats)


@SHAPING.of("Concat")
def _concat(node: Node) -> Computation:
    axis = node.attribute("axis")
    return lambda *tensors: torch.cat(tensors, axis)


@SHAPING.of("Split")
def _split(node: Node) -> Computation:
    axis = node.axis(node.attribute("axis", 0))
    sizes, whole = node.ints(1), node.shape(0)[axis]
    if sizes is None:
        part = math.ceil(whole / node.attribute("num_outputs", node.outputs))
        sizes = [min(part, whole - start) for start in range(0, whole, part)]
    return lambda tensor, *_: tensor.split(sizes, axis)


@SHAPING.of("Slice")
def _slice(node: Node) -> Computation:
    starts, ends = node.ints(1) or [], node.ints(2) or []
    axes, steps = node.ints(3), node.ints(4)
    axes = list(range(len(starts))) if axes is None else [node.axis(axis) for axis in axes]
    steps = [1] * len(starts) if steps is None else steps
    cuts: list[slice] = [slice(None)] * node.rank(0)
    turned = []
    for axis, start, end, step in zip(axes, starts, ends, steps, strict=True):
        picked = range(*slice(start, _end(end, step), step).indices(node.shape(0)[axis]))
        if step < 0:  # torch takes no negative steps: the same entries forwards, then turned around
            turned.append(axis)
            picked = picked[::-1]
        cuts[axis] = slice(picked.start, picked.stop, picked.step) if picked else slice(0, 0)
    chosen = tuple(cuts)
    return lambda tensor, *_: tensor[chosen].flip(turned) if turned else tensor[chosen]


def _end(end: int, step: int) -> int | None:
    """ONNX says "through the first entry" with a very negative end; Python says it with none."""
    return None if step < 0 and end <= -(2**31) + 1 else end


@SHAPING.of("Gather")
def _gather(node: Node) -> Computation:
    axis = node.axis(node.attribute("axis", 0))
    length, shape = node.shape(0)[axis], node.shape(0)
    result = (*shape[:axis], *node.shape(1), *shape[axis + 1 :])
    if not node.input(1).is_meta:
        indices = [index % length for index in node.ints(1) or []]
        if run := _run(indices):
            return lambda tensor, _: tensor.narrow(axis, *run).reshape(result)
        node.keep(torch.tensor(indices, dtype=torch.int64))
        return lambda tensor, _, places: tensor.index_select(axis, places).reshape(result)
    return lambda tensor, indices: tensor.index_select(axis, _positive(indices, length).flatten()).reshape(result)


def _run(indices: Sequence[int]) -> tuple[int, int] | None:
    """Where neighbouring entries begin and how many they are; None for others."""
    if indices and list(indices) == list(range(indices[0], indices[0] + len(indices))):
        return indices[0], len(indices)
    return None


def _positive(indices: Tensor, length: int) -> Tensor:
    indices = indices.to(torch.int64)
    return torch.where(indices < 0, indices + length, indices)


@SHAPING.of("GatherElements")
def _gather_elements(node: Node) -> Computation:
    axis = node.axis(node.attribute("axis", 0))
    length = node.shape(0)[axis]
    return lambda tensor, indices: torch.gather(tensor, axis, _positive(indices, length))


@SHAPING.of("GatherND")
def _gather_nd(node: Node) -> Computation:
    batch_dims, shape, where = node.attribute("batch_dims", 0), node.shape(0), node.shape(1)
    depth = where[-1]
    lead = shape[:batch_dims]
    picked, rest = shape[batch_dims : batch_dims + depth], shape[batch_dims + depth :]
    result = (*where[:-1], *rest)
    strides = [math.prod(picked[place + 1 :]) for place in range(depth)]
    rows, inner = math.prod(lead), math.prod(picked)
    node.keep(torch.arange(rows) * inner)

    def gather(tensor: Tensor, indices: Tensor, starts: Tensor) -> Tensor:
        places = sum(_positive(indices[..., place], picked[place]) * strides[place] for place in range(depth))
        flat = (torch.as_tensor(places).reshape(rows, -1) + starts[:, None]).flatten()
        return tensor.reshape(rows * inner, *rest).index_select(0, flat).reshape(result)

    return gather


@SHAPING.of("ScatterElements")
def _scatter_elements(node: Node) -> Computation:
    axis, reduction = node.axis(node.attribute("axis", 0)), node.attribute("reduction", "none")
    length = node.shape(0)[axis]
    if reduction == "none":
        return lambda tensor, indices, updates: tensor.scatter(axis, _positive(indices, length), updates)
    how = {"add": "sum", "mul": "prod", "max": "amax", "min": "amin"}[reduction]
    return lambda tensor, indices, updates: tensor.scatter_reduce(axis, _positive(indices, length), updates, how)


@SHAPING.of("ScatterND")
def _scatter_nd(node: Node) -> Computation:
    if node.attribute("reduction", "none") != "none":
        raise node.refuse("scatters with a reduction")
    shape, depth = node.shape(0), node.shape(1)[-1]
    picked, rest = shape[:depth], shape[depth:]
    strides = [math.prod(picked[place + 1 :]) for place in range(depth)]

    def scatter(tensor: Tensor, indices: Tensor, updates: Tensor) -> Tensor:
        places = sum(_positive(indices[..., place], picked[place]) * strides[place] for place in range(depth))
        rows = tensor.reshape(-1, *rest)
        return rows.index_copy(0, torch.as_tensor(places).flatten(), updates.reshape(-1, *rest)).reshape(shape)

    return scatter


@SHAPING.of("Range")
def _range(node: Node) -> Computation:
    dtype = node.input(0).dtype
    start, limit, delta = (node.number(index) for index in range(3))
    return _always(torch.arange(start, limit, delta, dtype=dtype))


@SHAPING.of("Trilu")
def _trilu(node: Node) -> Computation:
    diagonal = node.number(1) or 0
    cut = torch.triu if node.attribute("upper", 1) else torch.tril
    return lambda tensor, *_: cut(tensor, diagonal)


@SHAPING.of("DepthToSpace")
def _depth_to_space(node: Node) -> Computation:
    block = node.attribute("blocksize")
    batch, channels, height, width = node.shape(0)
    deep = channels // block**2
    if node.attribute("mode", "DCR") == "CRD":
        return lambda tensor: F.pixel_shuffle(tensor, block)
    return lambda tensor: (
        tensor.reshape(batch, block, block, deep, height, width)
        .permute(0, 3, 4, 1, 5, 2)
        .reshape(batch, deep, height * block, width * block)
    )


@SHAPING.of("SpaceToDepth")
def _space_to_depth(node: Node) -> Computation:
    block = node.attribute("blocksize")
    batch, channels, height, width = node.shape(0)
    high, wide = height // block, width // block
    return lambda tensor: (
        tensor.reshape(batch, channels, high, block, wide, block)
        .permute(0, 3, 5, 1, 2, 4)
        .reshape(batch, channels * block**2, high, wide)
    )


@SHAPING.of("Pad")
def _pad(node: Node) -> Computation:
    rank = node.rank(0)
    axes = node.ints(3)
    places = list(range(rank)) if axes is None else [node.axis(axis) for axis in axes]
    amounts, mode = node.ints(1) or [], node.attribute("mode", "constant")
    before, after = [0] * rank, [0] * rank
    for number, axis in enumerate(places):
        before[axis], after[axis] = amounts[number], amounts[number + len(places)]
    value = node.number(2) or 0
    if mode == "constant":
        widths = [width for axis in reversed(range(rank)) for width in (before[axis], after[axis])]
        return lambda tensor, *_: F.pad(tensor, widths, value=value)
    return _padded_by_index(node, before, after, mode)


def _padded_by_index(node: Node, before: Sequence[int], after: Sequence[int], mode: str) -> Computation:
    """Entries of the tensor itself around it, along any of its axes: torch's own pads the last ones only."""
    if mode not in ("edge", "reflect", "wrap"):
        raise node.refuse(f"pads by {mode}")
    touched = [axis for axis in range(node.rank(0)) if before[axis] or after[axis]]
    for axis in touched:
        length = node.shape(0)[axis]
        places = torch.arange(-before[axis], length + after[axis])
        if mode == "edge":
            places = places.clamp(0, length - 1)
        elif mode == "wrap":
            places = places % length
        else:
            period = max(1, 2 * (length - 1))
            places = (places % period).minimum(-places % period)
        node.keep(places)

    def pad(tensor: Tensor, *rest: Any) -> Tensor:
        for axis, places in zip(touched, rest[len(rest) - len(touched) :], strict=True):
            tensor = tensor.index_select(axis, places)
        return tensor

    return pad

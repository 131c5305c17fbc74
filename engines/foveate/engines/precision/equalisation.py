"""Channels of one tensor brought to similar ranges, so that one int8 scale serves them all.

A channel that a convolution makes s times larger, and that the next ones read with weights s times smaller, changes
nothing in float, also through a ReLU. In int8 a channel that used a small part of the tensor's range now uses more of
it. Nothing is added to the graph. Where the reader is depthwise its weights have a scale per channel anyway and
the channel is brought up in full; otherwise what the tensor gains is weighed against what the weights lose.

Source: Nagel et al., Data-Free Quantization through Weight Equalization and Bias Correction (2019), section 4.1, with
ranges of real activations as in Xiao et al., SmoothQuant (2023).
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper, numpy_helper

from foveate.engines.precision.session import Feed, outputs_of, run_each

__all__ = ["equalized"]

_Floats = NDArray[np.float32]
_WEIGHT, _BIAS = 1, 2
_LARGEST_SCALE = 16.0
"""Channels that are nearly dead stay small: their largest value may be larger in the next picture."""


@dataclass(frozen=True, slots=True)
class _Link:
    """A tensor between a convolution and those that alone read it, perhaps behind a ReLU."""

    tensor: str
    writer: onnx.NodeProto
    readers: tuple[onnx.NodeProto, ...]


def equalized(network: onnx.ModelProto, feeds: Sequence[Feed]) -> onnx.ModelProto:
    """A network that computes the same with channels of more equal ranges; the argument is not modified."""
    result = onnx.ModelProto()
    result.CopyFrom(network)
    weights = {each.name: each for each in result.graph.initializer}
    links = _links(result.graph, weights)
    if not links:
        return result
    values = {name: numpy_helper.to_array(weights[name]).copy() for name in _own_weights(result.graph, weights)}
    for link, largest in zip(links, _channel_maxima(result, links, feeds), strict=True):
        _scale(link, largest, values)
    for name, value in values.items():
        weights[name].CopyFrom(numpy_helper.from_array(value, name))
    return result


def _links(graph: onnx.GraphProto, weights: Mapping[str, onnx.TensorProto]) -> list[_Link]:
    readers: dict[str, list[onnx.NodeProto]] = defaultdict(list)
    for node in graph.node:
        for name in node.input:
            readers[name].append(node)
    own, outputs = _own_weights(graph, weights), {each.name for each in graph.output}
    links = []
    for writer in graph.node:
        if writer.op_type != "Conv" or not own.issuperset(writer.input[_WEIGHT:]):
            continue
        tensor = writer.output[0]
        if tensor not in outputs and [node.op_type for node in readers[tensor]] == ["Relu"]:
            tensor = readers[tensor][0].output[0]
        if tensor in outputs or not readers[tensor]:
            continue
        if all(_reads_channels(node, tensor, own, weights) for node in readers[tensor]):
            links.append(_Link(tensor, writer, tuple(readers[tensor])))
    return links


def _own_weights(graph: onnx.GraphProto, weights: Mapping[str, onnx.TensorProto]) -> set[str]:
    """Float constants that one node alone reads, so that they can be changed for it."""
    counts = Counter(name for node in graph.node for name in node.input)
    return {name for name, each in weights.items() if each.data_type == onnx.TensorProto.FLOAT and counts[name] == 1}


def _reads_channels(node: onnx.NodeProto, tensor: str, own: set[str], weights: Mapping[str, onnx.TensorProto]) -> bool:
    """Whether the node is a convolution, dense or depthwise, of the tensor with weights of its own."""
    if node.op_type != "Conv" or node.input[0] != tensor or node.input[_WEIGHT] not in own:
        return False
    groups = next((each.i for each in node.attribute if each.name == "group"), 1)
    return groups == 1 or _depthwise(list(weights[node.input[_WEIGHT]].dims), groups)


def _depthwise(shape: Sequence[int], channels: int) -> bool:
    return channels > 1 and shape[0] == channels and shape[1] == 1


def _channel_maxima(model: onnx.ModelProto, links: Sequence[_Link], feeds: Sequence[Feed]) -> list[_Floats]:
    """The largest absolute value of each channel of each link's tensor."""
    nodes, names = [], []
    for link in links:
        size, largest = f"{link.tensor}/size", f"{link.tensor}/channel_maximum"
        nodes += [
            helper.make_node("Abs", [link.tensor], [size], name=size),
            helper.make_node("ReduceMax", [size, "channel_axes"], [largest], name=largest, keepdims=0),
        ]
        names.append(largest)
    probe = outputs_of(model, names, nodes)
    probe.graph.initializer.append(numpy_helper.from_array(np.array([0, 2, 3], np.int64), "channel_axes"))
    seen = [[values[name] for name in names] for values in run_each(probe, feeds)]
    return [np.max(of_all_feeds, axis=0) for of_all_feeds in zip(*seen, strict=True)]


def _scale(link: _Link, largest: _Floats, values: Mapping[str, _Floats]) -> None:
    """Multiply the writer's channels and divide the readers' weights."""
    scale = np.clip(largest.max() / np.maximum(largest, np.float32(1e-12)), 1.0, _LARGEST_SCALE)
    shapes = [values[node.input[_WEIGHT]].shape for node in link.readers]
    dense = [not _depthwise(shape, len(scale)) for shape in shapes]
    if any(dense):
        columns = np.max([_column_maxima(values[node.input[_WEIGHT]], len(scale)) for node in link.readers], axis=0)
        scale = np.sqrt(scale * columns / max(columns.max(), 1e-12))
        scale = np.where(scale > 0, scale, 1.0)
    scale = scale.astype(np.float32)
    for name in link.writer.input[_WEIGHT:]:
        values[name][...] *= _along(scale, values[name].ndim, 0)
    for node, is_dense in zip(link.readers, dense, strict=True):
        weight = values[node.input[_WEIGHT]]
        weight[...] /= _along(scale, weight.ndim, 1 if is_dense else 0)


def _column_maxima(weight: _Floats, channels: int) -> _Floats:
    """The largest absolute weight that reads each input channel."""
    largest: _Floats = np.abs(weight).max(axis=(1, 2, 3) if _depthwise(weight.shape, channels) else (0, 2, 3))
    return largest


def _along(scale: _Floats, dimensions: int, axis: int) -> _Floats:
    return scale.reshape([-1 if each == axis else 1 for each in range(dimensions)])

"""Biases that take back the mean error which rounding to int8 makes.

Rounding weights and inputs moves the mean of a layer's outputs, channel by channel, and a moved mean adds up
through a network where noise averages out. The shift is measured on real pictures, each layer on the inputs that it
has in float, so that the layers can be measured in one run and corrected in any choice.

Source: Nagel et al., Data-Free Quantization through Weight Equalization and Bias Correction (2019), section 4.2.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper, numpy_helper

from foveate.engines.precision.session import Feed, outputs_of, run_each

__all__ = ["BiasErrors", "bias_errors", "with_corrected_biases"]

BiasErrors = Mapping[str, NDArray[np.float32]]
"""By node: the mean of the quantised outputs minus the mean of the float ones. Shapes: (channels,)."""

_CHANNEL_AXES = {"Conv": (0, 2, 3), "ConvTranspose": (0, 2, 3), "Gemm": (0,)}
"""Axes that are no channel, of operators that add a bias."""
_BIAS = 2


def bias_errors(network: onnx.ModelProto, quantized: onnx.ModelProto, feeds: Sequence[Feed]) -> BiasErrors:
    """The mean error per channel of each quantised node that has a bias, or can be given one.

    `quantized` is the same network with the inputs of some nodes quantised, and nothing else changed.
    """
    probe, means = _with_twins(network, quantized)
    if not means:
        return {}
    seen = [[values[name] for name in means.values()] for values in run_each(probe, feeds)]
    return {
        node: np.mean(of_all_feeds, axis=0) for node, of_all_feeds in zip(means, zip(*seen, strict=True), strict=True)
    }


def with_corrected_biases(network: onnx.ModelProto, errors: BiasErrors, nodes: Collection[str]) -> onnx.ModelProto:
    """The network with the errors of these nodes taken off their biases; the argument is not modified."""
    corrected = onnx.ModelProto()
    corrected.CopyFrom(network)
    weights = {each.name: each for each in network.graph.initializer}
    chosen = [node for node in corrected.graph.node if node.name in errors and node.name in nodes]
    for node in chosen:
        error = errors[node.name]
        bias = numpy_helper.to_array(weights[node.input[_BIAS]]) if len(node.input) > _BIAS else np.zeros_like(error)
        # Always a constant of its own: one bias may serve several nodes.
        name = f"{node.name}/corrected_bias"
        corrected.graph.initializer.append(numpy_helper.from_array((bias - error).astype(np.float32), name))
        node.input[_BIAS:] = [name]
    return corrected


def _with_twins(network: onnx.ModelProto, quantized: onnx.ModelProto) -> tuple[onnx.ModelProto, dict[str, str]]:
    """The float network with a quantised twin beside each node, and the tensor of its mean error by node.

    What flows on is the float node's output, so every twin sees float inputs.
    """
    plain = {node.name: node for node in network.graph.node}
    weights = {each.name for each in network.graph.initializer}
    twins: list[onnx.NodeProto] = []
    means: dict[str, str] = {}
    for node in quantized.graph.node:
        original = plain.get(node.name)
        if original is None:  # a Q or DQ
            twins.append(node)
        elif node.input[:2] != original.input[:2] and _has_bias(original, weights):
            twin, means[node.name] = _twin(node, original)
            twins += twin
    probe = outputs_of(network, list(means.values()), twins)
    known = {each.name for each in probe.graph.initializer}
    probe.graph.initializer.extend(each for each in quantized.graph.initializer if each.name not in known)
    probe.graph.initializer.extend(
        numpy_helper.from_array(np.array(axes, np.int64), f"{op}/channel_axes") for op, axes in _CHANNEL_AXES.items()
    )
    del probe.graph.value_info[:]
    return probe, means


def _twin(node: onnx.NodeProto, original: onnx.NodeProto) -> tuple[list[onnx.NodeProto], str]:
    name = f"{node.name}/quantized"
    twin = onnx.NodeProto()
    twin.CopyFrom(node)
    twin.name = name
    twin.output[0] = name
    difference = helper.make_node("Sub", [name, original.output[0]], [f"{name}/error"])
    mean = helper.make_node(
        "ReduceMean", [f"{name}/error", f"{node.op_type}/channel_axes"], [f"{name}/mean_error"], keepdims=0
    )
    return [twin, difference, mean], mean.output[0]


def _has_bias(node: onnx.NodeProto, weights: Collection[str]) -> bool:
    """Whether a constant bias is there or can be added, and counts once."""
    scaled = any(each.name == "beta" and each.f != 1.0 for each in node.attribute)
    return node.op_type in _CHANNEL_AXES and not scaled and all(name in weights for name in node.input[_BIAS:])

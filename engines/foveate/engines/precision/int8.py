"""A network with its convolutions and matrix products in int8, as pairs of QuantizeLinear and DequantizeLinear.

Two recipes, since the two backends want different graphs:

- TensorRT multiplies int8 by int8 with symmetric ranges and float biases, and what it does not find quantised it
  runs as it stands. So only the inputs of products are quantised, and the rest is left to half precision.
- ONNX Runtime on a CPU is quick only where a whole run of operators stays in 8 bits, with biases in 32, and wants
  activations unsigned.
"""

from __future__ import annotations

import contextlib
import io
import logging
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from types import ModuleType
from typing import Any, Literal

import onnx

from foveate.engines.errors import BuildFailed
from foveate.engines.precision.bias_correction import BiasErrors, bias_errors, with_corrected_biases
from foveate.engines.precision.calibration import Ranges, tensor_ranges
from foveate.engines.precision.equalisation import equalized
from foveate.engines.precision.session import Feed, folded

__all__ = ["PRODUCTS", "Calibrated", "Target", "calibrated", "product_names", "quantized", "quantized_alone"]

Target = Literal["tensorrt", "onnxruntime"]

PRODUCTS = ("Conv", "ConvTranspose", "Gemm", "MatMul")
"""The operators worth quantising: nearly all arithmetic is in them."""

_BETWEEN = ("Clip", "MaxPool", "Relu")
"""What ONNX Runtime computes in 8 bits between products. More operators gain no time and cost accuracy."""

_INPUTS_ONLY: dict[str, Any] = {"QuantizeBias": False, "OpTypesToExcludeOutputQuantization": list(PRODUCTS)}
_SYMMETRIC: dict[str, Any] = {"ActivationSymmetric": True, "WeightSymmetric": True}


@dataclass(frozen=True, slots=True)
class Calibrated:
    """A network with all that was measured to quantise it, for any choice of nodes."""

    network: onnx.ModelProto
    """Folded and equalised, in float32."""
    target: Target
    ranges: Ranges
    bias_errors: BiasErrors


def calibrated(network: onnx.ModelProto, feeds: Sequence[Feed], target: Target) -> Calibrated:
    """Measure what quantising a network needs to know.

    Raises: BuildFailed where ONNX Runtime cannot run it, or it has nothing to quantise.
    """
    network = folded(network)
    if not product_names(network):
        raise BuildFailed(f"the network has no {', '.join(PRODUCTS)} with weights to quantise: build it as fp16")
    network = equalized(network, feeds)
    ranges = tensor_ranges(network, feeds)
    probe = _with_quantized_inputs(network, ranges, target, product_names(network))
    return Calibrated(network, target, ranges, bias_errors(network, probe, feeds))


def quantized(source: Calibrated, nodes: Collection[str]) -> onnx.ModelProto:
    """The network with these nodes of it, as in `product_names`, in int8 and its other products in float."""
    corrected = with_corrected_biases(source.network, source.bias_errors, nodes)
    if source.target == "tensorrt":
        return _with_quantized_inputs(corrected, source.ranges, source.target, nodes)
    between = [node.name for node in corrected.graph.node if node.op_type in _BETWEEN]
    return _quantize(corrected, source.ranges, source.target, [*nodes, *between], (*PRODUCTS, *_BETWEEN), {})


def quantized_alone(source: Calibrated, node: str) -> onnx.ModelProto:
    """The network with the weights and the input of one node in int8, and everything else in float."""
    corrected = with_corrected_biases(source.network, source.bias_errors, [node])
    return _with_quantized_inputs(corrected, source.ranges, source.target, [node])


def product_names(network: onnx.ModelProto) -> list[str]:
    """Names of the nodes that can be quantised, in the order in which they run: products with constant weights."""
    weights = {each.name for each in network.graph.initializer}
    return [node.name for node in network.graph.node if node.op_type in PRODUCTS and node.input[1] in weights]


def _with_quantized_inputs(
    network: onnx.ModelProto, ranges: Ranges, target: Target, nodes: Collection[str]
) -> onnx.ModelProto:
    extra = {**_INPUTS_ONLY, **(_SYMMETRIC if target == "tensorrt" else {})}
    return _quantize(network, ranges, target, nodes, PRODUCTS, extra)


def _quantize(
    network: onnx.ModelProto,
    ranges: Ranges,
    target: Target,
    nodes: Collection[str],
    op_types: Sequence[str],
    extra: dict[str, Any],
) -> onnx.ModelProto:
    tool = _import_quantization()
    model = onnx.ModelProto()
    model.CopyFrom(network)
    if not nodes:
        return model  # the quantiser takes no names for all names
    kind = tool.QuantType.QInt8 if target == "tensorrt" else tool.QuantType.QUInt8
    quantizer = tool.QDQQuantizer(
        model,
        per_channel=True,
        reduce_range=False,
        weight_qType=tool.QuantType.QInt8,
        activation_qType=kind,
        tensors_range=tool.TensorsData(tool.CalibrationMethod.MinMax, dict(ranges)),
        nodes_to_quantize=list(nodes),
        nodes_to_exclude=[],
        op_types_to_quantize=list(op_types),
        extra_options=extra,
    )
    with _quiet():
        quantizer.quantize_model()
        quantizer.model.topological_sort()
    made: onnx.ModelProto = quantizer.model.model
    return made


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """The quantiser prints, and warns by the root logger, about each tensor that it leaves as it is."""
    previous = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            yield
    finally:
        logging.disable(previous)


def _import_quantization() -> ModuleType:
    from onnxruntime import quantization

    module: ModuleType = quantization
    return module

"""From a prepared graph in float32 to one in another precision. Precision is made in the graph, not by the compiler."""

from __future__ import annotations

import difflib
from collections.abc import Collection, Sequence
from typing import cast, get_args

import numpy as np
import onnx
from numpy.typing import NDArray

from foveate.engines.errors import BuildFailed, ConfigError
from foveate.engines.precision.bfloat16 import BFLOAT16_OPSET, to_bfloat16
from foveate.engines.precision.float8 import require_modelopt, to_float8
from foveate.engines.precision.float16 import to_float16
from foveate.engines.precision.int8 import Calibrated, Target, calibrated, product_names, quantized
from foveate.engines.precision.network import network_of, pixels_to_network, with_network
from foveate.engines.precision.opset import with_opset
from foveate.engines.precision.session import Feed, network_feeds

__all__ = ["PRECISIONS", "Pixels", "calibrate", "convert", "feeds_for"]

PRECISIONS = ("fp32", "fp16", "bf16", "int8", "fp8")
Pixels = NDArray[np.uint8]

_QDQ_FLOAT16_OPSET = 19
"""The first opset whose QuantizeLinear takes float16."""
_FLOAT8_OPSET = 21
"""What ModelOpt raises an fp8 graph to."""


def convert(
    model: onnx.ModelProto,
    precision: str,
    *,
    target: str,
    calibration: Sequence[Pixels] = (),
    exclude: Collection[str] = (),
) -> onnx.ModelProto:
    """A fused graph with its network in another precision; its own inputs, outputs and pre- and post-processing stay.

    For TensorRT, int8 and fp8 are the precision of convolutions and matrix products, and fp16 that of the rest.
    For ONNX Runtime, int8 is that of all it has 8-bit code for, and float32 that of the rest.

    Shapes: `calibration` pictures are (H, W, 3) uint8 RGB in the size of the graph's input; int8 and fp8 need some.
    `target` is ``tensorrt`` or ``onnxruntime``. `exclude` names nodes that int8 and fp8 leave alone.
    Raises: ConfigError for an unknown precision, target or node; EngineUnavailable where a library is missing;
    BuildFailed where the graph cannot be had in that precision. The argument is not modified.
    """
    _require_known("precision", precision, PRECISIONS)
    _require_known("target", target, get_args(Target))
    if precision == "fp32":
        return model
    if precision == "fp16":
        return with_network(model, to_float16(network_of(model)))
    if target == "onnxruntime" and precision != "int8":
        raise BuildFailed(f"ONNX Runtime on the CPU has no {precision} Conv, ConvTranspose or Gemm: take fp32 or int8")
    if precision == "bf16":
        model = with_opset(model, BFLOAT16_OPSET)
        return with_network(model, to_bfloat16(network_of(model)))
    if precision == "fp8":
        require_modelopt()  # before time is spent on pictures
        model = with_opset(model, _FLOAT8_OPSET)
        network = network_of(model)
        _require_nodes(exclude, product_names(network))
        return with_network(model, to_float8(network, feeds_for(model, calibration, precision), exclude))
    return _to_int8(model, target, calibration, exclude)


def calibrate(model: onnx.ModelProto, target: str, calibration: Sequence[Pixels]) -> Calibrated:
    """The network of a fused graph with all that int8 needs to be known of it.

    Raises: ConfigError for an unknown target; BuildFailed for no pictures or ones that do not fit.
    """
    _require_known("target", target, get_args(Target))
    return calibrated(network_of(model), feeds_for(model, calibration, "int8"), cast(Target, target))


def feeds_for(model: onnx.ModelProto, pictures: Sequence[Pixels], precision: str) -> list[Feed]:
    """What the network inside a fused graph is fed for each picture.

    Raises: BuildFailed for no pictures, or ones of another size or type than the graph's input.
    """
    expected = tuple(dim.dim_value for dim in model.graph.input[0].type.tensor_type.shape.dim[1:])
    if not pictures:
        raise BuildFailed(f"{precision} needs pictures to measure ranges on: give 50 or more like those to be served")
    for picture in pictures:
        if picture.shape != expected or picture.dtype != np.uint8:
            raise BuildFailed(
                f"a calibration picture is {picture.shape} {picture.dtype}, the graph takes {expected} uint8: "
                "resize as the service does"
            )
    return network_feeds(pixels_to_network(model), pictures)


def _to_int8(
    model: onnx.ModelProto, target: str, calibration: Sequence[Pixels], exclude: Collection[str]
) -> onnx.ModelProto:
    if target == "tensorrt":
        model = with_opset(model, _QDQ_FLOAT16_OPSET)
    source = calibrate(model, target, calibration)
    products = product_names(source.network)
    _require_nodes(exclude, products)
    network = quantized(source, [name for name in products if name not in exclude])
    return with_network(model, to_float16(network) if target == "tensorrt" else network)


def _require_known(what: str, given: str, known: Collection[str]) -> None:
    if given not in known:
        raise ConfigError(f"no {what} {given!r}: choose one of {', '.join(known)}")


def _require_nodes(names: Collection[str], known: Collection[str]) -> None:
    """Refuse to leave a node alone that is not there: it is a typing error, and int8 would go where it must not."""
    for name in names:
        if name not in known:
            near = difflib.get_close_matches(name, known, n=3)
            raise ConfigError(
                f"no node {name!r} to exclude: "
                + (f"did you mean {' or '.join(near)}?" if near else "the sensitivity report names those there are")
            )

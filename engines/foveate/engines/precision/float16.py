"""A network in half precision that still takes and gives single precision."""

from __future__ import annotations

import warnings
from types import ModuleType

import onnx
from onnx import TensorProto, helper

from foveate.engines.errors import BuildFailed, EngineUnavailable

__all__ = ["to_float16"]

_LARGEST = 65504.0
_SMALLEST = 5.97e-8
"""The least number that half precision can hold."""


def to_float16(network: onnx.ModelProto) -> onnx.ModelProto:
    """The network with weights and arithmetic in float16 and inputs and outputs as before; the argument is kept.

    A network that is in float16 already comes back as it is.
    Raises: EngineUnavailable without onnxconverter-common, BuildFailed where it cannot convert the network.
    """
    converter = _import_converter()
    prepared = _with_separate_outputs(network)
    if converter.check_if_fp16_ready(prepared.graph):
        return prepared
    try:
        with warnings.catch_warnings():
            # A weight too small for half precision is said about each tensor; the agreement check judges it.
            warnings.filterwarnings("ignore", message="the float32 number")
            converted: onnx.ModelProto = converter.convert_float_to_float16(
                prepared,
                min_positive_val=_SMALLEST,
                max_finite_val=_LARGEST,
                keep_io_types=True,
                disable_shape_infer=True,  # the shapes are there, and inferring again would lose block lists
                node_block_list=_float_casts(prepared),
            )
    except (ValueError, AssertionError, AttributeError) as error:
        raise BuildFailed(
            f"the network cannot be converted to fp16 ({error}): build it as fp32, or export it in float16"
        ) from error
    return converted


def _float_casts(network: onnx.ModelProto) -> list[str]:
    """Nodes that say float32 themselves: they keep it, and a cast to float16 follows them.

    The converter changes types of tensors, not what a Cast is told to make, and would leave the two at odds.
    """
    return [
        node.name
        for node in network.graph.node
        if any(each.name in ("to", "dtype") and each.i == TensorProto.FLOAT for each in node.attribute)
    ]


def _with_separate_outputs(network: onnx.ModelProto) -> onnx.ModelProto:
    """Outputs that the network reads itself come through an Identity, so that only the copy is cast back."""
    prepared = onnx.ModelProto()
    prepared.CopyFrom(network)
    graph = prepared.graph
    read = {name for node in graph.node for name in node.input}
    for output in graph.output:
        if output.name not in read:
            continue
        inside = f"{output.name}/inside"
        for node in graph.node:
            for names in (node.input, node.output):
                names[:] = [inside if name == output.name else name for name in names]
        known = graph.value_info.add()
        known.CopyFrom(output)
        known.name = inside
        graph.node.append(helper.make_node("Identity", [inside], [output.name], name=f"{output.name}/copy"))
    return prepared


def _import_converter() -> ModuleType:
    try:
        from onnxconverter_common import float16
    except ImportError as error:
        raise EngineUnavailable(
            f"converting to fp16 needs onnxconverter-common ({error}): install it with `pip install 'foveate[build]'`"
        ) from error
    module: ModuleType = float16
    return module

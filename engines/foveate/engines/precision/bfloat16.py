"""A network in bfloat16 that still takes and gives single precision."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import onnx
from onnx import TensorProto, defs, helper, numpy_helper

from foveate.engines.errors import BuildFailed

__all__ = ["BFLOAT16_OPSET", "to_bfloat16"]

BFLOAT16_OPSET = 22
"""The first opset whose convolutions and poolings may be in bfloat16."""

_NOT_IN_TENSORRT = frozenset({"ConvTranspose", "HardSwish"})
"""Operators that ONNX allows in bfloat16 and TensorRT's compiler refuses."""
_TYPE = "tensor(bfloat16)"


def to_bfloat16(network: onnx.ModelProto) -> onnx.ModelProto:
    """The network with weights and arithmetic in bfloat16, for TensorRT; the argument is not modified.

    The network is in opset 22 or newer. Every float of it becomes bfloat16: there is no mixing, so one operator that
    cannot is a reason to refuse.
    Raises: BuildFailed naming the operators that cannot.
    """
    refused = sorted({node.op_type for node in network.graph.node if not _allowed(node, network)})
    if refused:
        raise BuildFailed(f"{', '.join(refused)} cannot be computed in bf16 by TensorRT: build this model as fp16")
    converted = onnx.ModelProto()
    converted.CopyFrom(network)
    graph = converted.graph
    for tensor in graph.initializer:
        _convert_tensor(tensor)
    for node in graph.node:
        for attribute in node.attribute:
            if attribute.name in ("to", "dtype") and attribute.i == TensorProto.FLOAT:
                attribute.i = TensorProto.BFLOAT16
            if attribute.HasField("t"):
                _convert_tensor(attribute.t)
    for value in graph.value_info:
        if value.type.tensor_type.elem_type == TensorProto.FLOAT:
            value.type.tensor_type.elem_type = TensorProto.BFLOAT16
    _cast_at_edges(graph)
    return converted


def _allowed(node: onnx.NodeProto, network: onnx.ModelProto) -> bool:
    """Whether the operator takes bfloat16, or no floats at all."""
    if node.op_type in _NOT_IN_TENSORRT or node.domain not in ("", "ai.onnx"):
        return False
    (opset,) = (each.version for each in network.opset_import if each.domain in ("", "ai.onnx"))
    schema = defs.get_schema(node.op_type, opset, "")
    floats = [each for each in schema.type_constraints if "tensor(float)" in each.allowed_type_strs]
    plain = any(each.type_str == "tensor(float)" for each in (*schema.inputs, *schema.outputs))
    return not plain and all(_TYPE in each.allowed_type_strs for each in floats)


def _convert_tensor(tensor: onnx.TensorProto) -> None:
    if tensor.data_type == TensorProto.FLOAT:
        values = numpy_helper.to_array(tensor).astype(helper.tensor_dtype_to_np_dtype(TensorProto.BFLOAT16))
        tensor.CopyFrom(numpy_helper.from_array(np.asarray(values), tensor.name))


def _cast_at_edges(graph: onnx.GraphProto) -> None:
    """Casts between the float32 outside and the bfloat16 inside."""
    inputs, outputs = _float_names(graph.input), _float_names(graph.output)
    inside = {name: f"{name}/bfloat16" for name in (*inputs, *outputs)}
    for node in graph.node:
        node.input[:] = [inside.get(name, name) for name in node.input]
        node.output[:] = [inside.get(name, name) for name in node.output]
    before = [_cast(name, inside[name], TensorProto.BFLOAT16) for name in inputs]
    after = [_cast(inside[name], name, TensorProto.FLOAT) for name in outputs]
    nodes = [*before, *graph.node, *after]
    del graph.node[:]
    graph.node.extend(nodes)


def _float_names(values: Iterable[onnx.ValueInfoProto]) -> list[str]:
    return [each.name for each in values if each.type.tensor_type.elem_type == TensorProto.FLOAT]


def _cast(source: str, result: str, dtype: int) -> onnx.NodeProto:
    return helper.make_node("Cast", [source], [result], name=f"{result}/cast", to=dtype)

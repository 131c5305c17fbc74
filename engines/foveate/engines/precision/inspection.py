"""What precision a graph is in."""

from __future__ import annotations

from collections.abc import Iterator

import onnx
from onnx import TensorProto

__all__ = ["precision_of"]

_FLOAT8 = (TensorProto.FLOAT8E4M3FN, TensorProto.FLOAT8E5M2)
_QDQ = ("QuantizeLinear", "DequantizeLinear")


def precision_of(model: onnx.ModelProto) -> str:
    """The lowest precision that the graph computes in: ``fp8``, ``int8``, ``bf16``, ``fp16`` or ``fp32``."""
    types = set(_types(model))
    if types.intersection(_FLOAT8):
        return "fp8"
    if any(node.op_type in _QDQ for node in model.graph.node):
        return "int8"
    if TensorProto.BFLOAT16 in types:
        return "bf16"
    return "fp16" if TensorProto.FLOAT16 in types else "fp32"


def _types(model: onnx.ModelProto) -> Iterator[int]:
    graph = model.graph
    yield from (each.data_type for each in graph.initializer)
    yield from (each.type.tensor_type.elem_type for each in (*graph.input, *graph.value_info, *graph.output))
    for node in graph.node:
        if node.op_type == "Cast":
            yield from (each.i for each in node.attribute if each.name == "to")

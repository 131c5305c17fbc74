"""A half-precision graph that shows on the CPU what half precision does to it."""

from __future__ import annotations

import onnx
from onnx import TensorProto, helper, shape_inference

__all__ = ["with_half_rounding"]


def with_half_rounding(model: onnx.ModelProto) -> onnx.ModelProto:
    """The same graph with an Identity behind each node that makes float16; the argument is not modified.

    ONNX Runtime has no half-precision Conv on the CPU: it computes in single precision, with casts around each node,
    and takes two casts that meet out again, even with its optimisations off. Nothing is rounded then and nothing
    overflows between two nodes, as it would on a GPU. An Identity between the two casts keeps them, where
    optimisations are off.
    """
    rounded = shape_inference.infer_shapes(model)
    graph = rounded.graph
    halves = {
        each.name
        for each in (*graph.value_info, *graph.output)
        if each.type.tensor_type.elem_type == TensorProto.FLOAT16
    }
    nodes = []
    for node in graph.node:
        nodes.append(node)
        for index, name in enumerate(node.output):
            if name in halves:
                exact = f"{name}/exact"
                node.output[index] = exact
                nodes.append(helper.make_node("Identity", [exact], [name], name=f"{exact}/rounded"))
    kept = helper.make_graph(
        nodes, graph.name, graph.input, graph.output, graph.initializer, value_info=graph.value_info
    )
    graph.CopyFrom(kept)
    return rounded

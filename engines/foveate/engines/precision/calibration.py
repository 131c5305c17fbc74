"""The range of each tensor that a network computes with, seen on real pictures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import onnx
from onnx import TensorProto, helper

from foveate.engines.precision.session import Feed, outputs_of, run_each

__all__ = ["Ranges", "tensor_ranges"]

Ranges = Mapping[str, tuple[np.float32, np.float32]]
"""The least and the greatest value by tensor."""


def tensor_ranges(network: onnx.ModelProto, feeds: Sequence[Feed]) -> Ranges:
    """The range of every float tensor over all feeds. Only two numbers a tensor and picture are ever kept."""
    tensors = _float_tensors(network)
    names = [f"{name}/{op}" for name in tensors for op in ("ReduceMin", "ReduceMax")]
    nodes = [
        helper.make_node(op, [name], [f"{name}/{op}"], name=f"{name}/{op}", keepdims=0)
        for name in tensors
        for op in ("ReduceMin", "ReduceMax")
    ]
    seen = [[values[name] for name in names] for values in run_each(outputs_of(network, names, nodes), feeds)]
    pairs = np.array(seen, np.float32).reshape(len(feeds), len(tensors), 2)
    return dict(zip(tensors, zip(pairs[:, :, 0].min(axis=0), pairs[:, :, 1].max(axis=0), strict=True), strict=True))


def _float_tensors(network: onnx.ModelProto) -> list[str]:
    graph = network.graph
    return [
        each.name
        for each in (*graph.input, *graph.value_info, *graph.output)
        if each.type.tensor_type.elem_type == TensorProto.FLOAT
    ]

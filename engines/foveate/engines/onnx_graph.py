"""What an ONNX graph must be for an engine to be built from it, seen before any compiler gets it."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from google.protobuf.message import DecodeError

from foveate.engines.contract import TensorSpec
from foveate.engines.errors import BuildFailed

__all__ = ["OnnxGraph", "graph_from_file", "graph_specs", "refuse_operators", "weights_bytes"]

OnnxGraph = onnx.ModelProto
"""A graph in memory, for those who hand it on and do not look inside."""


def graph_from_file(path: Path) -> onnx.ModelProto:
    """The model in a file. Raises: BuildFailed for a file that is missing, empty, cut short or something else."""
    try:
        model = onnx.load(path)
    except (OSError, DecodeError) as error:
        raise BuildFailed(f"{path} cannot be read as an ONNX model ({error}): prepare the model again") from error
    # Protobuf reads an empty file, and some that are no ONNX at all, as a model without anything in it.
    if not model.graph.node or not model.graph.output or not model.opset_import:
        raise BuildFailed(f"{path} holds no graph with nodes and outputs: it is empty or no ONNX file")
    return model


def graph_specs(model: onnx.ModelProto) -> tuple[tuple[TensorSpec, ...], tuple[TensorSpec, ...]]:
    """The inputs and outputs of a graph.

    Raises: BuildFailed where the first dimension of one is not dynamic, or another one is: slots have buffers
    of one size for any batch.
    """
    weights = {tensor.name for tensor in model.graph.initializer}
    inputs = [value for value in model.graph.input if value.name not in weights]
    return tuple(map(_spec, inputs)), tuple(map(_spec, model.graph.output))


def _spec(value: onnx.ValueInfoProto) -> TensorSpec:
    kind = value.type.tensor_type
    dims = [each.dim_value if each.HasField("dim_value") else each.dim_param or "?" for each in kind.shape.dim]
    where = f"{value.name!r} of shape {dims}"
    if not dims or isinstance(dims[0], int):
        raise BuildFailed(f"{where} has no dynamic batch: export the model with one, or prepare it as a package")
    fixed = tuple(size for size in dims[1:] if isinstance(size, int))
    if len(fixed) < len(dims) - 1:
        raise BuildFailed(
            f"{where} is dynamic beyond the batch: engines have buffers of one size, so every dimension but the first "
            "must be a number. Export it for one input size, or prepare it as a model package"
        )
    return TensorSpec(value.name, np.dtype(onnx.helper.tensor_dtype_to_np_dtype(kind.elem_type)), fixed)


def refuse_operators(model: onnx.ModelProto, operators: Collection[str], reader: str) -> None:
    """Raises: BuildFailed naming the first node with one of these operators, which `reader` cannot take."""
    for node in _nodes(model.graph):
        if node.op_type in operators:
            raise BuildFailed(
                f"{reader} cannot build node {node.name or node.output[0]!r}: it has no {node.op_type}. The shape of "
                "such an operator's answer depends on the pixels; leave it out of the export and prepare the model "
                "as a package, whose head picks a fixed number of candidates"
            )


def weights_bytes(model: onnx.ModelProto) -> int:
    """The size of a model's weights in memory."""
    bits = onnx.helper.tensor_dtype_to_np_dtype
    return sum(math.prod(tensor.dims) * np.dtype(bits(tensor.data_type)).itemsize for tensor in model.graph.initializer)


def _nodes(graph: Any) -> Iterator[Any]:
    """Every node, those of branches and loop bodies too."""
    for node in graph.node:
        yield node
        for attribute in node.attribute:
            for inner in (attribute.g, *attribute.graphs):
                yield from _nodes(inner)

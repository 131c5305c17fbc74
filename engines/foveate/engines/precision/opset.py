"""A graph in a newer opset, with its nodes called as before."""

from __future__ import annotations

import onnx
from onnx import version_converter

from foveate.engines.errors import BuildFailed

__all__ = ["with_opset"]


def with_opset(model: onnx.ModelProto, least: int) -> onnx.ModelProto:
    """The model in this opset, or as it is where its own is newer; the argument is not modified.

    Raises: BuildFailed where ONNX cannot convert it.
    """
    (present,) = (each.version for each in model.opset_import if each.domain in ("", "ai.onnx"))
    if present >= least:
        return model
    try:
        converted = version_converter.convert_version(model, least)
    except (RuntimeError, onnx.checker.ValidationError) as error:  # pybind's ConvertError is a RuntimeError
        raise BuildFailed(
            f"the graph's opset {present} cannot be converted to {least}, which this precision needs ({error}): "
            f"export the model with opset {least}, or build it as fp32 or fp16"
        ) from error
    # The converter forgets the names of nodes that it rewrites, and the names tell the network from what is around it.
    names = {node.output[0]: node.name for node in model.graph.node}
    for node in converted.graph.node:
        node.name = names.get(node.output[0], node.name)
    return converted

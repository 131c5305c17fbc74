"""Make an exported ONNX graph fit to be served: any batch, one input size, a modern opset, nothing stale.

Exports come with what their makers happened to trace: a batch of 1 or 10 frozen into input and reshapes,
weights listed as inputs, operators of 2019. Nothing here runs the model: whether the batch really is free is
proven by shape inference with a batch that the export cannot have known.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np
import onnx
from onnx import helper, numpy_helper, shape_inference, version_converter
from onnx.inliner import inline_local_functions

from foveate.engines.errors import ModelError

__all__ = ["BATCH", "OPSET", "image_input", "with_dynamic_batch"]

BATCH = "batch"
"""Name of the batch dimension in every prepared graph."""
OPSET = 18
"""Oldest opset of a prepared graph: from here on reductions take their axes as an input."""
_IR_VERSION = 8
_PROBE_BATCH = 7


def with_dynamic_batch(model: onnx.ModelProto, input_hw: tuple[int, int]) -> onnx.ModelProto:
    """The same model for any batch of pictures of one size; the argument is not modified.

    Shapes: the image input becomes (batch, 3, H, W); outputs keep their rank, with `batch` first and every
    other dimension a number. An output that is a constant of the graph stays as it is.
    Units: input_hw is (height, width) in pixels.
    Raises: ModelError, saying what to do, where the graph has no single image input, cannot be converted, or
    holds on to its batch or input size.
    """
    prepared = onnx.ModelProto()
    prepared.CopyFrom(model)
    if prepared.functions:
        prepared = inline_local_functions(prepared)
    _drop_unused(prepared.graph)
    prepared = _with_modern_opset(prepared)
    prepared.ir_version = max(prepared.ir_version, _IR_VERSION)
    image = image_input(prepared)
    _free_reshapes(prepared.graph, image, _declared_batch(image))
    _forget_shapes(prepared.graph)
    shapes = _probed_output_shapes(prepared, input_hw)
    for output in prepared.graph.output:
        if output.name in shapes:
            _set_shape(output, (BATCH, *shapes[output.name][1:]))
    _set_shape(image_input(prepared), (BATCH, 3, *input_hw))
    return shape_inference.infer_shapes(prepared, data_prop=True)


def image_input(model: onnx.ModelProto) -> onnx.ValueInfoProto:
    """The graph's only input that is no weight.

    Raises: ModelError if it is not one picture in channels-first order.
    """
    weights = {each.name for each in model.graph.initializer}
    inputs = [each for each in model.graph.input if each.name not in weights]
    if len(inputs) != 1:
        raise ModelError(
            f"a model takes one picture, this one has {len(inputs)} inputs "
            f"({', '.join(each.name for each in inputs) or 'none'}): export it without the others"
        )
    dims = inputs[0].type.tensor_type.shape.dim
    if len(dims) != 4 or dims[1].dim_value not in (0, 3):
        raise ModelError(
            f"the image input {inputs[0].name!r} must be (batch, 3, height, width), it is "
            f"({_described(inputs[0])}): export the model with RGB or BGR input, channels first"
        )
    return inputs[0]


def _drop_unused(graph: onnx.GraphProto) -> None:
    """Leave out weights that nothing reads, and the inputs that only repeat weights."""
    used = set(_names_read(graph)) | {each.name for each in graph.output}
    weights = [each for each in graph.initializer if each.name in used]
    every_weight = {each.name for each in graph.initializer}
    inputs = [each for each in graph.input if each.name not in every_weight]
    del graph.initializer[:], graph.input[:]
    graph.initializer.extend(weights)
    graph.input.extend(inputs)


def _names_read(graph: onnx.GraphProto) -> Iterator[str]:
    for node in graph.node:
        yield from node.input
        for attribute in node.attribute:
            for inner in (attribute.g, *attribute.graphs):
                yield from _names_read(inner)
                yield from (each.name for each in inner.output)


def _with_modern_opset(model: onnx.ModelProto) -> onnx.ModelProto:
    versions = [each.version for each in model.opset_import if each.domain in ("", "ai.onnx")]
    if not versions:
        raise ModelError("the file names no ONNX opset: it is empty or damaged; fetch or export it again")
    if versions[0] >= OPSET:
        return model
    # The converter refuses weights that are no inputs in files older than that idea.
    model.ir_version = max(model.ir_version, _IR_VERSION)
    try:
        return version_converter.convert_version(model, OPSET)
    except (RuntimeError, onnx.checker.ValidationError) as error:  # pybind's ConvertError is a RuntimeError
        raise ModelError(
            f"the model's opset {versions[0]} cannot be converted to {OPSET} ({error}): export it again "
            f"with opset {OPSET} or newer"
        ) from error


def _declared_batch(image: onnx.ValueInfoProto) -> int:
    """The batch that the export froze; 1 where it left it open, since reshapes may still hold a 1."""
    return image.type.tensor_type.shape.dim[0].dim_value or 1


def _free_reshapes(graph: onnx.GraphProto, image: onnx.ValueInfoProto, batch: int) -> None:
    """Let constant reshapes take their batch from the data: ``[1, 85, -1]`` becomes ``[0, 85, -1]``."""
    batched = {image.name}
    constants = _constants(graph)
    for node in graph.node:
        if node.op_type in ("Shape", "Size") or not batched.intersection(node.input):
            continue
        batched.update(node.output)
        if node.op_type != "Reshape" or node.input[0] not in batched or node.input[1] not in constants:
            continue
        shape = constants[node.input[1]]
        allow_zero = [each for each in node.attribute if each.name == "allowzero" and each.i]
        if len(shape) < 2 or shape[0] != batch or (allow_zero and 0 in shape):
            continue
        for attribute in allow_zero:
            node.attribute.remove(attribute)
        name = f"{node.output[0]}/foveate_shape"
        graph.initializer.append(numpy_helper.from_array(np.array([0, *shape[1:]], np.int64), name))
        node.input[1] = name
    _drop_unused(graph)


def _constants(graph: onnx.GraphProto) -> dict[str, list[int]]:
    """The values of the integer vectors that a reshape may read."""
    tensors = {each.name: each for each in graph.initializer}
    for node in graph.node:
        if node.op_type == "Constant" and node.attribute[0].name == "value":
            tensors[node.output[0]] = node.attribute[0].t
    return {
        name: numpy_helper.to_array(tensor).tolist()
        for name, tensor in tensors.items()
        if tensor.data_type == onnx.TensorProto.INT64 and len(tensor.dims) == 1
    }


def _forget_shapes(graph: onnx.GraphProto) -> None:
    del graph.value_info[:]
    weights = {each.name for each in graph.initializer}
    for output in graph.output:
        if output.name not in weights:
            output.type.tensor_type.ClearField("shape")


def _probed_output_shapes(model: onnx.ModelProto, input_hw: tuple[int, int]) -> dict[str, tuple[int, ...]]:
    """The outputs' shapes for a batch that no export had, so that a frozen batch or size cannot hide."""
    probe = onnx.ModelProto()
    probe.CopyFrom(model)
    _set_shape(image_input(probe), (_PROBE_BATCH, 3, *input_hw))
    try:
        inferred = shape_inference.infer_shapes(probe, strict_mode=True, data_prop=True)
    except shape_inference.InferenceError as error:
        raise ModelError(
            f"the graph does not take a batch of {input_hw[1]} x {input_hw[0]} pictures ({error}): export it "
            "with a dynamic batch and at the manifest's input size, or name its own size in the manifest"
        ) from error
    _check_reshapes(inferred, input_hw)
    weights = {each.name for each in inferred.graph.initializer}
    return {each.name: _checked_shape(each, input_hw) for each in inferred.graph.output if each.name not in weights}


def _check_reshapes(inferred: onnx.ModelProto, input_hw: tuple[int, int]) -> None:
    """Refuse reshapes that lose or invent elements, which shape inference lets pass."""
    graph = inferred.graph
    values = {each.name: each for each in (*graph.input, *graph.value_info, *graph.output)}
    for node in graph.node:
        if node.op_type != "Reshape" or not {node.input[0], node.output[0]} <= set(values):
            continue
        before, after = values[node.input[0]], values[node.output[0]]
        sizes = [math.prod(_dims(each)) for each in (before, after)]
        if all(sizes) and sizes[0] != sizes[1]:
            raise ModelError(
                f"{node.name or 'a reshape'} turns ({_described(before)}) into ({_described(after)}) for a batch "
                f"of {_PROBE_BATCH} at {input_hw[1]} x {input_hw[0]} pixels: export the model with a dynamic batch "
                "and at the manifest's input size, or name its own size in the manifest"
            )


def _checked_shape(output: onnx.ValueInfoProto, input_hw: tuple[int, int]) -> tuple[int, ...]:
    dims = _dims(output)
    if all(dims) and dims[:1] != [_PROBE_BATCH]:
        raise ModelError(
            f"output {output.name!r} is ({_described(output)}) for a batch of {_PROBE_BATCH}: the batch is "
            "frozen in the graph; export the model with a dynamic batch dimension"
        )
    if not all(dims):
        raise ModelError(
            f"the shape of output {output.name!r} at {input_hw[1]} x {input_hw[0]} pixels cannot be told, "
            f"only ({_described(output)}): export the model with a fixed input size and no NonMaxSuppression"
        )
    return tuple(dims)


def _set_shape(value: onnx.ValueInfoProto, shape: tuple[int | str, ...]) -> None:
    value.CopyFrom(helper.make_tensor_value_info(value.name, value.type.tensor_type.elem_type, shape))


def _dims(value: onnx.ValueInfoProto) -> list[int]:
    """Lengths, 0 for what is not known; a single 0 where not even the rank is."""
    kind = value.type.tensor_type
    return [each.dim_value for each in kind.shape.dim] if kind.HasField("shape") else [0]


def _described(value: onnx.ValueInfoProto) -> str:
    dims = value.type.tensor_type.shape.dim
    return ", ".join(str(each.dim_value) if each.dim_value else each.dim_param or "?" for each in dims)

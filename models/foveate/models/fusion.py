"""One graph from pixels to answers: what goes into every engine, on every backend.

    pixels (batch, H, W, 3) uint8 RGB -> cast, transpose, channel order, normalise -> the model -> its head

Every dimension but the batch is fixed, and only operators are added that ONNX Runtime runs and TensorRT
compiles: no NonMaxSuppression, no NonZero, nothing whose output's size depends on the data. Outputs by task:

- detect: boxes (batch, K, 4) float32 as x1, y1, x2, y2 in pixels of the input; scores (batch, K) float32,
  best first; class_ids (batch, K) int32; where the manifest has keypoints, keypoints (batch, K, P, 2) as x, y
  or (batch, K, P, 3) as x, y, score. Boxes may overlap and leave the picture: `postprocess` sees to that.
- classify: scores (batch, K) float32, best first; class_ids (batch, K) int32.
- embed: embedding (batch, D) float32.

Names of what is added begin with ``foveate/``, names of the model's own nodes and tensors with ``model/``, so
that a precision tool can tell them apart.
"""

from __future__ import annotations

import numpy as np
import onnx
from onnx import TensorProto, checker, compose, helper, shape_inference

from foveate.engines.errors import ModelError
from foveate.models.fusion_version import FUSION_VERSION
from foveate.models.graph import GraphBuilder
from foveate.models.heads import HEADS, HeadInputs, Tensor
from foveate.models.manifest import HeadSpec, InputSpec, Manifest
from foveate.models.surgery import BATCH, image_input, with_dynamic_batch

__all__ = ["PIXELS", "fuse"]

PIXELS = "pixels"
"""Name of the fused graph's only input."""

_FLOATS = (TensorProto.FLOAT, TensorProto.FLOAT16)


def fuse(model: onnx.ModelProto, manifest: Manifest) -> onnx.ModelProto:
    """A model with its pre- and post-processing in one graph; the argument is not modified.

    Raises: ModelError where the graph cannot be made ready for any batch, or does not have the tensors and
    shapes that the manifest says.
    """
    spec = manifest.input
    prepared = compose.add_prefix(with_dynamic_batch(model, (spec.height_px, spec.width_px)), "model/")
    before, after = GraphBuilder("foveate/input"), GraphBuilder("foveate/head")
    _append_input(before, spec, image_input(prepared))
    outputs = _append_head(after, manifest, prepared.graph)
    graph = helper.make_graph(
        [*before.nodes, *prepared.graph.node, *after.nodes],
        "foveate",
        [helper.make_tensor_value_info(PIXELS, TensorProto.UINT8, (BATCH, spec.height_px, spec.width_px, 3))],
        [onnx.ValueInfoProto(name=name) for name in outputs],
        [*before.initializers, *prepared.graph.initializer, *after.initializers],
        sparse_initializer=prepared.graph.sparse_initializer,
    )
    prepared.graph.CopyFrom(graph)
    return _finished(prepared)


def _append_input(graph: GraphBuilder, spec: InputSpec, image: onnx.ValueInfoProto) -> None:
    """Pixels to the model's input. The cast comes first: TensorRT does nothing else with bytes."""
    dtype = image.type.tensor_type.elem_type
    if dtype not in _FLOATS:
        name = TensorProto.DataType.Name(dtype)
        raise ModelError(
            f"the image input must be float or float16, it is {name}: export the model without its own cast"
        )
    values = graph.cast(PIXELS, TensorProto.FLOAT, "float_pixels")
    values = graph.add("Transpose", values, name="channels_first", perm=[0, 3, 1, 2])
    if spec.colour == "bgr":
        values = graph.pick(values, [2, 1, 0], 1, "bgr")
    # (pixel * scale - mean) / std as one factor and one addend.
    factor = spec.scale / np.array(spec.std, np.float64)
    addend = -np.array(spec.mean, np.float64) / np.array(spec.std, np.float64)
    if (factor != 1).any():
        values = graph.add("Mul", values, graph.floats(_per_channel(factor), "factor"), name="scaled")
    if (addend != 0).any():
        values = graph.add("Add", values, graph.floats(_per_channel(addend), "addend"), name="normalised")
    if dtype != TensorProto.FLOAT:
        values = graph.cast(values, dtype, "model_precision")
    graph.export(values, image.name)


def _per_channel(
    values: np.ndarray[tuple[int], np.dtype[np.float64]],
) -> np.ndarray[tuple[int, ...], np.dtype[np.float64]]:
    """For (batch, 3, H, W); a single number where the channels agree, which is quicker to apply."""
    return values[:1] if (values == values[0]).all() else values.reshape(1, 3, 1, 1)


def _append_head(graph: GraphBuilder, manifest: Manifest, model: onnx.GraphProto) -> list[str]:
    head = HEADS[manifest.head.kind]
    roles = set(manifest.head.outputs)
    if not head.roles <= roles <= head.roles | head.optional:
        raise ModelError(
            f"head {manifest.head.kind!r} needs outputs for the roles {', '.join(sorted(head.roles))}"
            + (f" and may have {', '.join(sorted(head.optional))}" if head.optional else "")
            + f"; the manifest names {', '.join(sorted(roles)) or 'none'}: mend its head.outputs"
        )
    tensors = _head_tensors(graph, manifest.head, model)
    results = head.append(graph, HeadInputs(manifest.head, manifest.input, tensors))
    for name, tensor in results.items():
        graph.export(tensor, name)
    return list(results)


def _head_tensors(graph: GraphBuilder, spec: HeadSpec, model: onnx.GraphProto) -> dict[str, Tensor]:
    """The model's outputs by role, as float32."""
    outputs = {each.name.removeprefix("model/"): each for each in model.output}
    missing = sorted(set(spec.outputs.values()) - set(outputs))
    if missing:
        raise ModelError(
            f"the model has no output {', '.join(missing)}, only {', '.join(sorted(outputs))}: mend "
            "head.outputs in the manifest"
        )
    weights = {each.name for each in model.initializer}
    tensors = {}
    for role, wanted in spec.outputs.items():
        kind = outputs[wanted].type.tensor_type
        name = outputs[wanted].name
        shape = tuple(dim.dim_value for dim in kind.shape.dim)
        constant = name in weights
        if kind.elem_type != TensorProto.FLOAT:
            name = graph.cast(name, TensorProto.FLOAT, f"{role}_float")
        tensors[role] = Tensor(name, shape if constant else shape[1:], constant)
    return tensors


def _finished(model: onnx.ModelProto) -> onnx.ModelProto:
    """With every shape written down, and checked."""
    model.producer_name = "foveate"
    helper.set_model_props(model, {"foveate.fusion_version": str(FUSION_VERSION)})
    try:
        inferred = shape_inference.infer_shapes(model, strict_mode=True, data_prop=True)
        for output in inferred.graph.output:
            output.type.tensor_type.shape.dim[0].dim_param = BATCH
        checker.check_model(inferred, full_check=True)
    except (shape_inference.InferenceError, checker.ValidationError) as error:
        raise ModelError(f"the fused graph is not valid ONNX ({error}): export the model again") from error
    return inferred

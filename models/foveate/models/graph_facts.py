"""What an ONNX file says of itself: its input, its outputs at the size that it will be served at, how scores end."""

from __future__ import annotations

import ast
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import onnx
from google.protobuf.message import DecodeError

from foveate.engines.errors import ModelError
from foveate.models.surgery import image_input, with_dynamic_batch

__all__ = ["GraphFacts", "OutputFacts", "graph_facts"]

_CHOOSING = {"NonMaxSuppression", "EfficientNMS_TRT", "BatchedNMS_TRT", "TRTBatchedNMS", "NonZero"}
_ARITHMETIC = {"Add", "Sub", "Mul", "Div"}
_SHAPING = {"Reshape", "Transpose", "Squeeze", "Unsqueeze", "Flatten", "Identity", "Cast", "Concat"}
_MULTIPLE_PX = 32


@dataclass(frozen=True, slots=True)
class OutputFacts:
    """One output. Shapes: ``shape`` leaves the batch out; a constant has none."""

    name: str
    shape: tuple[int, ...]
    constant: bool
    activation: str
    """``softmax`` or ``sigmoid`` where the graph ends in it, else ``none``."""

    def __str__(self) -> str:
        dims = ", ".join(map(str, self.shape))
        return f"{self.name} ({dims}), constant" if self.constant else f"{self.name} (batch, {dims})"


@dataclass(frozen=True, slots=True)
class GraphFacts:
    """A graph that has been made fit for any batch, to see whether it can be."""

    width_px: int
    height_px: int
    fixed_size: bool
    """Whether that size is the file's own."""
    outputs: tuple[OutputFacts, ...]
    normalises: bool
    """Whether the first thing that it does with the image is arithmetic."""
    operators: frozenset[str]
    metadata: Mapping[str, str]
    labels: tuple[str, ...]
    """Class names in the file's metadata, as Ultralytics keeps them."""


def graph_facts(path: Path, size_px: tuple[int, int] | None) -> GraphFacts:
    """Look at an ONNX file. `size_px` is (width, height), for files that leave it open.

    Raises: ModelError, with what to do, for what is no ONNX file, has no picture as its input, ends in a choice of
    boxes whose number depends on the picture, or keeps its batch.
    """
    model = _loaded(path)
    _refuse_choosing(model.graph)
    metadata = {each.key: each.value for each in model.metadata_props}
    image = image_input(model)
    width, height, fixed = _size(image, size_px, metadata)
    prepared = with_dynamic_batch(model, (height, width))
    makers = {name: node for node in prepared.graph.node for name in node.output}
    weights = {each.name for each in prepared.graph.initializer}
    readers = [node.op_type for node in prepared.graph.node if image_input(prepared).name in node.input]
    return GraphFacts(
        width,
        height,
        fixed,
        tuple(_output(each, weights, makers) for each in prepared.graph.output),
        bool(_ARITHMETIC.intersection(readers)),
        frozenset(node.op_type for node in prepared.graph.node),
        metadata,
        _labels(metadata),
    )


def _loaded(path: Path) -> onnx.ModelProto:
    try:
        model = onnx.load(path)
    except OSError as error:
        raise ModelError(f"cannot read the model file {path}: {error.strerror or error}") from error
    except DecodeError as error:
        raise ModelError(f"{path} is not an ONNX file: export the model to ONNX first") from error
    if not model.graph.node:
        raise ModelError(f"{path} is not an ONNX model with a network in it: export the model to ONNX first")
    return model


def _refuse_choosing(graph: onnx.GraphProto) -> None:
    found = sorted(_CHOOSING.intersection(node.op_type for node in graph.node))
    if found:
        raise ModelError(
            f"the graph has {', '.join(found)} in it: how many boxes it answers depends on the picture, which engines "
            "of a fixed size cannot; export the model without suppression, Foveate does that itself"
        )


def _size(
    image: onnx.ValueInfoProto, wished: tuple[int, int] | None, metadata: Mapping[str, str]
) -> tuple[int, int, bool]:
    height, width = (dim.dim_value for dim in image.type.tensor_type.shape.dim[2:])
    if wished:
        return *wished, wished == (width, height)  # a network without fixed sizes inside takes others than it says
    if height and width:
        return width, height, True
    told = [int(number) for number in re.findall(r"\d+", metadata.get("imgsz", ""))]
    if len(told) == 2:
        return told[1], told[0], False
    raise ModelError(
        "the file leaves open how large its input is: say the size that it was trained at with --size WIDTHxHEIGHT, "
        f"such as {20 * _MULTIPLE_PX}x{20 * _MULTIPLE_PX}"
    )


def _output(value: onnx.ValueInfoProto, weights: set[str], makers: Mapping[str, onnx.NodeProto]) -> OutputFacts:
    shape = tuple(dim.dim_value for dim in value.type.tensor_type.shape.dim)
    constant = value.name in weights
    return OutputFacts(value.name, shape if constant else shape[1:], constant, _activation(value.name, makers, depth=8))


def _activation(name: str, makers: Mapping[str, onnx.NodeProto], depth: int) -> str:
    """What the values of a tensor went through last, not counting what only moves them."""
    node = makers.get(name)
    if node is None or depth == 0:
        return "none"
    if node.op_type in ("Softmax", "Sigmoid"):
        return node.op_type.lower()
    if node.op_type in _SHAPING:
        found: Sequence[str] = [_activation(each, makers, depth - 1) for each in node.input if each in makers]
        return next((each for each in found if each != "none"), "none")
    return "none"


def _labels(metadata: Mapping[str, str]) -> tuple[str, ...]:
    try:
        names = ast.literal_eval(metadata.get("names", ""))
    except (ValueError, SyntaxError):
        return ()
    if isinstance(names, dict) and sorted(names) == list(range(len(names))):
        names = [names[index] for index in range(len(names))]
    return tuple(map(str, names)) if isinstance(names, list | tuple) else ()

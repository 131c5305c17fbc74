"""Tiny ONNX models and a way to run any: enough to see a graph's part without a network in front of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import onnx
import onnxruntime
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from foveate.models.manifest import HeadSpec, InputSpec, Manifest

__all__ = ["bank_model", "bank_pixels", "manifest_of", "model_of", "passing_model", "run_onnx"]

Array = NDArray[Any]


def run_onnx(model: onnx.ModelProto, feeds: Mapping[str, Array]) -> dict[str, Array]:
    """Every output of a model by name, from ONNX Runtime on one thread."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    return dict(zip(names, session.run(names, dict(feeds)), strict=True))


def model_of(
    nodes: Sequence[onnx.NodeProto],
    inputs: Mapping[str, Sequence[int | str]],
    outputs: Mapping[str, Sequence[int | str] | None],
    weights: Mapping[str, Array] | None = None,
    *,
    dtype: int = TensorProto.FLOAT,
    opset: int = 18,
) -> onnx.ModelProto:
    """A model of these nodes; every input and output has one element type."""
    graph = helper.make_graph(
        list(nodes),
        "tiny",
        [helper.make_tensor_value_info(name, dtype, shape) for name, shape in inputs.items()],
        [helper.make_tensor_value_info(name, dtype, shape) for name, shape in outputs.items()],
        [numpy_helper.from_array(value, name) for name, value in (weights or {}).items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)


def bank_model(banks: Mapping[str, Array], input_hw: tuple[int, int]) -> onnx.ModelProto:
    """A model whose outputs are rows of constant banks, chosen by the first pixel of each picture.

    Shapes: a bank (rows, ...) gives an output (batch, ...).
    """
    weights: dict[str, Array] = {
        "bank_start": np.zeros(3, np.int64),
        "bank_end": np.ones(3, np.int64),
        "bank_axes": np.array([1, 2, 3]),
        "bank_flat": np.array([-1]),
    }
    nodes = [
        helper.make_node("Slice", ["image", "bank_start", "bank_end", "bank_axes"], ["first"]),
        helper.make_node("Reshape", ["first", "bank_flat"], ["flat"]),
        helper.make_node("Cast", ["flat"], ["row"], to=TensorProto.INT64),
    ]
    for name, bank in banks.items():
        weights[f"bank_{name}"] = bank
        nodes.append(helper.make_node("Gather", [f"bank_{name}", "row"], [name], axis=0))
    shapes = {name: ["batch", *bank.shape[1:]] for name, bank in banks.items()}
    return model_of(nodes, {"image": ["batch", 3, *input_hw]}, shapes, weights)


def bank_pixels(rows: Sequence[int], input_hw: tuple[int, int]) -> NDArray[np.uint8]:
    """Pictures that choose these rows of a `bank_model`'s banks."""
    pixels = np.zeros((len(rows), *input_hw, 3), np.uint8)
    pixels[:, 0, 0, 0] = rows
    return pixels


def passing_model(input_hw: tuple[int, int], dtype: int = TensorProto.FLOAT) -> onnx.ModelProto:
    """A model that gives its own input back."""
    shape: list[int | str] = ["batch", 3, *input_hw]
    return model_of([helper.make_node("Identity", ["image"], ["seen"])], {"image": shape}, {"seen": shape}, dtype=dtype)


def manifest_of(head: HeadSpec, spec: InputSpec) -> Manifest:
    """A manifest around a head and an input."""
    tasks = {"logits": "classify", "embedding": "embed"}
    return Manifest.model_validate(
        {
            "name": "tiny",
            "title": "A tiny model",
            "task": tasks.get(head.kind, "detect"),
            "source": "file:tiny.onnx",
            "input": spec,
            "head": head,
            "labels": ["thing"],
            "licence": "Apache-2.0",
            "homepage": "https://example.org",
        }
    )

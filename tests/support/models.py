"""Tiny ONNX models, each beside the function that checks any runner of it against NumPy."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from foveate.engines import TensorSpec
from foveate.engines.random_inputs import random_rows

__all__ = ["COLOUR_MEAN", "GAINED_MEAN", "TINY_DETECTOR", "TINY_MODELS", "Rows", "TinyModel", "onnx_model"]

Rows = Mapping[str, NDArray[Any]]
Runner = Callable[[Rows], Rows]


@dataclass(frozen=True)
class TinyModel:
    """A model with a dynamic batch, and what it must answer."""

    name: str
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    nodes: tuple[onnx.NodeProto, ...]
    weights: Mapping[str, NDArray[Any]]
    reference: Runner
    """The same sums in NumPy."""

    def save(self, folder: Path) -> Path:
        """The model as a file in a folder."""
        path = folder / f"{self.name}.onnx"
        onnx.save(onnx_model(self.inputs, self.outputs, self.nodes, self.weights), path)
        return path

    def check(self, run: Runner, rows: int = 3, seed: int = 0) -> None:
        """Assert that a runner answers random rows as NumPy does."""
        rng = np.random.default_rng(seed)
        inputs = {spec.name: random_rows(spec, rows, rng) for spec in self.inputs}
        actual, expected = run(inputs), self.reference(inputs)
        assert set(actual) == set(expected)
        for name, values in expected.items():
            assert actual[name].dtype == values.dtype
            np.testing.assert_allclose(actual[name], values, rtol=1e-4, atol=1e-4, err_msg=name)


def onnx_model(
    inputs: tuple[TensorSpec, ...],
    outputs: tuple[TensorSpec, ...],
    nodes: tuple[onnx.NodeProto, ...],
    weights: Mapping[str, NDArray[Any]],
    batch: str | int = "batch",
) -> onnx.ModelProto:
    """A checked ONNX model, whose shapes have `batch` before those of the specs."""

    def described(spec: TensorSpec) -> onnx.ValueInfoProto:
        element = helper.np_dtype_to_tensor_dtype(spec.dtype)
        return helper.make_tensor_value_info(spec.name, element, [batch, *spec.shape])

    graph = helper.make_graph(
        nodes,
        "tiny",
        [described(spec) for spec in inputs],
        [described(spec) for spec in outputs],
        [numpy_helper.from_array(array, name) for name, array in weights.items()],
    )
    # Written for the oldest ONNX Runtime that the project takes, not for the newest onnx.
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=10)
    onnx.checker.check_model(model)
    return model


_FLOAT32 = np.dtype(np.float32)
_UINT8 = np.dtype(np.uint8)


def _colour_mean(inputs: Rows) -> Rows:
    return {"mean": inputs["pixels"].astype(np.float32).mean(axis=(1, 2))}


COLOUR_MEAN = TinyModel(
    name="colour_mean",
    inputs=(TensorSpec("pixels", _UINT8, (4, 6, 3)),),
    outputs=(TensorSpec("mean", _FLOAT32, (3,)),),
    nodes=(
        helper.make_node("Cast", ["pixels"], ["floats"], to=TensorProto.FLOAT),
        helper.make_node("ReduceMean", ["floats"], ["mean"], axes=[1, 2], keepdims=0),
    ),
    weights={},
    reference=_colour_mean,
)
"""uint8 NHWC pixels to their mean colour."""


def _gained_mean(inputs: Rows) -> Rows:
    return {"mean": inputs["pixels"].astype(np.float32).mean(axis=(1, 2)) * inputs["gain"]}


GAINED_MEAN = TinyModel(
    name="gained_mean",
    inputs=(*COLOUR_MEAN.inputs, TensorSpec("gain", _FLOAT32, (3,))),
    outputs=COLOUR_MEAN.outputs,
    nodes=(
        helper.make_node("Cast", ["pixels"], ["floats"], to=TensorProto.FLOAT),
        helper.make_node("ReduceMean", ["floats"], ["plain"], axes=[1, 2], keepdims=0),
        helper.make_node("Mul", ["plain", "gain"], ["mean"]),
    ),
    weights={},
    reference=_gained_mean,
)
"""Two inputs of different types."""

_KERNEL = np.random.default_rng(7).normal(size=(2, 3, 3, 3)).astype(np.float32)


def _tiny_detector(inputs: Rows) -> Rows:
    pixels = inputs["pixels"].astype(np.float32) / np.float32(255)
    windows = np.lib.stride_tricks.sliding_window_view(pixels, (3, 3), axis=(1, 2))
    scores = np.einsum("nyxckl,fckl->nfyx", windows, _KERNEL).reshape(len(pixels), -1)
    best = np.argsort(-scores, axis=1, kind="stable")[:, :5]
    return {"scores": np.take_along_axis(scores, best, axis=1), "places": best.astype(np.int64)}


TINY_DETECTOR = TinyModel(
    name="tiny_detector",
    inputs=(TensorSpec("pixels", _UINT8, (8, 8, 3)),),
    outputs=(TensorSpec("scores", _FLOAT32, (5,)), TensorSpec("places", np.dtype(np.int64), (5,))),
    nodes=(
        helper.make_node("Cast", ["pixels"], ["floats"], to=TensorProto.FLOAT),
        helper.make_node("Div", ["floats", "largest"], ["scaled"]),
        helper.make_node("Transpose", ["scaled"], ["planes"], perm=[0, 3, 1, 2]),
        helper.make_node("Conv", ["planes", "kernel"], ["heat"]),
        helper.make_node("Flatten", ["heat"], ["flat"]),
        helper.make_node("TopK", ["flat", "count"], ["scores", "places"]),
    ),
    weights={"largest": np.array(255, np.float32), "kernel": _KERNEL, "count": np.array([5], np.int64)},
    reference=_tiny_detector,
)
"""uint8 NHWC pixels to the best scores of a convolution and where they lie: outputs of two types."""

TINY_MODELS = (COLOUR_MEAN, GAINED_MEAN, TINY_DETECTOR)

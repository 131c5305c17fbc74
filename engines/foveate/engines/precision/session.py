"""ONNX Runtime on graphs in memory: to fold them, to see what flows through them, to compare them."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
from numpy.typing import NDArray
from onnx import helper

from foveate.engines.errors import BuildFailed

__all__ = ["Feed", "folded", "network_feeds", "outputs_of", "run_each"]

Feed = Mapping[str, NDArray[Any]]
"""Tensors by name, each with a batch of its own."""


def folded(network: onnx.ModelProto) -> onnx.ModelProto:
    """The same network with constants computed and batch normalisation inside the convolutions before it.

    Quantisation sees the weights as they will be multiplied. The operators stay ONNX's own.
    Raises: BuildFailed where ONNX Runtime cannot load it.
    """
    with tempfile.TemporaryDirectory(prefix="foveate-") as folder:
        path = Path(folder) / "folded.onnx"
        options = _options(onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC)
        options.optimized_model_filepath = str(path)
        _session(network, options)
        result = onnx.load(path)
    del result.graph.value_info[:]  # it still tells of tensors that are gone
    return onnx.shape_inference.infer_shapes(result)


def network_feeds(pixels_to_network: onnx.ModelProto | None, pictures: Sequence[NDArray[np.uint8]]) -> list[Feed]:
    """What the network is fed for each picture, one dictionary a picture, with a batch of 1.

    Shapes: pictures are (H, W, 3) uint8 in the size of the graph's input.
    """
    if pixels_to_network is None:
        raise BuildFailed("the graph has no pre-processing that takes pixels: prepare the model as a package")
    (pixels,) = pixels_to_network.graph.input
    feeds = [{pixels.name: picture[np.newaxis]} for picture in pictures]
    return list(run_each(pixels_to_network, feeds))


def run_each(model: onnx.ModelProto, feeds: Sequence[Feed], *, optimize: bool = True) -> Iterator[Feed]:
    """A model's outputs by name for each feed, in order."""
    levels = onnxruntime.GraphOptimizationLevel
    session = _session(model, _options(levels.ORT_ENABLE_ALL if optimize else levels.ORT_DISABLE_ALL))
    names = [each.name for each in session.get_outputs()]
    for feed in feeds:
        yield dict(zip(names, session.run(names, dict(feed)), strict=True))


def outputs_of(model: onnx.ModelProto, tensors: Sequence[str], nodes: Sequence[onnx.NodeProto]) -> onnx.ModelProto:
    """A model with more nodes at its end and only these float tensors as its outputs; the argument is kept."""
    probe = onnx.ModelProto()
    probe.CopyFrom(model)
    probe.graph.node.extend(nodes)
    del probe.graph.output[:]
    probe.graph.output.extend(
        helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, None) for name in dict.fromkeys(tensors)
    )
    return probe


def _options(level: Any) -> Any:
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = level
    options.log_severity_level = 4  # what matters is raised
    return options


def _session(model: onnx.ModelProto, options: Any) -> Any:
    try:
        return onnxruntime.InferenceSession(
            model.SerializeToString(),
            options,
            providers=["CPUExecutionProvider"],
            disabled_optimizers=["WeightBiasQuantization"],  # as when serving: float weights stay float
        )
    except Exception as error:  # ONNX Runtime's exceptions have no common base
        raise BuildFailed(
            f"ONNX Runtime {onnxruntime.__version__} cannot run the network ({error}): prepare the model again"
        ) from error

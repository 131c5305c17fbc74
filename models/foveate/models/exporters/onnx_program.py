"""A network of torch as an ONNX file: any batch, one size of image, and proven to compute the same."""

from __future__ import annotations

import tempfile
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
import torch
from numpy.typing import NDArray
from onnx import helper, numpy_helper

from foveate.engines.errors import ModelError
from foveate.engines.registry import engine_class
from foveate.models.exporters.network import Network, sample_images
from foveate.models.manifest import InputSpec
from foveate.models.surgery import OPSET

__all__ = ["Exported", "onnx_from_network"]

IMAGE = "image"
_EXAMPLE_BATCH = 2
_CHECK_BATCH = 3
"""Another than the example's, so that a batch frozen into the graph shows."""
_CHECK_SEED = 20
_TOLERANCE = 1e-3
"""Of the largest number that an output holds. Sums in another order differ by some 1e-5 of it."""

_Answers = dict[str, NDArray[np.float32]]


@dataclass(frozen=True, slots=True)
class Exported:
    """An ONNX file and how well it does what torch does."""

    content: bytes
    max_difference: float
    """Largest difference between any two numbers of torch's answers and ONNX Runtime's, on sample images."""


def onnx_from_network(network: Network, spec: InputSpec, facts: Mapping[str, str]) -> Exported:
    """The network as one ONNX file with its weights inside.

    `facts` are kept in the file's own metadata, so that they stay with it wherever it goes.
    Raises: ModelError where torch cannot export it or ONNX Runtime's answers differ from torch's.
    """
    network.module.eval()
    model = _exported(network, sample_images(spec, _EXAMPLE_BATCH, seed=0))
    difference = _difference(network, model, sample_images(spec, _CHECK_BATCH, _CHECK_SEED))
    for name, value in network.constants.items():
        _append_constant(model.graph, name, value)
    model.producer_name = "foveate"
    helper.set_model_props(model, {**facts, "foveate.max_difference": f"{difference:.3g}"})
    return Exported(model.SerializeToString(), difference)


def _exported(network: Network, example: torch.Tensor) -> onnx.ModelProto:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch's and onnxscript's, about themselves
            program = torch.onnx.export(
                network.module,
                (example,),
                input_names=[IMAGE],
                output_names=list(network.outputs),
                dynamic_shapes=({0: torch.export.Dim("batch")},),
                opset_version=OPSET,
                dynamo=True,
                verbose=False,
            )
    except torch.onnx.OnnxExporterError as error:
        raise ModelError(f"torch {torch.__version__} cannot export this network: {_first_line(error)}") from error
    assert program is not None  # None is the older exporter's answer
    model: onnx.ModelProto = program.model_proto
    return model


def _first_line(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0] if lines else type(error).__name__


def _difference(network: Network, model: onnx.ModelProto, images: torch.Tensor) -> float:
    """The largest difference between torch and ONNX Runtime. Raises: ModelError if it is too large."""
    with torch.no_grad():
        answered = network.module(images)
    tensors = (answered,) if isinstance(answered, torch.Tensor) else answered
    expected = {name: tensor.numpy() for name, tensor in zip(network.outputs, tensors, strict=True)}
    actual = _run(model, images.numpy())
    worst = 0.0
    for name, values in expected.items():
        difference = float(np.abs(actual[name] - values).max())
        limit = _TOLERANCE * max(1.0, float(np.abs(values).max()))
        if not difference <= limit:  # also for what is not a number
            raise ModelError(
                f"the exported file does not compute what torch does: {name} differs by up to {difference:.3g}, "
                f"{limit:.3g} is allowed; nothing was kept"
            )
        worst = max(worst, difference)
    return worst


def _run(model: onnx.ModelProto, images: NDArray[np.float32]) -> _Answers:
    batch = len(images)
    with tempfile.TemporaryDirectory(prefix="foveate-export-") as folder:
        path = Path(folder) / "model.onnx"
        onnx.save(model, path)
        with engine_class("onnxruntime").from_file(path, name="export", max_batch=batch) as engine:
            slot = engine.new_slot()
            slot.inputs[IMAGE][:] = images
            engine.run(slot, batch)
            return {name: values.copy() for name, values in slot.outputs.items()}


def _append_constant(graph: onnx.GraphProto, name: str, value: NDArray[np.float32]) -> None:
    graph.initializer.append(numpy_helper.from_array(value, name))
    graph.output.append(helper.make_tensor_value_info(name, helper.np_dtype_to_tensor_dtype(value.dtype), value.shape))

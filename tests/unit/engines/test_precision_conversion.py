"""Precision made in the graph: the network changes, what is around it does not, and the answers stay."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from numpy.typing import NDArray
from onnx import TensorProto

from foveate.engines.errors import BuildFailed, EngineUnavailable
from foveate.engines.precision import convert
from foveate.models.fusion import fuse
from foveate.models.package import load_package
from support.shared_models import centerface, picture, shared_model

PICTURES = ("astronaut", "coffee", "chelsea", "rocket")


def _fused(name: str, path: Path) -> onnx.ModelProto:
    return fuse(onnx.load(path), load_package(name).manifest)


def _pictures(model: onnx.ModelProto) -> list[NDArray[np.uint8]]:
    import cv2

    height, width = (axis.dim_value for axis in model.graph.input[0].type.tensor_type.shape.dim[1:3])
    return [cv2.resize(picture(name), (width, height)).astype(np.uint8) for name in PICTURES]


def _run(model: onnx.ModelProto, rows: list[NDArray[np.uint8]]) -> dict[str, NDArray[Any]]:
    """Without graph optimisation, which gets half-precision graphs with Q/DQ nodes wrong."""
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(model.SerializeToString(), options)
    names = [output.name for output in session.get_outputs()]
    return dict(zip(names, session.run(names, {"pixels": np.stack(rows)}), strict=True))


@pytest.fixture(scope="module")
def detector() -> onnx.ModelProto:
    return _fused("centerface", centerface())


def _interface(model: onnx.ModelProto) -> list[tuple[str, int]]:
    return [(value.name, value.type.tensor_type.elem_type) for value in (*model.graph.input, *model.graph.output)]


@pytest.mark.network
@pytest.mark.parametrize(("precision", "tolerance_px"), [("fp16", 1.0), ("int8", 16.0)])
def test_the_face_stays_where_it_is(detector: onnx.ModelProto, precision: str, tolerance_px: float) -> None:
    rows = _pictures(detector)
    converted = convert(detector, precision, target="tensorrt", calibration=rows)
    assert _interface(converted) == _interface(detector), "what goes in and out keeps its types"
    expected, found = _run(detector, rows[:1]), _run(converted, rows[:1])
    assert found["scores"][0, 0] == pytest.approx(expected["scores"][0, 0], abs=0.1)
    assert found["boxes"][0, 0] == pytest.approx(expected["boxes"][0, 0], abs=tolerance_px)


@pytest.mark.network
def test_half_precision_halves_the_network_and_leaves_the_rest(detector: onnx.ModelProto) -> None:
    converted = convert(detector, "fp16", target="tensorrt")

    def weights(model: onnx.ModelProto, kind: int) -> int:
        return sum(int(np.prod(each.dims)) for each in model.graph.initializer if each.data_type == kind)

    assert weights(converted, TensorProto.FLOAT16) > 0.95 * weights(detector, TensorProto.FLOAT)
    assert converted.ByteSize() < 0.6 * detector.ByteSize()


@pytest.mark.network
def test_an_excluded_node_stays_float(detector: onnx.ModelProto) -> None:
    rows = _pictures(detector)
    whole = convert(detector, "int8", target="tensorrt", calibration=rows)
    conv = next(node.name for node in whole.graph.node if node.op_type == "Conv")
    spared = convert(detector, "int8", target="tensorrt", calibration=rows, exclude=[conv])

    def quantised(model: onnx.ModelProto) -> int:
        return sum(node.op_type == "QuantizeLinear" for node in model.graph.node)

    assert quantised(spared) < quantised(whole)


def test_a_classifier_keeps_its_mind_in_half_precision() -> None:
    classifier = _fused("efficientnet_lite0", shared_model("efficientnet_lite0.onnx"))
    rows = _pictures(classifier)
    expected, found = _run(classifier, rows), _run(convert(classifier, "fp16", target="tensorrt"), rows)
    assert (found["class_ids"][:, 0] == expected["class_ids"][:, 0]).all()


@pytest.mark.network
def test_what_cannot_be_made_is_said(detector: onnx.ModelProto) -> None:
    with pytest.raises(BuildFailed, match="needs pictures"):
        convert(detector, "int8", target="tensorrt")
    with pytest.raises(EngineUnavailable, match="modelopt"):
        convert(detector, "fp8", target="tensorrt", calibration=_pictures(detector))
    with pytest.raises(BuildFailed, match="bf16"):
        convert(detector, "bf16", target="onnxruntime")

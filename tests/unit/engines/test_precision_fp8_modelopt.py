"""fp8 by the real ModelOpt, which is an extra of 2 GB: from pictures to a plan. Skips where it is not installed."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto

from foveate.engines import BatchRange, BuildFailed, BuildOptions, EngineStore
from foveate.engines.build import build_engine
from foveate.engines.precision import convert, precision_of
from foveate.engines.precision.network import network_of
from foveate.engines.precision.session import run_each
from support.networks import PRODUCT_NODES, network_pictures, small_classifier

pytestmark = [pytest.mark.nightly, pytest.mark.timeout(600)]

PICTURES = network_pictures(12)
COSINE = 0.97
CHANNELS = 64
"""ModelOpt leaves convolutions of few channels in fp16, so also the stem, which reads three, and the depthwise one; and
products with one vector."""


@pytest.fixture(autouse=True)
def _modelopt() -> None:
    reason = "NVIDIA ModelOpt is not installed: `pip install 'foveate[modelopt]'`"
    pytest.importorskip("modelopt.onnx.quantization", reason=reason, exc_type=ImportError)


def _in_fp8(model: onnx.ModelProto) -> set[str]:
    """The products whose inputs have been through fp8."""
    graph = network_of(model).graph
    made_by = {output: node for node in graph.node for output in node.output}
    types = {each.name: each.data_type for each in graph.initializer}
    types |= {node.output[0]: node.attribute[0].t.data_type for node in graph.node if node.op_type == "Constant"}

    def dequantised(name: str) -> bool:
        node = made_by.get(name)
        while node is not None and node.op_type == "Cast":
            node = made_by.get(node.input[0])
        return (
            node is not None
            and node.op_type == "DequantizeLinear"
            and types.get(node.input[2]) == TensorProto.FLOAT8E4M3FN
        )

    return {node.name for node in graph.node if node.name in PRODUCT_NODES and dequantised(node.input[0])}


def test_products_are_in_fp8_and_answers_stay_near() -> None:
    fused = small_classifier(channels=CHANNELS)
    converted = convert(fused, "fp8", target="tensorrt", calibration=PICTURES)
    assert precision_of(converted) == "fp8"
    assert _in_fp8(converted) == {"model/wide"}
    feed = {"pixels": np.stack(PICTURES)}
    # Optimised, ONNX Runtime computes half-precision graphs with quantisers wrongly.
    before, after = (
        next(run_each(model, [feed], optimize=False))["scores"].astype(np.float64) for model in (fused, converted)
    )
    assert np.sum(before * after) / (np.linalg.norm(before) * np.linalg.norm(after)) > COSINE


@pytest.mark.parametrize(("channels", "exclude"), [(8, []), (CHANNELS, ["model/wide"])], ids=["small", "excluded"])
def test_a_network_of_which_nothing_becomes_fp8_is_not_called_so(channels: int, exclude: list[str]) -> None:
    with pytest.raises(BuildFailed, match="build it as fp16"):
        convert(small_classifier(channels=channels), "fp8", target="tensorrt", calibration=PICTURES, exclude=exclude)


def test_it_compiles(tmp_path: Path) -> None:
    pytest.importorskip("tensorrt_rtx", reason="TensorRT for RTX is not installed")
    path = tmp_path / "small.onnx"
    onnx.save(small_classifier(channels=CHANNELS), path)
    options = BuildOptions(backend="tensorrt_rtx", precision="fp8", batch=BatchRange(1, 2, 4))
    built = build_engine(path, "small", options, EngineStore(tmp_path / "engines"), calibration=PICTURES)
    assert built.record.precision == "fp8"
    assert built.record.compute_capabilities == ("sm_89+",)
    assert built.record.engine_bytes == built.path.stat().st_size > 0

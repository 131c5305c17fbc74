"""Half precision, bfloat16 and fp8: what changes in the graph, what must not, and what is refused."""

from __future__ import annotations

import sys
from collections.abc import Callable
from types import ModuleType
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, checker, helper, numpy_helper

from foveate.engines import BuildFailed, ConfigError, EngineUnavailable
from foveate.engines.precision import PRECISIONS, convert, precision_of
from foveate.engines.precision.network import network_of, with_network
from foveate.engines.precision.opset import with_opset
from support.networks import PRODUCT_NODES, SIDE_PX, network_pictures, small_classifier
from support.onnx_models import run_onnx

PICTURES = network_pictures(12)


def _outputs(model: onnx.ModelProto) -> dict[str, np.ndarray[Any, Any]]:
    return run_onnx(model, {"pixels": np.stack(PICTURES)})


def _outer(model: onnx.ModelProto) -> dict[str, tuple[Any, ...]]:
    return {
        node.name: (node.op_type, tuple(node.input), tuple(node.output))
        for node in model.graph.node
        if node.name.startswith("foveate/")
    }


def test_the_network_comes_out_and_goes_back() -> None:
    fused = small_classifier()
    network = network_of(fused)
    assert [node.name for node in network.graph.node if node.op_type in ("Conv", "Gemm")] == list(PRODUCT_NODES)
    assert [each.name for each in network.graph.input] == ["model/image"]
    assert [each.name for each in network.graph.output] == ["model/logits"]
    joined = with_network(fused, network)
    checker.check_model(joined, full_check=True)
    for name, value in _outputs(fused).items():
        np.testing.assert_array_equal(_outputs(joined)[name], value)


def test_every_node_of_the_network_gets_a_name_of_its_own() -> None:
    fused = small_classifier()
    for node in fused.graph.node:
        if node.name.startswith("model/"):
            node.name = "model/"  # what a nameless node is called once the prefix is added
    names = [node.name for node in network_of(fused).graph.node]
    assert len(set(names)) == len(names)
    assert all(name.startswith("model/") and name != "model/" for name in names)


def test_a_graph_without_a_network_is_refused() -> None:
    fused = small_classifier()
    kept = [node for node in fused.graph.node if node.name.startswith("foveate/")]
    del fused.graph.node[:]
    fused.graph.node.extend(kept)
    with pytest.raises(BuildFailed, match="no network to convert"):
        network_of(fused)


def test_a_newer_opset_keeps_the_names() -> None:
    fused = small_classifier()
    newer = with_opset(fused, 21)
    assert [each.version for each in newer.opset_import] == [21]
    assert [node.name for node in newer.graph.node] == [node.name for node in fused.graph.node]
    assert with_opset(newer, 19) is newer


@pytest.mark.parametrize("precision", ["fp16", "int8", "bf16"])
def test_only_the_network_changes(precision: str) -> None:
    fused = small_classifier()
    before = fused.SerializeToString()
    converted = convert(fused, precision, target="tensorrt", calibration=PICTURES)
    assert fused.SerializeToString() == before, "the argument was modified"
    checker.check_model(converted, full_check=True)
    assert _outer(converted) == _outer(fused)
    outer_constants = {each.name: each for each in converted.graph.initializer if each.name.startswith("foveate/")}
    assert TensorProto.FLOAT16 not in {each.data_type for each in outer_constants.values()}
    assert list(converted.graph.input) == list(fused.graph.input)
    for given, kept in zip(converted.graph.output, fused.graph.output, strict=True):
        assert (given.name, given.type.tensor_type.elem_type) == (kept.name, kept.type.tensor_type.elem_type)


@pytest.mark.parametrize("seed", range(3))
def test_half_precision_says_the_same(seed: int) -> None:
    fused = small_classifier(seed)
    half = convert(fused, "fp16", target="tensorrt")
    assert precision_of(fused) == "fp32"
    assert precision_of(half) == "fp16"
    assert {each.data_type for each in half.graph.initializer if each.name.startswith("model/")} == {
        TensorProto.FLOAT16
    }
    np.testing.assert_allclose(_outputs(half)["scores"], _outputs(fused)["scores"], atol=0.02)


def test_a_cast_to_float_inside_stays_right_in_half_precision() -> None:
    # An export's own Cast keeps its word; the converter alone leaves it at odds with the types around it.
    cast = helper.make_node("Cast", ["features"], ["pooled_extra"], name="own_cast", to=TensorProto.FLOAT)
    fused = small_classifier(extra_nodes=(cast,))
    half = convert(fused, "fp16", target="tensorrt")
    checker.check_model(half, full_check=True)
    np.testing.assert_allclose(_outputs(half)["scores"], _outputs(fused)["scores"], atol=0.02)


def test_an_output_that_the_network_reads_itself_stays_right_in_half_precision() -> None:
    fused = small_classifier()
    network = network_of(fused)
    network.graph.output.append(helper.make_tensor_value_info("model/features", TensorProto.FLOAT, ("batch", 32)))
    fused.graph.output.append(helper.make_tensor_value_info("model/features", TensorProto.FLOAT, ("batch", 32)))
    half = convert(fused, "fp16", target="tensorrt")
    checker.check_model(half, full_check=True)
    given, expected = _outputs(half), _outputs(fused)
    assert given["model/features"].dtype == np.float32
    np.testing.assert_allclose(given["model/features"], expected["model/features"], rtol=0.01, atol=0.01)


def test_half_precision_twice_is_once() -> None:
    half = convert(small_classifier(), "fp16", target="tensorrt")
    again = convert(half, "fp16", target="tensorrt")
    assert [node.op_type for node in again.graph.node] == [node.op_type for node in half.graph.node]


def test_single_precision_is_the_graph_itself() -> None:
    fused = small_classifier()
    assert convert(fused, "fp32", target="onnxruntime") is fused


def test_bfloat16_leaves_no_float_in_the_network() -> None:
    converted = convert(small_classifier(), "bf16", target="tensorrt")
    assert precision_of(converted) == "bf16"
    weights = {each.name: each for each in converted.graph.initializer if each.name.startswith("model/")}
    assert {each.data_type for each in weights.values()} == {TensorProto.BFLOAT16}
    original = {each.name: each for each in small_classifier().graph.initializer}
    for name, tensor in weights.items():
        values = numpy_helper.to_array(tensor).astype(np.float32)
        np.testing.assert_allclose(values, numpy_helper.to_array(original[name]), rtol=2**-8)


def test_bfloat16_names_the_operators_that_cannot() -> None:
    nodes = (
        helper.make_node("HardSwish", ["features"], ["swished"], name="swish"),
        helper.make_node("HardSigmoid", ["swished"], ["sigmoid"], name="sigmoid"),
        helper.make_node("Celu", ["swished"], ["curved"], name="celu"),
        helper.make_node("Identity", ["swished"], ["pooled_extra"], name="same"),
    )
    with pytest.raises(
        BuildFailed, match="Celu, HardSwish cannot be computed in bf16 by TensorRT: build this model as"
    ):
        convert(small_classifier(extra_nodes=nodes), "bf16", target="tensorrt")


@pytest.mark.parametrize("precision", ["bf16", "fp8"])
def test_onnx_runtime_has_no_such_precision(precision: str) -> None:
    with pytest.raises(BuildFailed, match=f"no {precision} Conv"):
        convert(small_classifier(), precision, target="onnxruntime", calibration=PICTURES)


@pytest.mark.parametrize(("precision", "target"), [("fp4", "tensorrt"), ("fp16", "openvino")])
def test_unknown_words_are_refused(precision: str, target: str) -> None:
    with pytest.raises(ConfigError, match=r"choose one of"):
        convert(small_classifier(), precision, target=target)


def test_fp8_names_the_extra_that_it_needs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "modelopt", None)
    with pytest.raises(EngineUnavailable, match=r"pip install 'foveate\[modelopt\]'"):
        convert(small_classifier(), "fp8", target="tensorrt", calibration=PICTURES)


def test_fp16_names_the_extra_that_it_needs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "onnxconverter_common", None)
    with pytest.raises(EngineUnavailable, match=r"pip install 'foveate\[build\]'"):
        convert(small_classifier(), "fp16", target="tensorrt")


def _modelopt(monkeypatch: pytest.MonkeyPatch, quantize: Callable[..., None]) -> None:
    """A stand-in for ModelOpt, which is not installed with the development tools."""
    quantization = ModuleType("modelopt.onnx.quantization")
    quantization.quantize = quantize  # type: ignore[attr-defined]
    package = ModuleType("modelopt.onnx")
    package.quantization = quantization  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "modelopt", ModuleType("modelopt"))
    monkeypatch.setitem(sys.modules, "modelopt.onnx", package)


def test_fp8_hands_modelopt_the_bare_network_and_what_it_is_fed(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: dict[str, Any] = {}

    def quantize(path: str, **wishes: Any) -> None:
        asked.update(wishes)
        model = onnx.load(path)
        asked["operators"] = {node.op_type for node in model.graph.node}
        model.graph.initializer.append(helper.make_tensor("zero", TensorProto.FLOAT8E4M3FN, [], [0.0]))
        onnx.save(model, wishes["output_path"])

    _modelopt(monkeypatch, quantize)
    fused = small_classifier()
    converted = convert(fused, "fp8", target="tensorrt", calibration=PICTURES, exclude=["model/stem"])
    assert asked["quantize_mode"] == "fp8"
    assert asked["nodes_to_exclude"] == ["model/stem"]
    assert asked["calibration_data"]["model/image"].shape == (len(PICTURES), 3, SIDE_PX, SIDE_PX)
    assert "TopK" not in asked["operators"]
    np.testing.assert_array_equal(_outputs(converted)["scores"], _outputs(fused)["scores"])


def test_what_modelopt_leaves_as_it_is_is_not_called_fp8(monkeypatch: pytest.MonkeyPatch) -> None:
    def quantize(path: str, **wishes: Any) -> None:
        onnx.save(onnx.load(path), wishes["output_path"])

    _modelopt(monkeypatch, quantize)
    with pytest.raises(BuildFailed, match="no layer that fp8 makes faster"):
        convert(small_classifier(), "fp8", target="tensorrt", calibration=PICTURES)


def test_what_modelopt_raises_becomes_a_failed_build(monkeypatch: pytest.MonkeyPatch) -> None:
    def quantize(path: str, **wishes: Any) -> None:
        raise RuntimeError("no such operator")

    _modelopt(monkeypatch, quantize)
    with pytest.raises(BuildFailed, match="no such operator"):
        convert(small_classifier(), "fp8", target="tensorrt", calibration=PICTURES)


def test_every_precision_is_said_of_what_was_made() -> None:
    for precision in ("fp32", "fp16", "bf16", "int8"):
        made = convert(small_classifier(), precision, target="tensorrt", calibration=PICTURES)
        assert precision_of(made) == precision
    assert set(PRECISIONS) == {"fp32", "fp16", "bf16", "int8", "fp8"}

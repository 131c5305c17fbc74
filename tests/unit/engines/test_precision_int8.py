"""int8: the graph that each backend wants, and the corrections that make it good."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, checker, numpy_helper

from foveate.engines import BuildFailed, ConfigError
from foveate.engines.precision import convert, int8
from foveate.engines.precision.bias_correction import bias_errors, with_corrected_biases
from foveate.engines.precision.conversion import calibrate, feeds_for
from foveate.engines.precision.equalisation import equalized
from foveate.engines.precision.int8 import product_names, quantized
from foveate.engines.precision.network import network_of
from foveate.engines.precision.session import Feed, folded, outputs_of, run_each
from support.networks import PRODUCT_NODES, SIDE_PX, network_pictures, small_classifier

CALIBRATION = network_pictures(32, seed=1)
JUDGED = network_pictures(64, seed=2)


def _scores(model: onnx.ModelProto, *, optimize: bool = False) -> NDArray[np.float32]:
    (outputs,) = run_each(model, [{"pixels": np.stack(JUDGED)}], optimize=optimize)
    by_class = np.zeros_like(outputs["scores"])
    np.put_along_axis(by_class, outputs["class_ids"].astype(np.int64), outputs["scores"], axis=1)
    return by_class


class _Graph:
    """What a test asks of a graph."""

    def __init__(self, model: onnx.ModelProto) -> None:
        self.model = model
        self.nodes = {node.name: node for node in model.graph.node}
        self.makers = {name: node for node in model.graph.node for name in node.output}
        self.constants = {each.name: each for each in model.graph.initializer}

    def quantised(self, name: str) -> bool:
        """Whether both the input and the weights of a product come from int8."""
        kinds = [self.makers[each].op_type if each in self.makers else "" for each in self.nodes[name].input[:2]]
        assert kinds.count("DequantizeLinear") in (0, 2), f"{name} is half quantised"
        return kinds == ["DequantizeLinear"] * 2

    def constant(self, name: str) -> NDArray[Any]:
        return numpy_helper.to_array(self.constants[name])


def test_tensorrt_gets_symmetric_inputs_float_biases_and_half_precision_elsewhere() -> None:
    graph = _Graph(convert(small_classifier(), "int8", target="tensorrt", calibration=CALIBRATION))
    for name in PRODUCT_NODES:
        assert graph.quantised(name)
        values, weights = (graph.makers[each] for each in graph.nodes[name].input[:2])
        assert graph.constant(weights.input[0]).dtype == np.int8
        scales = graph.constant(weights.input[1])
        assert scales.dtype == np.float16
        assert scales.shape == (len(graph.constant(weights.input[0])),), "one scale a channel"
        for zero_points in (graph.constant(values.input[2]), graph.constant(weights.input[2])):
            assert zero_points.dtype == np.int8
            assert not zero_points.any()
        for bias in graph.nodes[name].input[2:]:
            assert graph.constants[bias].data_type == TensorProto.FLOAT16
    readers = {name for node in graph.model.graph.node if node.op_type != "QuantizeLinear" for name in node.input}
    assert {graph.nodes[name].output[0] for name in PRODUCT_NODES[:3]} <= readers, "outputs are not quantised"


def test_onnx_runtime_gets_unsigned_activations_and_whole_runs_in_8_bits() -> None:
    graph = _Graph(convert(small_classifier(), "int8", target="onnxruntime", calibration=CALIBRATION))
    assert all(graph.quantised(name) for name in PRODUCT_NODES)
    values, weights = (graph.makers[each] for each in graph.nodes["model/wide"].input[:2])
    assert graph.constant(values.input[2]).dtype == np.uint8
    assert graph.constant(weights.input[0]).dtype == np.int8
    bias = graph.makers[graph.nodes["model/wide"].input[2]]
    assert graph.constant(bias.input[0]).dtype == np.int32
    assert "Relu" not in {node.op_type for node in graph.model.graph.node}, "an unsigned range is a ReLU already"


@pytest.mark.parametrize("target", ["tensorrt", "onnxruntime"])
@pytest.mark.parametrize("seed", range(3))
def test_int8_says_nearly_the_same(target: str, seed: int) -> None:
    fused = small_classifier(seed)
    converted = convert(fused, "int8", target=target, calibration=CALIBRATION)
    checker.check_model(converted, full_check=True)
    expected, given = _scores(fused), _scores(converted)
    assert (expected.argmax(axis=1) == given.argmax(axis=1)).mean() > 0.9
    np.testing.assert_allclose(given, expected, atol=0.12)


@pytest.mark.parametrize("target", ["tensorrt", "onnxruntime"])
def test_excluded_nodes_stay_float(target: str) -> None:
    exclude = ["model/depthwise", "model/logits"]
    graph = _Graph(convert(small_classifier(), "int8", target=target, calibration=CALIBRATION, exclude=exclude))
    for name in PRODUCT_NODES:
        weights = graph.nodes[name].input[1]
        assert (weights in graph.constants) == (name in exclude)


def test_without_any_node_left_nothing_is_quantised() -> None:
    converted = convert(
        small_classifier(), "int8", target="onnxruntime", calibration=CALIBRATION, exclude=PRODUCT_NODES
    )
    np.testing.assert_allclose(_scores(converted), _scores(small_classifier()), atol=0.02)


def test_a_node_that_is_not_there_is_refused_with_the_nearest() -> None:
    with pytest.raises(ConfigError, match="did you mean model/depthwise"):
        convert(small_classifier(), "int8", target="tensorrt", calibration=CALIBRATION, exclude=["model/depth_wise"])


@pytest.mark.parametrize(
    ("pictures", "complaint"),
    [
        ((), "int8 needs pictures"),
        ((np.zeros((8, 8, 3), np.uint8),), r"is \(8, 8, 3\) uint8, the graph takes \(16, 16, 3\)"),
        ((np.zeros((SIDE_PX, SIDE_PX, 3), np.float32),), "float32, the graph takes"),
    ],
)
def test_pictures_that_do_not_fit_are_refused(pictures: Collection[Any], complaint: str) -> None:
    with pytest.raises(BuildFailed, match=complaint):
        convert(small_classifier(), "int8", target="tensorrt", calibration=list(pictures))


def _feeds(fused: onnx.ModelProto) -> list[Feed]:
    return feeds_for(fused, CALIBRATION, "int8")


def _outputs(network: onnx.ModelProto, feeds: list[Feed]) -> NDArray[np.float32]:
    return np.concatenate([values["model/logits"] for values in run_each(network, feeds)])


def test_equalising_changes_ranges_and_nothing_else() -> None:
    fused = small_classifier(spread=100)
    network, feeds = folded(network_of(fused)), _feeds(fused)
    before = network.SerializeToString()
    equal = equalized(network, feeds)
    assert network.SerializeToString() == before
    np.testing.assert_allclose(_outputs(equal, feeds), _outputs(network, feeds), rtol=1e-3, atol=1e-3)

    def spread(model: onnx.ModelProto) -> float:
        seen = list(run_each(outputs_of(model, ["model/stem_active"], []), feeds))
        largest = np.max([each["model/stem_active"].max(axis=(0, 2, 3)) for each in seen], axis=0)
        return float(largest.max() / largest[largest > 0].min())

    assert spread(equal) < spread(network) / 4


@pytest.mark.parametrize("target", ["tensorrt", "onnxruntime"])
def test_equalised_channels_survive_int8(target: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Channels a hundred times apart share one scale: without help the small ones are rounded away."""
    fused = small_classifier(spread=100)

    def error() -> float:
        given = _scores(convert(fused, "int8", target=target, calibration=CALIBRATION))
        return float(np.abs(given - _scores(fused)).mean())

    helped = error()
    monkeypatch.setattr(int8, "equalized", lambda network, feeds: network)
    assert helped < error() / 2


def test_corrected_biases_take_the_mean_error_back() -> None:
    fused = small_classifier()
    feeds = _feeds(fused)
    source = calibrate(fused, "tensorrt", CALIBRATION)
    assert set(source.bias_errors) == set(PRODUCT_NODES)
    assert any(np.abs(each).max() > 1e-4 for each in source.bias_errors.values())
    corrected = quantized(source, product_names(source.network))
    # Measured again with the corrected biases, relative to the network that was corrected, nothing is left.
    again = bias_errors(source.network, corrected, feeds)
    for name, error in again.items():
        np.testing.assert_allclose(error, 0, atol=1e-3 + 0.05 * np.abs(source.bias_errors[name]).max(), err_msg=name)


def test_only_the_biases_of_quantised_nodes_are_corrected() -> None:
    source = calibrate(small_classifier(), "tensorrt", CALIBRATION)
    corrected = with_corrected_biases(source.network, source.bias_errors, ["model/depthwise"])
    changed = [
        node.name
        for node, plain in zip(corrected.graph.node, source.network.graph.node, strict=True)
        if list(node.input) != list(plain.input)
    ]
    assert changed == ["model/depthwise"], "it has no bias of its own and gets one"

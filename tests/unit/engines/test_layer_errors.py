"""Bisection: the layer that was broken on purpose is the one that is named, in every precision and for both targets."""

from __future__ import annotations

import math

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

from foveate.engines.errors import BuildFailed
from foveate.engines.half_rounding import with_half_rounding
from foveate.engines.layer_errors import Bisection, bisect_layers, comparable_reference
from foveate.engines.precision import convert
from foveate.engines.precision.session import run_each
from support.networks import PRODUCT_NODES, network_pictures, small_classifier

PICTURES = network_pictures(6)
CALIBRATION = network_pictures(16, seed=3)


def _scaled(model: onnx.ModelProto, **factors: float) -> onnx.ModelProto:
    """A copy with tensors of the network, by name, multiplied."""
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    named = {tensor.name: tensor for tensor in copy.graph.initializer}
    for name, factor in factors.items():
        tensor = named[f"model/{name}"]
        values = numpy_helper.to_array(tensor)
        tensor.CopyFrom(numpy_helper.from_array((values * factor).astype(values.dtype), tensor.name))
    return copy


def _bisected(model: onnx.ModelProto, precision: str, target: str, faults: dict[str, float] | None = None) -> Bisection:
    calibration = CALIBRATION if precision == "int8" else []
    converted = convert(model, precision, target=target, calibration=calibration)
    reference = comparable_reference(model, converted, target=target, calibration=calibration)
    return bisect_layers(reference, _scaled(converted, **(faults or {})), PICTURES)


@pytest.mark.parametrize("node", PRODUCT_NODES)
def test_a_layer_with_wrong_weights_in_half_precision_is_named(node: str) -> None:
    found = _bisected(small_classifier(), "fp16", "tensorrt", {f"{node.removeprefix('model/')}_weight": 1.5})
    assert found.culprit is not None
    assert found.culprit.layer.node == node
    assert found.culprit.own_error > 0.05
    assert found.culprit.without < 0.01 < found.error
    assert found.culprit.alone == pytest.approx(found.error, rel=0.05)
    assert [each.layer.node for each in found.suspects] == [node]


@pytest.mark.parametrize("target", ["tensorrt", "onnxruntime"])
@pytest.mark.parametrize("node", PRODUCT_NODES)
def test_a_layer_with_a_wrong_scale_in_int8_is_named(node: str, target: str) -> None:
    found = _bisected(small_classifier(), "int8", target, {f"{node.removeprefix('model/')}_weight_scale": 2.0})
    assert found.culprit is not None
    assert found.culprit.layer.node == node
    assert found.culprit.without < found.error / 2


def test_the_first_layer_that_overflows_is_named() -> None:
    model = _scaled(small_classifier(), stem_weight=6e4, stem_bias=6e4, depthwise_weight=1 / 6e4)
    found = _bisected(model, "fp16", "tensorrt")
    assert math.isinf(found.error)
    assert found.culprit is not None
    assert found.culprit.layer.node == "model/stem"
    assert math.isinf(found.culprit.alone)
    assert found.culprit.without < 0.01, "proven by what is left when the layers with such values stay float"
    assert found.culprit.kept_with == ("model/stem_relu", "model/depthwise")
    errors = {each.layer.node: each for each in found.layers}
    assert math.isnan(errors["model/stem"].cosine)
    assert errors["model/wide"].own_error < 0.01, "given sound values it is sound"


@pytest.mark.parametrize(("precision", "target"), [("fp16", "tensorrt"), ("int8", "tensorrt"), ("int8", "onnxruntime")])
def test_a_sound_conversion_has_no_culprit(precision: str, target: str) -> None:
    found = _bisected(small_classifier(spread=20.0), precision, target)
    assert found.culprit is None
    assert found.error < 0.05
    assert all(each.error < 0.1 and each.cosine > 0.99 for each in found.layers)


def test_layers_come_in_the_order_in_which_they_run() -> None:
    nodes = [each.layer.node for each in _bisected(small_classifier(), "fp16", "tensorrt").layers]
    assert nodes == [
        "model/stem",
        "model/stem_relu",
        "model/depthwise",
        "model/depthwise_relu",
        "model/wide",
        "model/wide_relu",
        "model/pool",
        "model/flatten",
        "model/logits",
    ]


def test_a_layer_is_what_both_graphs_have() -> None:
    found = _bisected(small_classifier(), "int8", "onnxruntime")
    assert [each.layer.node for each in found.layers if each.layer.op_type == "Conv"] == list(PRODUCT_NODES[:3])
    assert not [each for each in found.layers if each.layer.op_type == "Relu"], "clipped by the quantiser, no layer"


def test_a_rescaled_channel_is_no_fault() -> None:
    model = small_classifier(spread=20.0)
    converted = convert(model, "int8", target="tensorrt", calibration=CALIBRATION)
    found = bisect_layers(comparable_reference(model, converted, target="tensorrt"), converted, PICTURES)
    assert max(each.error for each in found.layers) > 0.1, "without its calibration it looks like one"
    assert found.culprit is None


def test_another_network_is_refused() -> None:
    other = small_classifier()
    for node in other.graph.node:
        for names in (node.input, node.output):
            names[:] = [name.replace("model/", "another/") for name in names]
    for tensor in other.graph.initializer:
        tensor.name = tensor.name.replace("model/", "another/")
    with pytest.raises(BuildFailed, match="no outputs of the network in common"):
        bisect_layers(small_classifier(), other, PICTURES)


def test_half_precision_overflows_on_the_cpu_as_on_a_gpu() -> None:
    model = _scaled(small_classifier(), stem_weight=6e4, stem_bias=6e4, depthwise_weight=1 / 6e4)
    converted = convert(model, "fp16", target="tensorrt")
    feeds = [{"pixels": np.stack(PICTURES)}]
    (plain,) = run_each(converted, feeds, optimize=False)
    (rounded,) = run_each(with_half_rounding(converted), feeds, optimize=False)
    assert np.isfinite(plain["scores"]).all(), "ONNX Runtime leaves casts out: if not any more, so can we the rounding"
    assert not np.isfinite(rounded["scores"]).all()


def test_rounding_leaves_a_graph_without_half_precision_alone() -> None:
    model = small_classifier()
    assert [node.op_type for node in with_half_rounding(model).graph.node] == [
        node.op_type for node in model.graph.node
    ]


def test_branches_of_a_network_are_layers_too() -> None:
    """Layers with two inputs, one of them from far before, are exchanged with both."""
    extra = (
        helper.make_node("Sigmoid", ["features"], ["gate"], name="gate"),
        helper.make_node("Mul", ["features", "gate"], ["pooled_extra"], name="gated"),
    )
    found = _bisected(small_classifier(extra_nodes=extra), "fp16", "tensorrt", {"logits_weight": 2.0})
    assert found.culprit is not None
    assert found.culprit.layer.node == "model/logits"
    assert {"model/gate", "model/gated"} <= {each.layer.node for each in found.layers}

"""The sensitivity report finds the node that int8 hurts, and the proposal leaves out just enough."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx import numpy_helper

from foveate.engines import BuildFailed
from foveate.engines.precision import NodeLoss, propose_exclude, sensitivity
from support.networks import PRODUCT_NODES, network_pictures, small_classifier

CALIBRATION = network_pictures(16, seed=1)


def _with_outlier() -> onnx.ModelProto:
    """A classifier whose last layer has, in each row, one weight far above the rest, on a feature that is zero."""
    fused = small_classifier()
    for tensor in fused.graph.initializer:
        values = numpy_helper.to_array(tensor).copy()
        if tensor.name == "model/wide_bias":
            values[0] = -1e4
        elif tensor.name == "model/logits_weight":
            values[:, 0] = 3000
        else:
            continue
        tensor.CopyFrom(numpy_helper.from_array(values, tensor.name))
    return fused


@pytest.mark.parametrize("target", ["tensorrt", "onnxruntime"])
def test_the_node_that_loses_most_comes_first(target: str) -> None:
    steps: list[tuple[int, int]] = []
    losses = sensitivity(
        _with_outlier(),
        CALIBRATION,
        CALIBRATION[:4],
        target=target,
        on_progress=lambda done, total: steps.append((done, total)),
    )
    assert {each.node for each in losses} == set(PRODUCT_NODES)
    assert losses[0].node == "model/logits"
    assert losses[0].loss > 10 * losses[1].loss
    assert [each.loss for each in losses] == sorted((each.loss for each in losses), reverse=True)
    assert steps == [(done, len(PRODUCT_NODES)) for done in range(1, len(PRODUCT_NODES) + 1)]


def test_pictures_are_needed_for_both() -> None:
    with pytest.raises(BuildFailed, match="int8 needs pictures"):
        sensitivity(small_classifier(), [], CALIBRATION)
    with pytest.raises(BuildFailed, match="the sensitivity report needs pictures"):
        sensitivity(small_classifier(), CALIBRATION, [])


@given(
    st.lists(st.floats(0, 1), max_size=20),
    st.floats(0, 1),
    st.floats(0, 1),
)
def test_no_more_is_left_out_than_needed(losses: list[float], budget: float, most: float) -> None:
    nodes = [NodeLoss(f"n{index}", loss) for index, loss in enumerate(losses)]
    excluded = propose_exclude(nodes, budget=budget, most=most)
    left = [each.loss for each in nodes if each.node not in excluded]
    out = [each.loss for each in nodes if each.node in excluded]
    assert len(excluded) == len(out) <= most * len(nodes)
    assert not out or min(out) >= max(left, default=0)
    if len(excluded) < int(most * len(nodes)):
        assert np.sum(left) <= budget + 1e-9
    if out:
        assert np.sum(left) + min(out) > budget - 1e-9, "one less would have done"

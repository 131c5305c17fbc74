"""Exports made fit for any batch, and refused with a way out where they cannot be."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, helper

from foveate.engines.errors import ModelError
from foveate.models.surgery import BATCH, OPSET, image_input, with_dynamic_batch
from support.onnx_models import model_of, run_onnx
from support.shared_models import centerface, shared_model

RNG = np.random.default_rng(11)


def reshaping(shape: list[int], batch: int | str = 1, **attributes: Any) -> onnx.ModelProto:
    """A convolution to 6 channels and a reshape by a constant; 8 x 8 pictures."""
    nodes = [
        helper.make_node("Conv", ["image", "kernel"], ["maps"], kernel_shape=[1, 1]),
        helper.make_node("Reshape", ["maps", "shape"], ["rows"], **attributes),
    ]
    weights = {"kernel": RNG.normal(size=(6, 3, 1, 1)).astype(np.float32), "shape": np.array(shape)}
    return model_of(nodes, {"image": [batch, 3, 8, 8]}, {"rows": None}, weights)


def pictures(batch: int, height: int, width: int) -> NDArray[np.float32]:
    return RNG.uniform(0, 255, (batch, 3, height, width)).astype(np.float32)


def assert_rows_do_not_depend_on_the_batch(model: onnx.ModelProto, height: int, width: int) -> None:
    name, images = image_input(model).name, pictures(2, height, width)
    together = run_onnx(model, {name: images})
    for row in range(2):
        alone = run_onnx(model, {name: images[row : row + 1]})
        for output, values in together.items():
            np.testing.assert_allclose(values[row], alone[output][0], rtol=1e-4, atol=1e-4)


def dims(value: onnx.ValueInfoProto) -> list[int | str]:
    return [dim.dim_param or dim.dim_value for dim in value.type.tensor_type.shape.dim]


@pytest.mark.parametrize("shape", [[1, 6, -1], [1, -1], [1, 6, 64], [-1, 6, 64], [0, 6, 64]])
def test_a_reshape_lets_go_of_the_batch(shape: list[int]) -> None:
    model = reshaping(shape)
    prepared = with_dynamic_batch(model, (8, 8))
    assert dims(prepared.graph.input[0]) == [BATCH, 3, 8, 8]
    assert dims(prepared.graph.output[0])[0] == BATCH
    images = pictures(1, 8, 8)
    np.testing.assert_array_equal(
        run_onnx(model, {"image": images})["rows"], run_onnx(prepared, {"image": images})["rows"]
    )
    assert_rows_do_not_depend_on_the_batch(prepared, 8, 8)


def test_a_batch_of_ten_and_another_size_are_let_go() -> None:
    prepared = with_dynamic_batch(reshaping([10, 6, -1], batch=10), (16, 24))
    assert dims(prepared.graph.output[0]) == [BATCH, 6, 384]
    assert_rows_do_not_depend_on_the_batch(prepared, 16, 24)


def test_a_reshape_that_allows_zeros_is_let_go() -> None:
    prepared = with_dynamic_batch(reshaping([1, 6, 64], allowzero=1), (8, 8))
    assert_rows_do_not_depend_on_the_batch(prepared, 8, 8)


def test_a_reshape_by_a_constant_node_is_let_go() -> None:
    shape = helper.make_tensor("value", TensorProto.INT64, [2], [1, 192])
    nodes = [
        helper.make_node("Constant", [], ["shape"], value=shape),
        helper.make_node("Reshape", ["image", "shape"], ["rows"]),
    ]
    prepared = with_dynamic_batch(model_of(nodes, {"image": [1, 3, 8, 8]}, {"rows": [1, 192]}), (8, 8))
    assert_rows_do_not_depend_on_the_batch(prepared, 8, 8)


def test_a_constant_of_one_row_stays_one_row() -> None:
    # The same shape vector serves the picture, which is batched, and a weight, which is not.
    nodes = [
        helper.make_node("Reshape", ["bias", "shape"], ["bias_row"]),
        helper.make_node("Reshape", ["image", "shape"], ["rows"]),
        helper.make_node("Add", ["rows", "bias_row"], ["sum"]),
    ]
    weights = {"bias": RNG.normal(size=192).astype(np.float32), "shape": np.array([1, 192])}
    model = model_of(nodes, {"image": [1, 3, 8, 8]}, {"sum": [1, 192]}, weights)
    prepared = with_dynamic_batch(model, (8, 8))
    images = pictures(1, 8, 8)
    np.testing.assert_array_equal(
        run_onnx(model, {"image": images})["sum"], run_onnx(prepared, {"image": images})["sum"]
    )
    assert_rows_do_not_depend_on_the_batch(prepared, 8, 8)


def test_a_row_made_from_the_pictures_size_stays_one_row() -> None:
    # The size of the batch is no batch of sizes, though it comes from the picture.
    nodes = [
        helper.make_node("Shape", ["image"], ["sides"], start=2),
        helper.make_node("Cast", ["sides"], ["float_sides"], to=TensorProto.FLOAT),
        helper.make_node("Reshape", ["float_sides", "one_row"], ["sides_row"]),
        helper.make_node("ReduceMax", ["image", "axes"], ["brightest"], keepdims=0),
        helper.make_node("Mul", ["brightest", "sides_row"], ["result"]),
    ]
    weights = {"one_row": np.array([1, 2]), "axes": np.array([1, 2])}
    model = model_of(nodes, {"image": [1, 3, 4, 2]}, {"result": [1, 2]}, weights)
    images = pictures(2, 4, 2)
    result = run_onnx(with_dynamic_batch(model, (4, 2)), {"image": images})["result"]
    np.testing.assert_array_equal(result, images.max(axis=(1, 2)) * [4, 2])


def test_weights_among_the_inputs_and_unused_ones_go() -> None:
    model = reshaping([1, 6, -1])
    model.graph.input.append(helper.make_tensor_value_info("kernel", TensorProto.FLOAT, [6, 3, 1, 1]))
    unused = helper.make_tensor("num_batches_tracked", TensorProto.INT64, [], [7])
    model.graph.initializer.append(unused)
    model.graph.input.append(helper.make_tensor_value_info("num_batches_tracked", TensorProto.INT64, []))
    prepared = with_dynamic_batch(model, (8, 8))
    assert [value.name for value in prepared.graph.input] == ["image"]
    assert "num_batches_tracked" not in {weight.name for weight in prepared.graph.initializer}


def test_weights_that_only_a_branch_reads_stay() -> None:
    branch = helper.make_graph(
        [helper.make_node("Mul", ["image", "factor"], ["scaled"])],
        "branch",
        [],
        [helper.make_tensor_value_info("scaled", TensorProto.FLOAT, None)],
    )
    node = helper.make_node("If", ["choice"], ["chosen"], then_branch=branch, else_branch=branch)
    weights = {"factor": np.float32(2).reshape(1), "choice": np.array(True)}
    model = model_of([node], {"image": ["n", 3, 8, 8]}, {"chosen": ["n", 3, 8, 8]}, weights)
    prepared = with_dynamic_batch(model, (8, 8))
    images = pictures(2, 8, 8)
    np.testing.assert_array_equal(run_onnx(prepared, {"image": images})["chosen"], images * 2)


def test_an_old_opset_is_raised_with_the_same_results() -> None:
    model = model_of(
        [helper.make_node("ReduceMax", ["image"], ["largest"], axes=[2, 3], keepdims=0)],
        {"image": [1, 3, 8, 8]},
        {"largest": [1, 3]},
        opset=11,
    )
    prepared = with_dynamic_batch(model, (8, 8))
    assert prepared.opset_import[0].version == OPSET
    images = pictures(3, 8, 8)
    np.testing.assert_array_equal(run_onnx(prepared, {"image": images})["largest"], images.max(axis=(2, 3)))


def test_preparing_twice_is_the_same_as_once_and_the_argument_is_untouched() -> None:
    model = reshaping([1, 6, -1])
    before = model.SerializeToString(deterministic=True)
    once = with_dynamic_batch(model, (8, 8))
    assert model.SerializeToString(deterministic=True) == before
    twice = with_dynamic_batch(once, (8, 8))
    assert twice.SerializeToString(deterministic=True) == once.SerializeToString(deterministic=True)


def test_a_batch_that_is_frozen_by_a_constant_is_refused() -> None:
    # A learned query of one row is the output itself, whatever the batch.
    nodes = [
        helper.make_node("ReduceMax", ["image", "axes"], ["brightest"], keepdims=1),
        helper.make_node("Add", ["queries", "brightest"], ["rows"]),
    ]
    weights = {"queries": np.zeros((1, 3, 4, 4), np.float32), "axes": np.array([0, 2, 3])}
    with pytest.raises(ModelError, match="batch is frozen"):
        with_dynamic_batch(model_of(nodes, {"image": [1, 3, 8, 8]}, {"rows": None}, weights), (8, 8))


def test_a_reshape_that_mixes_rows_is_refused() -> None:
    with pytest.raises(ModelError, match="batch"):
        with_dynamic_batch(reshaping([2, 3, 64]), (8, 8))


def test_a_size_that_the_graph_cannot_take_is_refused() -> None:
    with pytest.raises(ModelError, match=r"into .7, 6, 64.*export the model with a dynamic batch"):
        with_dynamic_batch(reshaping([1, 6, 64]), (16, 16))


def test_an_output_whose_size_depends_on_the_data_is_refused() -> None:
    nodes = [
        helper.make_node("NonZero", ["image"], ["places"]),
        helper.make_node("Transpose", ["places"], ["hits"], perm=[1, 0]),
        helper.make_node("Cast", ["hits"], ["rows"], to=TensorProto.FLOAT),
    ]
    with pytest.raises(ModelError, match=r"cannot be told, only .*, 4.*no NonMaxSuppression"):
        with_dynamic_batch(model_of(nodes, {"image": ["n", 3, 8, 8]}, {"rows": None}), (8, 8))


@pytest.mark.parametrize(
    ("inputs", "message"),
    [
        ({"image": [1, 3, 8, 8], "sizes": [1, 2]}, "has 2 inputs"),
        ({"image": [1, 8, 8, 3]}, "channels first"),
        ({"image": [1, 192]}, "channels first"),
    ],
)
def test_what_is_no_single_picture_is_refused(inputs: dict[str, list[int]], message: str) -> None:
    nodes = [helper.make_node("Identity", [name], [f"{name}_out"]) for name in inputs]
    model = model_of(nodes, inputs, {f"{name}_out": shape for name, shape in inputs.items()})
    with pytest.raises(ModelError, match=message):
        with_dynamic_batch(model, (8, 8))


def test_a_file_without_an_opset_is_refused() -> None:
    model = reshaping([1, 6, -1])
    del model.opset_import[:]
    with pytest.raises(ModelError, match="no ONNX opset"):
        with_dynamic_batch(model, (8, 8))


def test_yolox_with_its_frozen_batch() -> None:
    model = onnx.load(shared_model("yolox_nano.onnx"))
    prepared = with_dynamic_batch(model, (416, 416))
    assert dims(prepared.graph.output[0]) == [BATCH, 3549, 85]
    images = pictures(1, 416, 416)
    before, after = (run_onnx(each, {"images": images})["output"] for each in (model, prepared))
    np.testing.assert_allclose(after, before, rtol=1e-4, atol=1e-4)
    assert_rows_do_not_depend_on_the_batch(prepared, 416, 416)


def test_yolox_at_another_size() -> None:
    prepared = with_dynamic_batch(onnx.load(shared_model("yolox_nano.onnx")), (320, 256))
    assert dims(prepared.graph.output[0]) == [BATCH, 40 * 32 + 20 * 16 + 10 * 8, 85]
    assert_rows_do_not_depend_on_the_batch(prepared, 320, 256)


@pytest.mark.network
def test_centerface_with_its_ten_tiny_pictures() -> None:
    model = onnx.load(centerface())
    prepared = with_dynamic_batch(model, (96, 64))
    assert [dims(output)[1:] for output in prepared.graph.output] == [
        [1, 24, 16],
        [2, 24, 16],
        [2, 24, 16],
        [10, 24, 16],
    ]
    assert_rows_do_not_depend_on_the_batch(prepared, 96, 64)
    images = pictures(10, 32, 32)
    before = run_onnx(model, {"input.1": images})
    after = run_onnx(with_dynamic_batch(model, (32, 32)), {"input.1": images})
    for name, values in before.items():
        np.testing.assert_allclose(after[name], values, rtol=1e-4, atol=1e-4)

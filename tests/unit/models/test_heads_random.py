"""Every head on random tensors, in batches of different rows, against plain loops."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any, get_args

import numpy as np
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, checker, helper, numpy_helper

from foveate.engines.errors import ModelError
from foveate.models.fusion import PIXELS, fuse
from foveate.models.heads import HEADS
from foveate.models.manifest import HeadKind, HeadSpec, InputSpec
from support.onnx_models import bank_model, bank_pixels, manifest_of, run_onnx
from support.references import Candidate, centernet, detr, sigmoid, softmax, ssd, yolo, yolo_end2end, yolox

Banks = Mapping[str, NDArray[np.float32]]
Reference = Callable[[Banks, InputSpec, HeadSpec], list[Candidate]]

WIDE = InputSpec(width_px=96, height_px=64)
ROWS = (2, 0, 1)
"""The batch: each row of the banks once, none at its own place."""
RNG = np.random.default_rng(23)


def bank(*shape: int, low: float = 0.0, high: float = 1.0) -> NDArray[np.float32]:
    return RNG.uniform(low, high, (3, *shape)).astype(np.float32)


def answers(banks: Banks, head: HeadSpec, spec: InputSpec = WIDE) -> dict[str, NDArray[Any]]:
    """What the fused graph gives for the batch `ROWS`."""
    size = (spec.height_px, spec.width_px)
    model = fuse(bank_model(banks, size), manifest_of(head, spec))
    checker.check_model(model, full_check=True)
    return run_onnx(model, {PIXELS: bank_pixels(ROWS, size)})


def assert_detects(
    banks: Banks, reference: Reference, *, candidates: int, spec: InputSpec = WIDE, **fields: Any
) -> None:
    """The fused graph agrees with the reference for each row, with fewer and with more to keep than there are."""
    for top_k in (7, 1000):
        head = HeadSpec.model_validate({"outputs": {name: name for name in banks}, "top_k": top_k, **fields})
        outputs = answers(banks, head, spec)
        count = min(top_k, candidates)
        shapes = {name: values.shape for name, values in outputs.items()}
        expected_shapes = {"boxes": (3, count, 4), "scores": (3, count), "class_ids": (3, count)}
        if head.keypoints:
            expected_shapes["keypoints"] = (3, count, head.keypoints, 2 if head.kind == "centernet" else 3)
        assert shapes == expected_shapes
        assert outputs["boxes"].dtype == np.float32
        assert outputs["class_ids"].dtype == np.int32
        for index, row in enumerate(ROWS):
            expected = reference({name: values[row] for name, values in banks.items()}, spec, head)
            assert_row({name: values[index] for name, values in outputs.items()}, expected)


def assert_row(actual: Mapping[str, NDArray[Any]], expected: list[Candidate]) -> None:
    np.testing.assert_allclose(actual["scores"], [each.score for each in expected], rtol=1e-4, atol=1e-6)
    # Suppressed peaks all score 0: which of them fill up the rows means nothing.
    real = [index for index, each in enumerate(expected) if each.score > 0]
    assert real
    np.testing.assert_array_equal(actual["class_ids"][real], [expected[index].class_id for index in real])
    np.testing.assert_allclose(actual["boxes"][real], [expected[index].box for index in real], rtol=1e-4, atol=1e-3)
    if "keypoints" in actual:
        points = [expected[index].keypoints for index in real]
        np.testing.assert_allclose(actual["keypoints"][real], points, rtol=1e-4, atol=1e-3)


def test_every_kind_of_the_manifest_has_a_head() -> None:
    assert set(HEADS) == set(get_args(HeadKind))


@pytest.mark.parametrize("strides", [(8, 16, 32), (32, 8)])
def test_yolox(strides: tuple[int, ...]) -> None:
    cells = sum((96 // stride) * (64 // stride) for stride in strides)
    predictions = np.concatenate([bank(cells, 4, low=-2, high=2), bank(cells, 7)], axis=2)
    assert_detects(
        {"predictions": predictions},
        lambda banks, spec, head: yolox(banks["predictions"], spec, head),
        candidates=cells,
        kind="yolox",
        strides=strides,
    )


@pytest.mark.parametrize("layout", ["channels_first", "channels_last"])
@pytest.mark.parametrize("activation", ["none", "sigmoid"])
@pytest.mark.parametrize("objectness", [False, True])
@pytest.mark.parametrize("keypoints", [0, 3])
@pytest.mark.parametrize(("box_format", "box_unit"), [("cxcywh", "input_px"), ("xyxy", "fraction")])
def test_yolo(layout: str, activation: str, objectness: bool, keypoints: int, box_format: str, box_unit: str) -> None:
    boxes = bank(50, 4, high=1 if box_unit == "fraction" else 90)
    low = -4 if activation == "sigmoid" else 0
    classes = bank(50, 5 + objectness, low=low)
    rows = np.concatenate([boxes, classes, bank(50, 3 * keypoints)], axis=2)
    predictions = rows if layout == "channels_last" else np.ascontiguousarray(rows.transpose(0, 2, 1))
    assert_detects(
        {"predictions": predictions},
        lambda banks, spec, head: yolo(banks["predictions"], spec, head),
        candidates=50,
        kind="yolo",
        layout=layout,
        activation=activation,
        objectness=objectness,
        keypoints=keypoints,
        box_format=box_format,
        box_unit=box_unit,
    )


def test_yolo_with_one_class_and_one_candidate() -> None:
    assert_detects(
        {"predictions": bank(5, 1)},
        lambda banks, spec, head: yolo(banks["predictions"], spec, head),
        candidates=1,
        kind="yolo",
        layout="channels_first",
    )


def test_yolo_without_room_for_classes_is_refused() -> None:
    head = HeadSpec(kind="yolo", outputs={"predictions": "predictions"}, keypoints=1)
    with pytest.raises(ModelError, match="leaves no column for classes"):
        answers({"predictions": bank(50, 7)}, head)


@pytest.mark.parametrize("keypoints", [0, 2])
@pytest.mark.parametrize("box_unit", ["input_px", "fraction"])
def test_yolo_end2end(keypoints: int, box_unit: str) -> None:
    ids = RNG.integers(0, 80, (3, 40, 1)).astype(np.float32)
    predictions = np.concatenate([bank(40, 5), ids, bank(40, 3 * keypoints)], axis=2)
    assert_detects(
        {"predictions": predictions},
        lambda banks, spec, head: yolo_end2end(banks["predictions"], spec, head),
        candidates=40,
        kind="yolo_end2end",
        keypoints=keypoints,
        box_unit=box_unit,
    )


@pytest.mark.parametrize(
    ("activation", "background", "candidates"),
    [("sigmoid", False, 20 * 6), ("softmax", False, 20), ("softmax", True, 20)],
)
def test_detr(activation: str, background: bool, candidates: int) -> None:
    assert_detects(
        {"logits": bank(20, 6, low=-3, high=3), "boxes": bank(20, 4)},
        lambda banks, spec, head: detr(banks["logits"], banks["boxes"], spec, head),
        candidates=candidates,
        kind="detr",
        activation=activation,
        background=background,
        box_unit="fraction",
    )


def test_detr_with_a_background_needs_a_softmax() -> None:
    head = HeadSpec(kind="detr", outputs={"logits": "logits", "boxes": "boxes"}, activation="sigmoid", background=True)
    with pytest.raises(ModelError, match="with activation 'softmax' only"):
        answers({"logits": bank(20, 6), "boxes": bank(20, 4)}, head)


@pytest.mark.parametrize("activation", ["none", "sigmoid", "softmax"])
@pytest.mark.parametrize("background", [False, True])
def test_ssd(activation: str, background: bool) -> None:
    assert_detects(
        {"scores": bank(60, 5, low=-1 if activation != "none" else 0), "boxes": bank(60, 4, high=64)},
        lambda banks, spec, head: ssd(banks["scores"], banks["boxes"], spec, head),
        candidates=60,
        kind="ssd",
        activation=activation,
        background=background,
        box_format="xyxy",
    )


def anchored_answers(banks: Banks, anchors: NDArray[np.float32], **fields: Any) -> dict[str, NDArray[Any]]:
    """What an `ssd` head with constant anchors gives for the batch `ROWS`."""
    size = (WIDE.height_px, WIDE.width_px)
    model = bank_model(banks, size)
    model.graph.initializer.append(numpy_helper.from_array(anchors, "anchors"))
    model.graph.output.append(helper.make_tensor_value_info("anchors", TensorProto.FLOAT, anchors.shape))
    head = HeadSpec.model_validate({"kind": "ssd", "outputs": {name: name for name in (*banks, "anchors")}, **fields})
    return run_onnx(fuse(model, manifest_of(head, WIDE)), {PIXELS: bank_pixels(ROWS, size)})


@pytest.mark.parametrize("coding", ["anchor_offsets", "anchor_edges"])
def test_ssd_with_anchors(coding: str) -> None:
    count, kept = 20, 6
    banks = {"scores": bank(count, 5), "boxes": bank(count, 4, low=-1, high=5)}  # e^5 is over the limit of 1000 / 16
    anchors = np.concatenate([bank(count, 2)[0] * 60, 60 + bank(count, 2)[0] * 30], axis=1)
    outputs = anchored_answers(banks, anchors, box_coding=coding, top_k=kept)
    for index, row in enumerate(ROWS):
        best = banks["scores"][row].max(axis=1)
        order = np.argsort(-best, kind="stable")[:kept]
        np.testing.assert_allclose(outputs["scores"][index], best[order], rtol=1e-6)
        for box, anchor in zip(outputs["boxes"][index], order, strict=True):
            expected = decoded(banks["boxes"][row][anchor], anchors[anchor], coding)
            np.testing.assert_allclose(box, np.clip(expected, 0, (96, 64, 96, 64)), rtol=1e-4, atol=1e-3)


def decoded(code: NDArray[np.float32], anchor: NDArray[np.float32], coding: str) -> list[float]:
    """One box from its code and its anchor, before it is cut off."""
    first, second, third, fourth = (float(value) for value in code)
    left, top, right, bottom = (float(value) for value in anchor)
    width, height = right - left, bottom - top
    x, y = (left + right) / 2, (top + bottom) / 2
    if coding == "anchor_edges":
        return [x - first * width, y - second * height, x + third * width, y + fourth * height]
    x, y = x + first * width, y + second * height
    width, height = (min(math.exp(log), 1000 / 16) * side for log, side in ((third, width), (fourth, height)))
    return [x - width / 2, y - height / 2, x + width / 2, y + height / 2]


def test_anchors_that_are_not_as_many_as_the_boxes_are_refused() -> None:
    banks = {"scores": bank(20, 5), "boxes": bank(20, 4)}
    with pytest.raises(ModelError, match=r"expects anchors as a constant \(20, 4\), but it is \(19, 4\), a constant"):
        anchored_answers(banks, np.zeros((19, 4), np.float32), box_coding="anchor_offsets")


def test_anchors_without_a_coding_are_refused() -> None:
    banks = {"scores": bank(20, 5), "boxes": bank(20, 4)}
    with pytest.raises(ModelError, match="has no use for the role anchors"):
        anchored_answers(banks, np.zeros((20, 4), np.float32))


def test_a_coding_without_anchors_is_refused() -> None:
    banks = {"scores": bank(20, 5), "boxes": bank(20, 4)}
    head = HeadSpec(kind="ssd", outputs={"scores": "scores", "boxes": "boxes"}, box_coding="anchor_edges")
    with pytest.raises(ModelError, match="needs the role anchors"):
        answers(banks, head)


def test_ssd_whose_boxes_are_not_as_many_as_its_scores_is_refused() -> None:
    head = HeadSpec(kind="ssd", outputs={"scores": "scores", "boxes": "boxes"})
    with pytest.raises(ModelError, match=r"boxes as \(batch, 60, 4\), but it is \(batch, 59, 4\)"):
        answers({"scores": bank(60, 5), "boxes": bank(59, 4)}, head)


def face_maps(rows: int, columns: int, points: int) -> dict[str, NDArray[np.float32]]:
    maps = {
        "heatmap": bank(1, rows, columns),
        "scale": bank(2, rows, columns, low=-1, high=2),
        "offset": bank(2, rows, columns, low=-0.5, high=0.5),
    }
    return {**maps, "landmarks": bank(2 * points, rows, columns)} if points else maps


@pytest.mark.parametrize("keypoints", [0, 5])
def test_centernet(keypoints: int) -> None:
    assert_detects(face_maps(16, 24, keypoints), centernet, candidates=384, kind="centernet", keypoints=keypoints)


def test_centernet_keeps_both_of_two_equal_neighbours() -> None:
    maps = face_maps(16, 24, 0)
    maps["heatmap"][:, 0, 4, 5:7] = 2.0
    head = HeadSpec(kind="centernet", outputs={name: name for name in maps}, top_k=3)
    scores = answers(maps, head)["scores"]
    np.testing.assert_array_equal(scores[:, :2], 2.0)
    assert (scores[:, 2] < 2.0).all()


def test_centernet_whose_heatmap_does_not_divide_the_input_is_refused() -> None:
    head = HeadSpec(kind="centernet", outputs={name: name for name in ("heatmap", "scale", "offset")})
    with pytest.raises(ModelError, match="multiples of 32"):
        answers(face_maps(15, 24, 0), head)


def test_centernet_without_the_promised_landmarks_is_refused() -> None:
    head = HeadSpec(kind="centernet", outputs={name: name for name in ("heatmap", "scale", "offset")}, keypoints=5)
    with pytest.raises(ModelError, match="role 'landmarks'"):
        answers(face_maps(16, 24, 0), head)


@pytest.mark.parametrize("activation", ["none", "sigmoid", "softmax"])
@pytest.mark.parametrize("shape", [(30,), (30, 1, 1)])
@pytest.mark.parametrize("top_k", [4, 200])
def test_logits(activation: str, shape: tuple[int, ...], top_k: int) -> None:
    banks = {"scores_of_mine": bank(*shape, low=-3, high=3)}
    head = HeadSpec.model_validate(
        {"kind": "logits", "outputs": {"logits": "scores_of_mine"}, "activation": activation, "top_k": top_k}
    )
    outputs = answers(banks, head)
    assert outputs["class_ids"].dtype == np.int32
    for index, row in enumerate(ROWS):
        values = banks["scores_of_mine"][row].ravel()
        shares = {
            "none": values,
            "sigmoid": np.array([sigmoid(value) for value in values]),
            "softmax": softmax(values),
        }[activation]
        best = np.argsort(-shares, kind="stable")[:top_k]
        np.testing.assert_array_equal(outputs["class_ids"][index], best)
        np.testing.assert_allclose(outputs["scores"][index], shares[best], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("normalize", [False, True])
@pytest.mark.parametrize("shape", [(16,), (16, 1, 1), (4, 2, 2)])
def test_embedding(normalize: bool, shape: tuple[int, ...]) -> None:
    banks = {"features": bank(*shape, low=-2, high=2)}
    banks["features"][1] = 0  # nothing to point at: must not become a division by zero
    head = HeadSpec(kind="embedding", outputs={"embedding": "features"}, normalize=normalize)
    vectors = answers(banks, head)["embedding"]
    for index, row in enumerate(ROWS):
        expected = banks["features"][row].ravel()
        if normalize and expected.any():
            expected = expected / np.sqrt((expected.astype(np.float64) ** 2).sum())
        np.testing.assert_allclose(vectors[index], expected, rtol=1e-5, atol=1e-6)

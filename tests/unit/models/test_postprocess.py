"""From one frame's candidates to its answer."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from foveate.models.geometry import Placement, Rect
from foveate.models.outputs import Classes, DecodeOptions, Detections, Embedding
from foveate.models.postprocess import decode
from support.references import slow_nms

Rows = dict[str, NDArray[Any]]

SAME = Placement(100, 100, Rect(0, 0, 100, 100), Rect(0, 0, 100, 100))
DOUBLED = Placement(200, 100, Rect(0, 0, 200, 100), Rect(0, 25, 100, 50))
"""200 x 100 frames letterboxed into 100 x 100."""


def rows(boxes: Iterable[Iterable[float]], scores: Iterable[float], class_ids: Iterable[int]) -> Rows:
    return {
        "boxes": np.array(boxes, np.float32),
        "scores": np.array(scores, np.float32),
        "class_ids": np.array(class_ids, np.int32),
    }


def detect(
    outputs: Rows,
    placement: Placement = SAME,
    *,
    min_score: float = 0.25,
    limit: int = 100,
    only: frozenset[int] | None = None,
    iou: float = 0.5,
) -> Detections:
    found = decode(outputs, "detect", placement, DecodeOptions(min_score, limit, only), iou)
    assert isinstance(found, Detections)
    return found


APART = rows([[0, 0, 9, 9], [20, 0, 29, 9], [40, 0, 49, 9], [60, 0, 69, 9]], [0.9, 0.8, 0.25, 0.2], [0, 1, 2, 0])


def test_what_scores_less_is_left_out() -> None:
    assert detect(APART).class_ids.tolist() == [0, 1, 2]
    assert detect(APART, min_score=0.85).class_ids.tolist() == [0]
    assert detect(APART, min_score=0.95).boxes.shape == (0, 4)


def test_only_the_classes_asked_for() -> None:
    assert detect(APART, only=frozenset({2, 0})).class_ids.tolist() == [0, 2]
    assert detect(APART, only=frozenset()).boxes.shape == (0, 4)


def test_a_class_that_is_not_asked_for_takes_no_place() -> None:
    assert detect(APART, only=frozenset({1, 2}), limit=1).class_ids.tolist() == [1]


def test_candidates_in_any_order_come_back_best_first() -> None:
    outputs = rows([[0, 0, 9, 9], [20, 0, 29, 9], [40, 0, 49, 9]], [0.5, 0.9, 0.7], [0, 1, 2])
    for iou in (0.5, 1.0):
        assert detect(outputs, iou=iou).class_ids.tolist() == [1, 2, 0]
        assert detect(outputs, iou=iou, limit=2).class_ids.tolist() == [1, 2]


def test_overlaps_are_suppressed_within_a_class_only() -> None:
    outputs = rows([[0, 0, 10, 10], [1, 0, 11, 10], [1, 0, 11, 10]], [0.9, 0.8, 0.7], [0, 0, 1])
    assert detect(outputs).scores.tolist() == pytest.approx([0.9, 0.7])


def test_an_iou_of_one_keeps_even_the_same_box_twice() -> None:
    outputs = rows([[0, 0, 10, 10], [0, 0, 10, 10]], [0.9, 0.8], [0, 0])
    assert len(detect(outputs, iou=1.0).boxes) == 2
    assert len(detect(outputs, iou=0.99).boxes) == 1


def test_boxes_come_in_the_frames_pixels_and_inside_it() -> None:
    outputs = rows([[10, 30, 20, 40], [-5, 20, 50, 90]], [0.9, 0.8], [0, 0])
    np.testing.assert_array_equal(detect(outputs, DOUBLED).boxes, [[20, 10, 40, 30], [0, 0, 100, 100]])


def test_boxes_in_the_padding_and_empty_ones_are_dropped() -> None:
    outputs = rows([[10, 0, 20, 25], [30, 30, 30, 40], [10, 30, 20, 40]], [0.9, 0.8, 0.7], [0, 1, 2])
    assert detect(outputs, DOUBLED).class_ids.tolist() == [2]


def test_numbers_that_overflowed_are_dropped() -> None:
    nan, inf = float("nan"), float("inf")
    outputs = rows([[nan, 0, 9, 9], [0, 0, nan, nan], [0, 0, 9, 9], [0, 0, inf, 9]], [0.9, 0.8, 0.7, nan], [0, 1, 2, 3])
    assert detect(outputs).class_ids.tolist() == [2]


@pytest.mark.parametrize("width", [2, 3])
def test_keypoints_follow_their_box_and_may_lie_outside(width: int) -> None:
    outputs = rows([[0, 30, 20, 40], [0, 30, 20, 40], [50, 30, 60, 40]], [0.5, 0.9, 0.7], [0, 0, 0])
    outputs["keypoints"] = np.zeros((3, 2, width), np.float32)
    outputs["keypoints"][1, 0] = [-10, 25, 0.5][:width]
    outputs["keypoints"][2, 1] = [50, 75, 0.25][:width]
    keypoints = detect(outputs, DOUBLED).keypoints
    score = width == 3
    expected = [[[-20, 0, 0.5 * score], [0, -50, 0]], [[0, -50, 0], [100, 100, 0.25 * score]]]
    np.testing.assert_array_equal(keypoints, expected)


def test_random_candidates_match_plain_loops() -> None:
    rng = np.random.default_rng(3)
    for _ in range(20):
        near = rng.uniform(0, 60, (60, 2))
        boxes = np.concatenate([near, near + rng.uniform(1, 40, (60, 2))], axis=1).astype(np.float32)
        scores, class_ids = rng.random(60).astype(np.float32), rng.integers(0, 3, 60).astype(np.int32)
        strong = [index for index in range(60) if scores[index] >= 0.3 and class_ids[index] != 1]
        kept = [strong[index] for index in slow_nms(boxes[strong], scores[strong], class_ids[strong], 0.4, 15)]
        outputs = {"boxes": boxes, "scores": scores, "class_ids": class_ids}
        found = detect(outputs, min_score=0.3, only=frozenset({0, 2}), iou=0.4, limit=15)
        np.testing.assert_array_equal(found.scores, scores[kept])
        np.testing.assert_array_equal(found.class_ids, class_ids[kept])
        np.testing.assert_allclose(found.boxes, boxes[kept])


def test_classes_are_thresholded_filtered_and_limited() -> None:
    outputs: Rows = {"scores": np.array([0.2, 0.5, 0.3], np.float32), "class_ids": np.array([7, 8, 9], np.int32)}

    def classify(min_score: float, limit: int, only: frozenset[int] | None = None) -> list[int]:
        found = decode(outputs, "classify", SAME, DecodeOptions(min_score, limit, only), 0.5)
        assert isinstance(found, Classes)
        assert found.class_ids.dtype == np.int64
        return [int(value) for value in found.class_ids]

    assert classify(0.0, 5) == [8, 9, 7]
    assert classify(0.25, 5) == [8, 9]
    assert classify(0.0, 1) == [8]
    assert classify(0.0, 5, frozenset({7, 9})) == [9, 7]


def test_results_own_their_memory() -> None:
    outputs = rows([[0, 0, 9, 9], [20, 0, 29, 9]], [0.9, 0.8], [1, 2])
    outputs["keypoints"] = np.full((2, 1, 3), 5, np.float32)
    outputs["embedding"] = np.full(4, 5, np.float32)
    options = DecodeOptions(0.0, 10)
    found = decode(outputs, "detect", SAME, options, 1.0)
    classes = decode(outputs, "classify", SAME, options, 0.5)
    embedding = decode(outputs, "embed", SAME, options, 0.5)
    for values in outputs.values():
        values[:] = 0
    assert isinstance(found, Detections)
    assert isinstance(classes, Classes)
    assert isinstance(embedding, Embedding)
    assert found.boxes[1].tolist() == [20, 0, 29, 9]
    assert found.class_ids.tolist() == classes.class_ids.tolist() == [1, 2]
    assert found.scores.tolist() == classes.scores.tolist() == pytest.approx([0.9, 0.8])
    assert found.keypoints is not None
    assert (found.keypoints == 5).all()
    assert (embedding.vector == 5).all()
    assert found.class_ids.dtype == np.int64
    assert embedding.vector.dtype == np.float32

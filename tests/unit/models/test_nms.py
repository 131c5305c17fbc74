"""Suppression against plain loops."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from foveate.models.nms import nms
from support.references import slow_nms


def crowd(seed: int, count: int, classes: int) -> tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.int32]]:
    """Boxes on a coarse grid, so that many coincide, touch or are empty, and scores with many ties."""
    rng = np.random.default_rng(seed)
    near = rng.integers(0, 12, (count, 2)) * 4
    size = rng.integers(0, 6, (count, 2)) * 4
    boxes = np.concatenate([near, near + size], axis=1).astype(np.float32)
    scores = (rng.integers(0, 20, count) / 20).astype(np.float32)
    return boxes, scores, rng.integers(0, classes, count).astype(np.int32)


# Fractions of small whole numbers: none of these thresholds is within rounding of an overlap but 0 and 0.5.
@pytest.mark.parametrize("iou", [0.0, 0.123456, 0.45678, 0.5, 0.912345])
@pytest.mark.parametrize("count", [0, 1, 2, 31, 32, 33, 100, 257])
@pytest.mark.parametrize("classes", [1, 5])
def test_keeps_what_plain_loops_keep(iou: float, count: int, classes: int) -> None:
    for seed in range(3):
        boxes, scores, class_ids = crowd(seed, count, classes)
        kept = nms(boxes, scores, class_ids, iou, 40)
        assert kept.tolist() == slow_nms(boxes, scores, class_ids, iou, 40)


def test_random_real_boxes_match_plain_loops() -> None:
    rng = np.random.default_rng(7)
    for _ in range(10):
        centre, half = rng.uniform(0, 300, (200, 2)), rng.uniform(5, 60, (200, 2))
        boxes = np.concatenate([centre - half, centre + half], axis=1).astype(np.float32)
        scores, class_ids = rng.random(200).astype(np.float32), rng.integers(0, 3, 200)
        kept = nms(boxes, scores, class_ids, 0.45, 100)
        assert kept.tolist() == slow_nms(boxes, scores, class_ids, 0.45, 100)


def test_equal_scores_keep_their_order() -> None:
    boxes = np.array([[0, 0, 10, 10], [1, 0, 11, 10], [50, 0, 60, 10], [49, 0, 59, 10]], np.float32)
    scores = np.full(4, 0.5, np.float32)
    assert nms(boxes, scores, np.zeros(4, np.int64), 0.5, 10).tolist() == [0, 2]


def test_a_suppressed_box_suppresses_nothing() -> None:
    boxes = np.array([[0, 0, 10, 10], [4, 0, 14, 10], [8, 0, 18, 10]], np.float32)
    scores = np.array([0.9, 0.8, 0.7], np.float32)
    assert nms(boxes, scores, np.zeros(3, np.int64), 0.3, 10).tolist() == [0, 2]


def test_an_overlap_of_exactly_the_threshold_stays() -> None:
    boxes = np.array([[0, 0, 2, 2], [0, 0, 2, 1]], np.float32)
    assert nms(boxes, np.array([0.9, 0.8], np.float32), np.zeros(2, np.int64), 0.5, 10).tolist() == [0, 1]


def test_boxes_that_overflowed_raise_no_warning_and_suppress_nothing() -> None:
    huge = np.float32(3e38)
    boxes = np.array([[-huge, -huge, huge, huge], [np.nan] * 4, [0, 0, 10, 10], [-np.inf, 0, np.inf, 5]], np.float32)
    scores = np.array([0.9, 0.8, 0.7, 0.6], np.float32)
    assert 2 in nms(boxes, scores, np.zeros(4, np.int64), 0.5, 10).tolist()


def test_the_limit_counts_kept_boxes() -> None:
    boxes, scores, class_ids = crowd(1, 120, 2)
    every = nms(boxes, scores, class_ids, 0.4, 1000)
    assert len(every) > 5
    assert nms(boxes, scores, class_ids, 0.4, 5).tolist() == every[:5].tolist()

"""How well two models agree: figures with answers that are known, and thresholds that can fail."""

from __future__ import annotations

import numpy as np
import pytest

from foveate.engines.errors import ConfigError
from foveate.models.agreement import THRESHOLDS, agreement
from foveate.models.outputs import Classes, Detections, Embedding


def _boxes(*boxes: tuple[float, float, float, float], score: float = 0.9, class_id: int = 0) -> Detections:
    count = len(boxes)
    return Detections(
        np.array(boxes, np.float32).reshape(count, 4),
        np.full(count, score, np.float32),
        np.full(count, class_id, np.int64),
    )


def _classes(*ids: int) -> Classes:
    return Classes(np.array(ids, np.int64), np.linspace(0.9, 0.1, len(ids)).astype(np.float32))


def test_the_same_answers_agree_wholly() -> None:
    found = _boxes((0, 0, 10, 10), (20, 20, 60, 60))
    same = agreement([found, found], [found, found])
    assert (same.frames, same.compared) == (2, 4)
    assert set(same.figures.values()) == {1.0}
    assert all(same.passes(precision) for precision in THRESHOLDS)


def test_a_shifted_box_is_measured_by_its_overlap() -> None:
    moved = agreement([_boxes((0, 0, 10, 10))], [_boxes((0, 0, 10, 8), score=0.7)])
    assert moved.figures["mean_iou"] == pytest.approx(0.8)
    assert moved.figures["score_agreement"] == pytest.approx(0.8)
    assert moved.figures["ap50"] == 1.0
    assert moved.figures["ap"] == pytest.approx(0.7, abs=0.01), "it counts at the seven overlaps up to 0.80"
    assert not moved.passes("int8")
    assert any("mean_iou is 0.8000" in failure for failure in moved.failures("int8"))


@pytest.mark.parametrize(
    "other",
    [_boxes(), _boxes((0, 0, 10, 10), class_id=1), _boxes((50, 50, 60, 60))],
    ids=["missed", "another class", "elsewhere"],
)
def test_what_has_no_partner_counts_against_both(other: Detections) -> None:
    found = agreement([_boxes((0, 0, 10, 10))], [other])
    assert found.figures["matched"] == 0.0
    assert found.figures["ap50"] == 0.0
    assert not found.passes("fp16")


def test_each_box_has_one_partner() -> None:
    twice = agreement([_boxes((0, 0, 10, 10))], [_boxes((0, 0, 10, 10), (0, 0, 10, 9))])
    assert twice.figures["matched"] == pytest.approx(2 / 3)


def test_classifiers_are_compared_by_their_best_class() -> None:
    reference = [_classes(3, 1, 2), _classes(5, 1, 2), _classes(7, 1, 2), _classes(9, 1, 2)]
    other = [_classes(3, 9), _classes(1, 2, 5), _classes(1, 2, 3, 4, 5, 7), _classes(9, 1)]
    compared = agreement(reference, other)
    assert compared.figures["top1"] == 0.5
    assert compared.figures["top5"] == 0.75


def test_embeddings_are_compared_by_their_angle() -> None:
    along, across = np.array([1, 0], np.float32), np.array([0, 1], np.float32)
    compared = agreement([Embedding(along), Embedding(along)], [Embedding(along * 3), Embedding(across)])
    assert compared.figures == {"cosine": pytest.approx(0.5), "least_cosine": pytest.approx(0.0)}


def test_nothing_to_compare_is_said() -> None:
    with pytest.raises(ConfigError, match="finds nothing in these 1 pictures"):
        agreement([_boxes()], [_boxes((0, 0, 1, 1))])
    with pytest.raises(ConfigError, match="one task"):
        agreement([_boxes((0, 0, 1, 1))], [_classes(1)])
    with pytest.raises(ConfigError, match="both sides"):
        agreement([], [])

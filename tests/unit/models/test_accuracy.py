"""Accuracy on labelled pictures: figures by hand, and COCO's own."""

from __future__ import annotations

import sys
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from foveate.engines import ConfigError, EngineUnavailable
from foveate.models.accuracy import MOST_DROP, Accuracy, BoxTruth, ClassTruth, accuracy, drops
from foveate.models.agreement import THRESHOLDS, agreement
from foveate.models.outputs import Classes, Detections, Embedding


def _classes(*ids: int) -> Classes:
    return Classes(np.array(ids, np.int64), np.linspace(0.9, 0.1, len(ids)).astype(np.float32))


def _found(boxes: Any, scores: Any, ids: Any) -> Detections:
    ranked = np.argsort(-np.asarray(scores, np.float32), kind="stable")
    return Detections(
        np.asarray(boxes, np.float32).reshape(-1, 4)[ranked],
        np.asarray(scores, np.float32)[ranked],
        np.asarray(ids, np.int64)[ranked],
    )


def _truth(boxes: Any, ids: Any, *, areas: Any = None, crowds: Any = None) -> BoxTruth:
    corners: NDArray[np.float64] = np.asarray(boxes, np.float64).reshape(-1, 4)
    return BoxTruth(
        corners,
        np.asarray(ids, np.int64),
        np.prod(corners[:, 2:] - corners[:, :2], axis=1) if areas is None else np.asarray(areas, np.float64),
        np.zeros(len(corners), np.bool_) if crowds is None else np.asarray(crowds, np.bool_),
    )


def test_the_right_class_counts_first_and_among_five() -> None:
    truths = [ClassTruth(frozenset({each})) for each in (1, 1, 1, 1)]
    said = [_classes(1, 2), _classes(2, 1), _classes(2, 3, 4, 5, 6, 1), _classes()]
    result = accuracy(truths, said)
    assert result == Accuracy(4, 4, {"top1": 0.25, "top5": 0.5})


def test_any_class_of_one_name_is_right() -> None:
    assert accuracy([ClassTruth(frozenset({134, 517}))], [_classes(517)]).figures["top1"] == 1


def test_boxes_by_hand() -> None:
    # IoU 0.8: right for seven of the ten thresholds, 0.5 to 0.8.
    result = accuracy([_truth([[0, 0, 100, 100]], [3])], [_found([[0, 0, 80, 100]], [0.9], [3])])
    assert (result.frames, result.labelled) == (1, 1)
    assert result.figures["ap50"] == pytest.approx(1)
    assert result.figures["ap75"] == pytest.approx(1)
    assert result.figures["ap"] == pytest.approx(0.7)
    assert result.figures["ap_large"] == pytest.approx(0.7)
    assert set(result.figures) == {"ap", "ap50", "ap75", "ap_large"}, "nothing is said of sizes that are not labelled"


def test_the_first_box_counts_as_any_other() -> None:
    perfect = accuracy(
        [_truth([[0, 0, 10, 10], [20, 20, 40, 40]], [0, 0])],
        [_found([[0, 0, 10, 10], [20, 20, 40, 40]], [0.9, 0.8], [0, 0])],
    )
    assert perfect.figures["ap"] == pytest.approx(1)


def test_size_is_the_labelled_area() -> None:
    figures = accuracy([_truth([[0, 0, 60, 60]], [0], areas=[900.0])], [_found([[0, 0, 60, 60]], [0.9], [0])]).figures
    assert "ap_small" in figures
    assert "ap_medium" not in figures


def test_nobody_has_to_find_a_crowd() -> None:
    boxes = [[0, 0, 50, 50], [100, 100, 200, 200]]
    truth = _truth(boxes, [0, 0], crowds=[False, True])
    missed = accuracy([truth], [_found(boxes[:1], [0.9], [0])])
    assert missed.figures["ap"] == pytest.approx(1)
    assert missed.labelled == 1
    inside = accuracy([truth], [_found([*boxes[:1], [110, 110, 150, 150]], [0.5, 0.9], [0, 0])])
    assert inside.figures["ap"] == pytest.approx(1), "nor is what is found in it wrong"


def test_what_is_never_found_and_what_is_not_labelled() -> None:
    nothing = _found([], [], [])
    assert accuracy([_truth([[0, 0, 50, 50]], [0])], [nothing]).figures["ap"] == 0
    other_class = _found([[0, 0, 50, 50], [0, 0, 50, 50]], [0.9, 0.8], [7, 0])
    assert accuracy([_truth([[0, 0, 50, 50]], [0])], [other_class]).figures["ap"] == pytest.approx(1)


@pytest.mark.parametrize("seed", range(6))
def test_agreement_counts_precision_as_coco_does(seed: int) -> None:
    random = np.random.default_rng(seed)
    reference, other, truths = [], [], []
    for _ in range(5):
        count = int(random.integers(1, 7))
        corners = random.uniform(0, 100, (count, 2))
        boxes = np.concatenate([corners, corners + random.uniform(10, 60, (count, 2))], axis=1).astype(np.float32)
        ids = random.integers(0, 3, count)
        reference.append(_found(boxes, random.uniform(0.3, 1, count), ids))
        truths.append(_truth(reference[-1].boxes, reference[-1].class_ids))
        moved = np.concatenate([boxes + random.normal(0, 3, boxes.shape), boxes[:1] + 40])
        other.append(_found(moved, random.uniform(0, 1, count + 1), [*ids, ids[0]]))
    ours, cocos = agreement(reference, other).figures, accuracy(truths, other).figures
    assert ours["ap"] == pytest.approx(cocos["ap"], abs=1e-6)
    assert ours["ap50"] == pytest.approx(cocos["ap50"], abs=1e-6)
    assert 0.05 < ours["ap"] < 0.99, "a case that tells something"


def test_a_loss_beyond_what_may_be_is_said() -> None:
    before, after = Accuracy(100, 100, {"top1": 0.80, "top5": 0.9}), Accuracy(100, 100, {"top1": 0.775, "top5": 0.5})
    assert drops(before, after, MOST_DROP["int8"]) == ["top1 drops by 0.0250, 0.02 may be lost"]
    assert drops(before, after, 0.025) == []
    assert drops(after, before, 0.0) == [], "a gain is no loss"
    assert set(MOST_DROP) == set(THRESHOLDS)


@pytest.mark.parametrize(
    ("truths", "said", "complaint"),
    [
        ([], [], "as many labels"),
        ([ClassTruth(frozenset({1}))], [], "as many labels"),
        ([ClassTruth(frozenset({1}))], [_found([], [], [])], "class folders are for classifiers"),
        ([_truth([], [])], [_classes(1)], "class folders are for classifiers"),
        ([ClassTruth(frozenset({1}))], [Embedding(np.ones(3, np.float32))], "class folders are for classifiers"),
        ([_truth([], [])], [_found([], [], [])], "no box is labelled"),
    ],
)
def test_what_cannot_be_judged_is_refused(truths: list[Any], said: list[Any], complaint: str) -> None:
    with pytest.raises(ConfigError, match=complaint):
        accuracy(truths, said)


def test_without_pycocotools_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pycocotools", None)
    with pytest.raises(EngineUnavailable, match=r"foveate\[coco\]"):
        accuracy([_truth([[0, 0, 50, 50]], [0])], [_found([], [], [])])

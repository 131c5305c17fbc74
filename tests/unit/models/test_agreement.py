"""Agreement of answers: figures that can be worked out by hand, and thresholds that hold."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from foveate.engines import ConfigError
from foveate.models.agreement import THRESHOLDS, Agreement, agreement, in_classes_of
from foveate.models.outputs import Classes, Detections, Embedding

Box = tuple[float, float, float, float]


def _detections(*found: tuple[Box, float, int]) -> Detections:
    boxes = np.array([box for box, _, _ in found], np.float32).reshape(-1, 4)
    scores = np.array([score for _, score, _ in found], np.float32)
    return Detections(boxes, scores, np.array([kind for _, _, kind in found], np.int64))


def _classes(ids: Sequence[int], scores: Sequence[float]) -> Classes:
    return Classes(np.array(ids, np.int64), np.array(scores, np.float32))


A: Box = (0, 0, 10, 10)
A_SHIFTED: Box = (2, 0, 12, 10)
"""Overlaps A by 8 of 12 columns: IoU 2/3."""
B: Box = (50, 50, 60, 60)


def test_figures_of_boxes_by_hand() -> None:
    reference = [_detections((A, 0.9, 0), (B, 0.8, 0))]
    other = [_detections((A_SHIFTED, 0.7, 0))]
    result = agreement(reference, other)
    assert (result.frames, result.compared) == (1, 2)
    assert result.figures["matched"] == pytest.approx(2 / 3)  # one pair of the three boxes of both sides
    assert result.figures["mean_iou"] == pytest.approx(2 / 3)
    assert result.figures["score_agreement"] == pytest.approx(0.8)
    assert result.figures["ap50"] == pytest.approx(51 / 101)  # recalls 0 to 0.5 at precision 1
    # 0.5, 0.55, 0.6 and 0.65 of ten thresholds are met.
    assert result.figures["ap"] == pytest.approx(51 / 101 * 4 / 10)


def test_a_box_of_another_class_is_no_partner() -> None:
    result = agreement([_detections((A, 0.9, 0))], [_detections((A, 0.9, 1))])
    assert result.figures == {"matched": 0, "mean_iou": 0, "score_agreement": 0, "ap50": 0, "ap": 0}


def test_each_box_has_one_partner_the_nearest() -> None:
    result = agreement([_detections((A, 0.9, 0))], [_detections((A_SHIFTED, 0.9, 0), (A, 0.5, 0))])
    assert result.figures["mean_iou"] == pytest.approx(1)
    assert result.figures["matched"] == pytest.approx(2 / 3)
    assert result.figures["score_agreement"] == pytest.approx(0.6)


def test_a_confident_box_too_many_costs_precision() -> None:
    doubtful = agreement([_detections((A, 0.9, 0))], [_detections((A, 0.9, 0), (B, 0.1, 0))])
    confident = agreement([_detections((A, 0.9, 0))], [_detections((B, 0.95, 0), (A, 0.9, 0))])
    assert doubtful.figures["ap50"] == pytest.approx(1)
    assert confident.figures["ap50"] == pytest.approx(0.5)


def test_precision_is_ranked_over_all_frames() -> None:
    reference = [_detections((A, 0.9, 0)), _detections((B, 0.9, 0))]
    other = [_detections((B, 0.6, 0)), _detections((B, 0.9, 0))]
    # Best first: a hit, then a miss; half of the truths are found, at precision 1.
    assert agreement(reference, other).figures["ap50"] == pytest.approx(51 / 101)


def test_frames_without_boxes_count_for_what_is_wrong_on_them() -> None:
    result = agreement([_detections((A, 0.9, 0)), _detections()], [_detections((A, 0.9, 0)), _detections((B, 0.9, 0))])
    assert result.figures["matched"] == pytest.approx(2 / 3)
    assert agreement([_detections((A, 0.9, 0))], [_detections()]).figures["mean_iou"] == 0


def test_classes_by_hand() -> None:
    reference = [_classes([1, 2], [0.8, 0.1]), _classes([3, 4], [0.6, 0.3]), _classes([5], [0.9])]
    other = [_classes([1, 2], [0.7, 0.2]), _classes([4, 3], [0.5, 0.4]), _classes([9, 8, 7, 6, 4, 5], [0.3] * 6)]
    figures = agreement(reference, other).figures
    assert figures["top1"] == pytest.approx(1 / 3)
    assert figures["top5"] == pytest.approx(2 / 3)
    assert figures["score_agreement"] == pytest.approx(1 - (0.1 + 0.2 + 0.6) / 3)


def test_embeddings_by_hand() -> None:
    vectors = [(1.0, 0.0), (0.0, 2.0)]
    others = [(3.0, 0.0), (1.0, 1.0)]
    as_embeddings = [[Embedding(np.array(each, np.float32)) for each in side] for side in (vectors, others)]
    figures = agreement(*as_embeddings).figures
    assert figures == {"cosine": pytest.approx((1 + 0.5**0.5) / 2), "least_cosine": pytest.approx(0.5**0.5)}


def test_vectors_of_other_lengths_are_compared_by_what_they_find_similar() -> None:
    short = [(1.0, 0.0), (0.9, 0.1), (0.0, 1.0), (0.1, 0.9)]
    long = [(0.0, 2.0, 0.0), (0.0, 1.9, 0.3), (1.0, 0.0, 0.0), (0.1, 1.8, 0.1)]
    as_embeddings = [[Embedding(np.array(each, np.float32)) for each in side] for side in (short, long)]
    # The most similar other one: 1, 0, 3, 2 on one side and 3, 3, 3, 0 on the other.
    figures = agreement(*as_embeddings).figures
    assert set(figures) == {"neighbour"}
    assert figures["neighbour"] == pytest.approx(1 / 4)
    assert agreement(as_embeddings[0], as_embeddings[0]).figures["neighbour"] == 1
    with pytest.raises(ConfigError, match="vectors of 2 and 3 numbers"):
        agreement(as_embeddings[0][:2], as_embeddings[1][:2])


def test_classes_are_renumbered_by_name() -> None:
    ours, theirs = ("cat", "Dog", "newt"), ("background", "dog", "cat", "cat")
    found = in_classes_of(_detections((A, 0.9, 0), (B, 0.8, 1), (B, 0.7, 2)), ours, theirs)
    assert isinstance(found, Detections)
    assert found.class_ids.tolist() == [2, 1, -3], "of two of a name the first; an unknown one is nobody's"
    same = _classes([1, 2], [0.5, 0.4])
    assert in_classes_of(same, ours, ours) is same


def test_a_summary_has_what_is_judged() -> None:
    result = Agreement(12, 30, {"matched": 0.98765, "mean_iou": 0.99, "ap": 0.5})
    assert result.summary() == "matched 0.9877, mean iou 0.9900 in 12 pictures"


_BOXES = st.lists(
    st.tuples(
        st.tuples(st.integers(0, 50), st.integers(0, 50), st.integers(1, 30), st.integers(1, 30)),
        st.floats(0, 1, width=32),
        st.integers(0, 2),
    ),
    max_size=6,
)


@given(st.lists(_BOXES, min_size=1, max_size=4), st.lists(_BOXES, min_size=4, max_size=4))
def test_figures_are_shares_and_a_model_agrees_with_itself(frames: list[Any], others: list[Any]) -> None:
    def made(frame: list[Any]) -> Detections:
        ranked = sorted(frame, key=lambda each: -each[1])
        return _detections(*(((x, y, x + w, y + h), score, kind) for (x, y, w, h), score, kind in ranked))

    reference = [made(frame) for frame in frames]
    if not any(len(each.scores) for each in reference):
        with pytest.raises(ConfigError, match="finds nothing"):
            agreement(reference, reference)
        return
    itself = agreement(reference, reference)
    assert all(value == pytest.approx(1, abs=1e-6) for value in itself.figures.values()), itself
    assert all(itself.passes(precision) for precision in THRESHOLDS)
    figures = agreement(reference, [made(frame) for frame in others[: len(frames)]]).figures
    assert all(0 <= value <= 1 + 1e-9 for value in figures.values())
    assert figures["ap"] <= figures["ap50"] + 1e-9


def test_a_figure_below_the_threshold_is_said() -> None:
    result = Agreement(10, 10, {"top1": 0.96, "top5": 1.0, "score_agreement": 0.1})
    assert result.passes("int8")
    assert result.failures("fp16") == ["top1 is 0.9600, fp16 must reach 0.98"]
    assert not Agreement(1, 1, {"top1": float("nan")}).passes("int8")
    with pytest.raises(ConfigError, match="choose one of"):
        result.passes("int3")


def test_lower_precisions_ask_for_no_more() -> None:
    for name in THRESHOLDS["fp32"]:
        least = [THRESHOLDS[precision][name] for precision in ("fp32", "fp16", "bf16", "int8")]
        assert least == sorted(least, reverse=True), name


@pytest.mark.parametrize(
    ("reference", "other", "complaint"),
    [
        ([], [], "as many frames"),
        ([_detections((A, 1, 0))], [], "as many frames"),
        ([_detections((A, 1, 0))], [_classes([1], [1.0])], "one task"),
        ([_classes([], [])], [_classes([1], [1.0])], "names no class"),
    ],
)
def test_what_cannot_be_compared_is_refused(reference: list[Any], other: list[Any], complaint: str) -> None:
    with pytest.raises(ConfigError, match=complaint):
        agreement(reference, other)

"""Which detections a stage looks at, and which pixels: inside the frame, around the box, enough of them."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from foveate.models.geometry import Rect
from foveate.models.outputs import Detections
from foveate.service.crops import Size, crop_rect, enough_pixels, looked_at
from support.cascades import cascade_stage
from support.frames import colour_model

SIDES = st.integers(1, 5000)
SHARES = st.floats(0.0, 1.0, width=32)


@given(width=SIDES, height=SIDES, corners=st.tuples(SHARES, SHARES, SHARES, SHARES), margin=SHARES)
def test_a_crop_is_in_the_frame_and_covers_its_box_and_no_more_than_a_pixel_beyond_the_margin(
    width: int, height: int, corners: tuple[float, float, float, float], margin: float
) -> None:
    across, down = sorted(corners[:2]), sorted(corners[2:])
    box = np.array([across[0] * width, down[0] * height, across[1] * width, down[1] * height], np.float32)
    box = np.minimum(box, np.array([width, height, width, height], np.float32))
    crop = crop_rect(box, Size(width, height), margin)
    assert crop.width >= 1
    assert crop.height >= 1
    for first, length, low, high, side in (
        (crop.x, crop.width, float(box[0]), float(box[2]), width),
        (crop.y, crop.height, float(box[1]), float(box[3]), height),
    ):
        around = margin * (high - low)
        assert 0 <= first <= first + length <= side
        assert first <= low or first == side - 1, "the whole box is in it"
        assert first + length >= high
        assert first > max(0.0, low - around) - 1 - 1e-3 or first == side - 1
        assert first + length < min(float(side), high + around) + 1 + 1e-3 or length == 1


@pytest.mark.parametrize(
    ("box", "margin", "expected"),
    [
        ((10, 20, 30, 40), 0.0, Rect(10, 20, 20, 20)),
        ((10, 20, 30, 40), 0.1, Rect(8, 18, 24, 24)),
        ((10.2, 20.8, 29.5, 39.9), 0.0, Rect(10, 20, 20, 20)),
        ((0, 0, 100, 80), 1.0, Rect(0, 0, 100, 80)),
        ((90, 70, 100, 80), 0.5, Rect(85, 65, 15, 15)),
        ((100, 80, 100, 80), 0.0, Rect(99, 79, 1, 1)),
    ],
)
def test_a_crop_by_example(box: Any, margin: float, expected: Rect) -> None:
    assert crop_rect(np.array(box, np.float32), Size(100, 80), margin) == expected


def seen(*rows: tuple[float, float, int]) -> Detections:
    """Square boxes of a side, with a score and a class."""
    boxes = np.array([(0, 0, side, side) for side, _, _ in rows], np.float32).reshape(-1, 4)
    scores = np.array([score for _, score, _ in rows], np.float32)
    return Detections(boxes, scores, np.array([number for _, _, number in rows], np.int64))


def test_the_best_of_the_wanted_classes_that_are_large_enough_are_looked_at() -> None:
    detections = seen((50, 0.5, 0), (50, 0.9, 1), (9.9, 0.95, 0), (50, 0.7, 0), (10, 0.6, 0))
    stage = cascade_stage(class_ids=frozenset({0}), min_size_px=10, max_crops=2)
    assert [index for index, _ in looked_at(detections, stage, Size(100, 100))] == [3, 4]


def test_what_is_known_already_leaves_its_crop_to_others() -> None:
    detections, stage = seen((50, 0.9, 0), (50, 0.8, 0), (50, 0.7, 0)), cascade_stage(max_crops=1)
    assert [index for index, _ in looked_at(detections, stage, Size(100, 100), needed=(1, 2))] == [1]
    assert looked_at(detections, stage, Size(100, 100), needed=()) == []


@given(st.lists(st.tuples(st.floats(1, 99), st.floats(0, 1, width=32), st.integers(0, 3)), max_size=20))
def test_no_detection_is_looked_at_twice_and_none_that_scores_less_before_one_that_scores_more(rows: Any) -> None:
    detections, stage = seen(*rows), cascade_stage(class_ids=frozenset({1, 2}), max_crops=5)
    chosen = [index for index, _ in looked_at(detections, stage, Size(100, 100))]
    candidates = [index for index, (_, _, number) in enumerate(rows) if number in (1, 2)]
    assert len(set(chosen)) == len(chosen) == min(5, len(candidates))
    lowest = min((rows[index][1] for index in chosen), default=0.0)
    assert all(rows[index][1] <= lowest for index in candidates if index not in chosen)


def test_a_picture_may_be_as_small_as_its_largest_demand_allows() -> None:
    frame, model = Size(1601, 1200), colour_model(32, 24)
    large, middle, small = ((Rect(0, 0, 32 * scale, 24 * scale), model) for scale in (10, 3, 1))
    assert enough_pixels(frame, [large]) == (201, 150)
    assert enough_pixels(frame, [large, middle]) == (801, 600)
    assert enough_pixels(frame, [large, middle, small]) == frame
    assert enough_pixels(frame, [(Rect(0, 0, 16, 12), model)]) == frame, "what is enlarged anyway needs every pixel"
    assert enough_pixels(frame, []) == frame

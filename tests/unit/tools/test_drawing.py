"""What is drawn, found again in the pixels."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from foveate.client import ClassScore, Detections, Verdict
from foveate.client.result import no_detections
from foveate.tools.drawing import Annotator, picture_from_bytes
from foveate.tools.video_source import Image, encoded
from support.results import made_result, one_detection

INFER = (0xF1, 0x66, 0x63)  # of STAGES, as blue, green, red


def blank(width: int = 640, height: int = 360) -> Image:
    return np.full((height, width, 3), 90, np.uint8)


def changed(image: Image, drawn: Image) -> np.ndarray:
    """Where the picture itself, without the strip under it, was drawn upon."""
    return np.asarray((drawn[: image.shape[0]].astype(int) != image).any(axis=2))


def test_the_box_lies_where_it_was_seen() -> None:
    image = blank()
    drawn = Annotator().draw(image, made_result(detections=one_detection((100.0, 150.0, 300.0, 280.0))))
    there = changed(image, drawn)
    rows, columns = np.nonzero(there[160:])
    assert (columns.min(), columns.max()) == (pytest.approx(100, abs=2), pytest.approx(300, abs=2))
    assert rows.max() + 160 == pytest.approx(280, abs=2)
    assert not there[200:270, 110:290].any(), "the inside stays clear but for the keypoints"
    assert there[130:149, 100:140].all(), "the label stands on top of the box"
    assert (image == 90).all(), "the given picture is not drawn upon"


def test_keypoints_are_drawn_and_missing_ones_are_not() -> None:
    seen = one_detection((100.0, 150.0, 300.0, 280.0))
    points = np.array([[[200.0, 220.0, 1.0], [np.nan] * 3]], np.float32)
    there = changed(blank(), Annotator().draw(blank(), made_result(detections=replace(seen, keypoints=points))))
    assert there[220, 200]
    assert np.count_nonzero(there[190:250, 150:250]) < 120


@pytest.mark.parametrize("box", [(-50.0, -40.0, 40.0, 30.0), (600.0, 340.0, 900.0, 700.0), (5.0, 0.0, 6.0, 1.0)])
def test_boxes_and_labels_beyond_the_edge_are_kept_in(box: tuple[float, float, float, float]) -> None:
    drawn = Annotator().draw(blank(), made_result(detections=one_detection(box)))
    assert changed(blank(), drawn).any()


def test_small_pictures_are_enlarged_with_their_boxes() -> None:
    image = blank(160, 90)
    drawn = Annotator().draw(image, made_result(detections=one_detection((40.0, 40.0, 80.0, 60.0))))
    assert drawn.shape[1] == 640
    columns = np.nonzero(changed(blank(), drawn)[200])[0]
    assert (columns.min(), columns.max()) == (pytest.approx(160, abs=2), pytest.approx(320, abs=2))


def test_a_frame_that_was_not_answered_carries_the_last_boxes_faded() -> None:
    annotator = Annotator()
    bright = annotator.draw(blank(), made_result(detections=one_detection((100.0, 150.0, 300.0, 280.0))))
    faded = annotator.draw(blank(), made_result(2, Verdict.SUPERSEDED))
    strong = np.abs(bright[200, 100].astype(int) - 90).sum()
    weak = np.abs(faded[200, 100].astype(int) - 90).sum()
    assert 0 < weak < 0.6 * strong
    assert changed(blank(), faded)[:30, :120].any(), "the verdict stands in the corner"
    assert not changed(blank(), bright)[:30, :120].any()


def of_track(track_id: int, left: float, class_id: int = 2) -> Detections:
    seen = one_detection((left, 150.0, left + 100.0, 280.0), track_id=track_id)
    return replace(seen, class_ids=np.array([class_id]), keypoints=None)


def colour_at(drawn: Image, x: int, y: int = 220) -> tuple[int, ...]:
    return tuple(drawn[y, x].tolist())


def test_a_track_keeps_its_colour_whatever_its_class() -> None:
    colours = [
        colour_at(Annotator().draw(blank(), made_result(detections=of_track(track_id, 100.0, class_id))), 100)
        for track_id, class_id in ((5, 2), (5, 3), (6, 2), (0, 2), (0, 3))
    ]
    assert colours[0] == colours[1]
    assert len(set(colours)) == 4, "by class without a track"


def test_what_has_no_track_is_grey_beside_what_has() -> None:
    first, second = of_track(5, 100.0), of_track(0, 400.0)
    both = replace(
        first,
        boxes=np.concatenate([first.boxes, second.boxes]),
        scores=np.array([0.9, 0.8], np.float32),
        class_ids=np.array([2, 2]),
        labels=("face", "face"),
        track_ids=np.array([5, 0]),
        attributes=((), ()),
    )
    drawn = Annotator().draw(blank(), made_result(detections=both))
    assert colour_at(drawn, 400) == (170, 160, 150)
    assert colour_at(drawn, 100) != colour_at(drawn, 400)


def test_a_track_trails_the_way_that_it_came_while_it_is_seen() -> None:
    annotator = Annotator()
    for left in (100.0, 150.0, 200.0, 250.0):
        drawn = annotator.draw(blank(), made_result(detections=of_track(5, left)))
    assert colour_at(drawn, 180, 280) == colour_at(drawn, 250), "along the feet, in its own colour"
    assert not changed(blank(), drawn)[270:, 110:140].any(), "not beyond where it was seen first"
    gone = annotator.draw(blank(), made_result(detections=of_track(6, 400.0)))
    assert not changed(blank(), gone)[270:, 100:380].any()
    back = annotator.draw(blank(), made_result(detections=of_track(5, 300.0)))
    assert changed(blank(), back)[280, 320]
    for _ in range(40):
        annotator.draw(blank(), made_result(detections=no_detections()))
    anew = annotator.draw(blank(), made_result(detections=of_track(5, 500.0)))
    assert not changed(blank(), anew)[270:, 100:490].any(), "what was long ago is forgotten"


def test_a_track_that_jumps_leaves_no_trail_across_the_picture() -> None:
    annotator = Annotator()
    for left in (50.0, 60.0, 400.0, 420.0):
        drawn = annotator.draw(blank(), made_result(detections=of_track(5, left)))
    there = changed(blank(), drawn)[280]
    assert not there[100:395].any()
    assert there[455:470].all()


def test_a_trail_has_an_end() -> None:
    annotator = Annotator()
    for step in range(60):
        drawn = annotator.draw(blank(1200), made_result(detections=of_track(5, 10.0 * step)))
    columns = np.nonzero(changed(blank(1200), drawn)[280])[0]
    assert columns.min() == pytest.approx(10 * (59 - 23) + 50, abs=4), "24 answers ago"


def test_classes_are_listed() -> None:
    result = made_result(classes=(ClassScore(3, "cat", 0.5), ClassScore(4, "dog", 0.25)))
    there = changed(blank(), Annotator().draw(blank(), result))
    assert there[12:50, 12:60].any()
    assert not there[150:].any()


@pytest.mark.parametrize(("age_ms", "total_ms", "share"), [(0.0, 50.0, 0.5), (0.0, 25.0, 0.25), (50.0, 25.0, 0.25)])
def test_the_bar_shows_each_stage_as_its_part_of_the_budget(age_ms: float, total_ms: float, share: float) -> None:
    drawn = Annotator().draw(blank(), made_result(age_ms=age_ms, total_ms=total_ms))
    bar = drawn[362]
    assert np.count_nonzero((bar == INFER).all(axis=1)) == pytest.approx(640 * share, abs=2)


def test_what_is_over_the_budget_is_red() -> None:
    bar = Annotator().draw(blank(), made_result(total_ms=198.0))[362]
    assert np.count_nonzero((bar == (0x26, 0x26, 0xDC)).all(axis=1)) == pytest.approx(320, abs=3)


def test_pictures_come_back_from_their_bytes() -> None:
    image = picture_from_bytes(encoded(blank(), 95))
    assert image is not None
    assert image.shape == (360, 640, 3)
    assert picture_from_bytes(b"no picture") is None

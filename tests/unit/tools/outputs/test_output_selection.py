"""Which results an output wants, camera by camera."""

from __future__ import annotations

import pytest

from foveate.client import Verdict
from foveate.tools.outputs.selection import Selection, Wanted, When
from support.camera_results import camera_result


@pytest.mark.parametrize(("when", "expected"), [("all", [1, 2, 3]), ("ok", [1, 2]), ("detections", [1])])
def test_what_kind_of_frames(when: When, expected: list[int]) -> None:
    selection = Selection(Wanted(when))
    results = [camera_result(1), camera_result(2, seen=False), camera_result(3, verdict=Verdict.EXPIRED)]
    assert [result.result.sequence for result in results if selection.takes(result)] == expected


def test_only_frames_with_one_of_the_labels() -> None:
    assert Selection(Wanted("ok", labels=frozenset({"dog", "face"}))).takes(camera_result())
    assert not Selection(Wanted("all", labels=frozenset({"dog"}))).takes(camera_result())
    assert not Selection(Wanted("all", labels=frozenset({"face"}))).takes(camera_result(verdict=Verdict.FAILED))


def test_only_some_cameras() -> None:
    selection = Selection(Wanted(cameras=("yard-*", "door")))
    cameras = ["door", "door2", "yard-north", "yard"]
    assert [name for name in cameras if selection.takes(camera_result(camera=name))] == ["door", "yard-north"]


def test_every_nth_of_what_the_conditions_leave_for_each_camera() -> None:
    selection = Selection(Wanted("detections", every=3))
    taken = [
        (camera, sequence)
        for sequence in range(1, 15)
        for camera in ("a", "b")
        if selection.takes(camera_result(sequence, camera, seen=sequence % 2 == 0))
    ]
    assert taken == [(camera, sequence) for sequence in (2, 8, 14) for camera in ("a", "b")]


def test_an_interval_holds_for_each_camera_on_the_clock_of_this_machine() -> None:
    now = 100.0
    selection = Selection(Wanted(min_interval_s=10.0), lambda: now)
    assert selection.takes(camera_result(1, "a", at=5000.0))
    assert selection.takes(camera_result(1, "b"))
    now = 109.9
    assert not selection.takes(camera_result(2, "a", at=0.0))
    now = 110.0
    assert selection.takes(camera_result(3, "a", at=0.0)), "a camera's clock that was set back stops nothing"
    now = 119.0
    assert not selection.takes(camera_result(4, "a")), "counted from the one taken last"

"""Which pictures are worth sending, what is handed over, and how old it is."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from foveate.tools.watch.gates import MotionGate, RateGate
from foveate.tools.watch.handover import Handover, NewestOnly, WaitingUnits
from foveate.tools.watch.lateness import Lateness


@pytest.mark.parametrize(("camera_fps", "cap"), [(25, 10), (30, 29), (10, 10), (60, 7.5), (8, 25)])
def test_the_rate_is_what_it_should_be(camera_fps: float, cap: float) -> None:
    gate = RateGate()
    seconds = 40
    passed = sum(gate.admits(1000 + number / camera_fps, cap) for number in range(int(camera_fps * seconds)))
    assert passed == pytest.approx(min(camera_fps, cap) * seconds, abs=2)


@given(st.lists(st.floats(0.0, 0.5), min_size=1, max_size=200), st.floats(0.5, 50.0))
def test_jitter_never_raises_the_rate(gaps: list[float], cap: float) -> None:
    gate, times = RateGate(), np.cumsum([1000.0, *gaps])
    passed = sum(gate.admits(float(at), cap) for at in times)
    assert passed >= 1
    assert passed <= (times[-1] - times[0]) * cap + 3


def test_a_cap_that_was_lifted_or_a_clock_that_was_set_back_do_not_silence_a_camera() -> None:
    gate = RateGate()
    assert gate.admits(1000.0, 0.01)
    assert gate.admits(1000.1, None)
    gate.admits(1000.2, 0.01)
    assert sum(gate.admits(10.0 + number / 10, 10) for number in range(10)) >= 9


def scene(x: int, *, noise: int = 0, seed: int = 0) -> np.ndarray[tuple[int, ...], np.dtype[np.uint8]]:
    picture = np.full((120, 160), 90, np.int16)
    picture[50:70, x : x + 12] = 200
    picture += np.random.default_rng(seed).integers(-noise, noise + 1, picture.shape).astype(np.int16)
    return picture.astype(np.uint8)


def test_still_scenes_are_skipped_but_seen_now_and_then() -> None:
    gate = MotionGate(0.002, min_fps=0.5)
    passed = [gate.admits(scene(20, noise=6, seed=number), 100 + number / 10) for number in range(100)]
    assert sum(passed) == 5
    assert passed[0]
    assert gate.is_still(110.0)


def test_what_moves_passes_even_slowly() -> None:
    gate = MotionGate(0.002, min_fps=0.001)
    passed = [gate.admits(scene(20 + number // 5), 100 + number / 10) for number in range(100)]
    assert sum(passed) >= 9, "one pixel at a time, compared with what was sent last"
    assert not gate.is_still(110.0)


def test_a_picture_of_another_size_passes() -> None:
    gate = MotionGate(0.002, min_fps=0)
    assert gate.admits(scene(20), 1.0)
    assert not gate.admits(scene(20), 1e9)
    assert gate.admits(scene(20)[:, :80], 2.0)


@dataclass(frozen=True)
class Unit:
    number: int
    is_key: bool


def test_only_the_newest_waits() -> None:
    newest: NewestOnly[int] = NewestOnly()
    assert [newest.add(number) for number in range(3)] == [0, 1, 1]
    assert (newest.take(), newest.take()) == (2, None)


@given(st.lists(st.booleans(), max_size=300), st.integers(2, 20), st.randoms(use_true_random=False))
def test_video_that_is_handed_over_can_always_be_decoded(keys: list[bool], most: int, chance: object) -> None:
    waiting: WaitingUnits[Unit] = WaitingUnits(most)
    taken: list[Unit] = []
    thrown = 0
    for number, is_key in enumerate(keys):
        thrown += waiting.add(Unit(number, is_key))
        if chance.random() < 0.4 and (unit := waiting.take()):  # type: ignore[attr-defined]
            taken.append(unit)
    while unit := waiting.take():
        taken.append(unit)
    assert len(taken) + thrown == len(keys)
    before = -1
    for unit in taken:
        assert unit.is_key or unit.number == before + 1, "what follows a gap is a key frame"
        before = unit.number


def test_without_a_backlog_no_unit_is_lost() -> None:
    waiting: WaitingUnits[Unit] = WaitingUnits(8)
    units = [Unit(number, number % 10 == 0) for number in range(50)]
    for unit in units:
        assert waiting.add(unit) == 0
        assert waiting.take() is unit


def test_the_handover_crosses_threads_and_ends() -> None:
    async def run() -> None:
        handover: Handover[int] = Handover(NewestOnly(), asyncio.get_running_loop())
        waiting = asyncio.create_task(handover.take())
        await asyncio.to_thread(handover.put, 1)
        assert await waiting == 1
        for number in (2, 3, 4):
            await asyncio.to_thread(handover.put, number)
        await asyncio.to_thread(handover.close)
        assert await handover.take() == 4, "what waits can still be taken"
        assert await handover.take() is None
        assert handover.dropped == 2

    asyncio.run(run())


def test_a_read_that_waited_brings_something_new() -> None:
    lateness = Lateness(100.0)
    assert lateness.captured_at(100.0, 100.1, 5.0) == 100.1


def test_what_lay_in_the_buffers_is_as_old_as_the_camera_says() -> None:
    lateness = Lateness(100.0)
    lateness.captured_at(100.0, 100.1, 5.0)
    # A decoder that took a second: the camera went on meanwhile, at 10 a second.
    ages = [101.1 - lateness.captured_at(101.1, 101.1, 5.0 + number / 10) for number in range(1, 11)]
    assert ages == pytest.approx([0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3, 0.2, 0.1, 0.0])


@pytest.mark.parametrize("stamp_s", [5.0, -1e6, 1e6, None])
def test_a_camera_whose_clock_lies_cannot_mislead_us(stamp_s: float | None) -> None:
    lateness = Lateness(100.0)
    lateness.captured_at(100.0, 100.1, 5.0)
    assert 100.1 <= lateness.captured_at(101.1, 101.1, stamp_s) <= 101.1
    assert lateness.captured_at(101.1, 101.2, stamp_s) == 101.2


def test_a_reader_that_never_waits_is_behind_for_good() -> None:
    lateness = Lateness(100.0)
    assert not lateness.must_leave_out(101.0, is_key=False)
    assert lateness.must_leave_out(103.0, is_key=False)
    assert lateness.must_leave_out(103.0, is_key=True), "it has not caught up"
    lateness.captured_at(103.0, 103.1, None)
    assert lateness.must_leave_out(103.1, is_key=False), "nothing before a key frame can be decoded"
    assert not lateness.must_leave_out(103.2, is_key=True)
    assert not lateness.must_leave_out(103.3, is_key=False)

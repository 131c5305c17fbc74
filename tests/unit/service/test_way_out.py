"""How early an answer is given: as the event loop has been lately, within bounds."""

from __future__ import annotations

from foveate.service.way_out import WayOut
from support.frames import MS


def test_a_loop_that_comes_round_late_calls_for_earlier_answers() -> None:
    way_out = WayOut()
    assert way_out.takes_ns == 3 * MS
    for now_ms in range(300):
        way_out.observe_turn(MS // 10, now_ms * MS)
    assert way_out.takes_ns == 3 * MS, "no less than that"
    for now_ms in range(300, 303):
        way_out.observe_turn(6 * MS, now_ms * MS)
    assert way_out.takes_ns == 12 * MS, "it is waited for twice"
    for now_ms in range(2000, 2400):
        way_out.observe_turn(MS, now_ms * MS)
    assert way_out.takes_ns == 3 * MS, "it is forgotten"


def test_one_stall_does_not_take_every_frames_time() -> None:
    way_out = WayOut()
    for now_ms in range(256):
        way_out.observe_turn(MS, now_ms * MS)
    way_out.observe_turn(5000 * MS, 256 * MS)
    assert way_out.takes_ns == 6 * MS
    for now_ms in range(257, 260):
        way_out.observe_turn(5000 * MS, now_ms * MS)
    assert way_out.takes_ns == 40 * MS, "however many there are"

"""Which streams send to a lane, by weight."""

from __future__ import annotations

import pytest

from foveate.service.senders import Senders
from foveate.service.waiting_room import StreamShare

SECOND = 1_000_000_000


def test_a_stream_counts_by_its_weight_and_once_however_much_it_sends() -> None:
    senders, heavy, light = Senders(), StreamShare(weight=3.0), StreamShare(weight=0.5)
    assert senders.weight(0) == 0.0
    for now_ns in range(5):
        senders.note(heavy, now_ns)
        senders.note(light, now_ns)
    assert senders.weight(5) == pytest.approx(3.5)


def test_a_stream_that_has_stopped_counts_for_two_seconds_more() -> None:
    senders, first, second = Senders(), StreamShare(weight=3.0), StreamShare(weight=0.1)
    senders.note(first, 0)
    senders.note(second, 0)
    senders.note(first, SECOND)
    assert senders.weight(2 * SECOND) == pytest.approx(3.1)
    assert senders.weight(2 * SECOND + 1) == pytest.approx(3.0)
    assert senders.weight(60 * SECOND) == 3.0, "whoever sent last: its frames may wait for as long"
    senders.note(second, 61 * SECOND)
    assert senders.weight(61 * SECOND) == 0.1

"""What cascades are expected to take: a guess first, then what nine in ten took, more where that was not enough."""

from __future__ import annotations

from foveate.service.cascade_time import CascadeTime
from support.frames import MS


def test_the_guess_holds_until_the_first_cascade() -> None:
    expected = CascadeTime(30 * MS)
    assert expected.predicted_ns == 30 * MS
    expected.took(10 * MS)
    assert expected.predicted_ns == 10 * MS


def test_a_rare_slow_one_is_not_waited_for_and_a_slow_spell_is() -> None:
    expected = CascadeTime(0)
    for index in range(64):
        expected.took((100 if index % 16 == 0 else 10) * MS)
    assert expected.predicted_ns == 10 * MS
    for _ in range(10):
        expected.took(100 * MS)
    assert expected.predicted_ns == 100 * MS
    for _ in range(64):
        expected.took(5 * MS)
    assert expected.predicted_ns == 5 * MS, "it is forgotten"


def test_what_fell_short_asks_for_more_each_time_up_to_the_budget() -> None:
    expected, before = CascadeTime(20 * MS), 0
    for _ in range(100):
        expected.fell_short(had_ns=5 * MS, budget_ns=100 * MS)
        assert before <= expected.predicted_ns
        before = expected.predicted_ns
    assert before == 100 * MS

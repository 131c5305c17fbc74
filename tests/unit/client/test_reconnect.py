"""Back-off and giving up, with chance and time given."""

from __future__ import annotations

import math
import random

import pytest

from foveate.client.reconnect import Outage, Reconnect

POLICY = Reconnect(max_reconnect_s=10.0, first_delay_s=0.5, longest_delay_s=4.0)


class Highest(random.Random):
    """Always draws the upper end."""

    def uniform(self, a: float, b: float) -> float:
        return b


def test_the_upper_end_doubles_up_to_the_longest() -> None:
    outage = Outage(POLICY, Highest())
    assert [outage.next_delay_s(now=0.0) for _ in range(6)] == [0.5, 1.0, 2.0, 4.0, 4.0, 4.0]


def test_delays_are_spread_over_the_whole_range() -> None:
    chance = random.Random(7)
    delays = [POLICY.delay_s(2, chance) for _ in range(1000)]
    assert 0.0 <= min(delays) < 0.1
    assert 1.9 < max(delays) <= 2.0


def test_it_gives_up_once_the_outage_has_lasted() -> None:
    outage = Outage(POLICY, Highest())
    assert outage.next_delay_s(now=100.0) is not None
    assert outage.next_delay_s(now=109.9) is not None
    assert outage.next_delay_s(now=110.0) is None


def test_a_new_outage_starts_afresh() -> None:
    outage = Outage(POLICY, Highest())
    outage.next_delay_s(now=0.0)
    outage.next_delay_s(now=9.0)
    outage.over()
    assert outage.next_delay_s(now=1000.0) == 0.5
    assert outage.next_delay_s(now=1009.0) == 1.0


def test_no_second_attempt_with_a_limit_of_zero() -> None:
    assert Outage(Reconnect(max_reconnect_s=0.0), Highest()).next_delay_s(now=5.0) is None


@pytest.mark.parametrize("vain_attempts", [0, 100, 100_000])
def test_it_may_try_for_ever(vain_attempts: int) -> None:
    policy = Reconnect(max_reconnect_s=math.inf)
    assert policy.delay_s(vain_attempts, Highest()) <= policy.longest_delay_s

"""Quantiles of what was seen lately: over a time, and over enough values where few came in it."""

from __future__ import annotations

import math

from hypothesis import given
from hypothesis import strategies as st

from foveate.service.recent import RecentValues


def test_nothing_seen_is_nothing() -> None:
    assert RecentValues(10, 1, 5).quantile(0.99) == 0


@given(
    st.lists(st.tuples(st.integers(0, 6), st.integers(-50, 50)), max_size=60),
    st.integers(0, 20),
    st.integers(1, 5),
    st.integers(5, 12),
    st.sampled_from([0.01, 0.5, 0.99, 0.999]),
)
def test_a_quantile_is_that_of_the_values_in_the_window(
    steps: list[tuple[int, int]], window_ns: int, least: int, most: int, share: float
) -> None:
    recent, seen, now_ns = RecentValues(window_ns, least, most), list[tuple[int, int]](), 0
    for step_ns, value in steps:
        now_ns += step_ns
        recent.add(value, now_ns)
        seen = [*seen, (now_ns, value)][-most:]
        young = [each for each in seen if each[0] >= now_ns - window_ns]
        seen = young if len(young) >= least else seen[-least:]
        values = sorted(value for _, value in seen)
        assert len(recent) == len(values)
        assert recent.quantile(share) == values[math.ceil(share * len(values)) - 1]


def test_half_is_forgotten_the_older_one() -> None:
    recent = RecentValues(100, 1, 10)
    for value in (9, 8, 1, 2, 3):
        recent.add(value, value)
    recent.forget_half()
    assert (len(recent), recent.quantile(1.0)) == (2, 3)
    recent.forget_half()
    recent.forget_half()
    assert len(recent) == 0

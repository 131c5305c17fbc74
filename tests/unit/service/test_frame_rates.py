"""Measured, advised and announced frame rates."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from foveate.service.rates import Demand, RateMeter, fair_rates, rate_notice_due

MS = 1_000_000
SECOND = 1_000 * MS


@pytest.mark.parametrize("fps", [1, 10, 30, 250])
def test_a_steady_stream_is_measured_at_its_rate(fps: int) -> None:
    meter = RateMeter(0)
    for index in range(5 * fps):
        meter.count(index * SECOND // fps)
        if index >= 2 * fps:
            assert meter.fps(index * SECOND // fps) == pytest.approx(fps, abs=1.01)


def test_a_stream_is_not_judged_before_a_second_is_over() -> None:
    meter = RateMeter(0)
    meter.count(0)
    assert meter.fps(SECOND - 1) is None
    assert meter.fps(SECOND) == 1.0
    assert meter.fps(3 * SECOND) == 0.0


def test_a_clock_that_is_read_out_of_order_does_no_harm() -> None:
    meter = RateMeter(5 * SECOND)
    meter.count(0)
    assert meter.fps(4 * SECOND) is None
    assert meter.fps(6 * SECOND) == 1.0


def test_a_stream_that_is_open_and_idle_holds_nothing_back_from_one_that_sends() -> None:
    idle = [Demand(f"idle {index}", sending_fps=0.0) for index in range(9)]
    rates = fair_rates([Demand("busy", sending_fps=50.0), *idle], 100.0)
    assert rates["busy"] == pytest.approx(50 * 1.25 + 1 + (100 - 63.5 - 9) / 10)
    assert sum(rates.values()) == pytest.approx(100.0)


def test_streams_that_all_want_more_than_there_is_share_it_alike_however_much_they_send() -> None:
    rates = fair_rates([Demand("modest", sending_fps=40.0), Demand("flood", sending_fps=900.0)], 60.0)
    assert rates == {"modest": 30.0, "flood": 30.0}


def test_a_guarantee_comes_first_within_its_class_and_is_never_advised_away() -> None:
    promised = Demand("promised", fps=40.0, guaranteed=True)
    rates = fair_rates([Demand("best effort"), promised], 50.0)
    assert rates == {"best effort": 10.0, "promised": 40.0}
    assert fair_rates([Demand("best effort"), promised], 20.0)["promised"] == 40.0, "a promise is a promise"
    idle = Demand("promised", fps=40.0, guaranteed=True, sending_fps=0.0)
    assert fair_rates([Demand("best effort"), idle], 50.0) == {"best effort": pytest.approx(49.0), "promised": 40.0}


def test_a_higher_class_goes_before_a_guarantee_of_a_lower_one() -> None:
    rates = fair_rates([Demand("lower", 1, fps=40.0, guaranteed=True), Demand("higher", 0, fps=30.0)], 50.0)
    assert rates["higher"] == 30.0


demands = st.builds(
    Demand,
    stream_id=st.text(min_size=3, max_size=8),
    priority=st.integers(0, 2),
    weight=st.floats(0.01, 100),
    fps=st.just(0.0) | st.floats(0.1, 200),
    sending_fps=st.none() | st.floats(0, 300),
)


@given(st.lists(demands, max_size=20, unique_by=lambda demand: demand.stream_id), st.floats(0, 1000))
def test_no_more_is_advised_than_there_is_nor_to_anybody_more_than_it_wants(
    demands: list[Demand], capacity: float
) -> None:
    rates = fair_rates(demands, capacity)
    assert set(rates) == {demand.stream_id for demand in demands}
    assert sum(rates.values()) <= capacity * (1 + 1e-6) + 1e-9
    assert all(0 <= rates[demand.stream_id] <= demand.most_fps * (1 + 1e-9) for demand in demands)
    if any(not demand.fps for demand in demands):
        assert sum(rates.values()) == pytest.approx(capacity, rel=1e-6, abs=1e-6), "nothing is left over"


@pytest.mark.parametrize(
    ("fps", "after_s", "due"),
    [(10.0, 9.0, False), (11.9, 9.0, False), (8.1, 9.0, False), (13.0, 9.0, True), (7.0, 9.0, True), (7.0, 0.9, False)],
)
def test_a_notice_is_due_when_the_advice_is_a_fifth_off(fps: float, after_s: float, due: bool) -> None:
    assert rate_notice_due(10.0, SECOND, fps, int((1 + after_s) * SECOND)) == due


def test_advice_that_was_nothing_is_news_when_it_is_something() -> None:
    assert rate_notice_due(0.0, 0, 0.1, SECOND)
    assert not rate_notice_due(0.0, 0, 0.0, SECOND)

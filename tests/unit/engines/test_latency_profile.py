"""Latency profiles: always rising, well fitted, and measured within their limits."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from foveate.engines import EngineError, FakeEngine, LatencyProfile, batch_buckets, measure_profile
from foveate.engines.fake import Rows

MS = 1_000_000


@st.composite
def profiles(draw: st.DrawFn) -> LatencyProfile:
    buckets = sorted(draw(st.sets(st.integers(1, 300), min_size=1, max_size=8)))
    latencies = st.lists(st.integers(0, 10**10), min_size=len(buckets), max_size=len(buckets))
    measured = draw(st.lists(st.booleans(), min_size=len(buckets), max_size=len(buckets)))
    return LatencyProfile(tuple(buckets), tuple(draw(latencies)), tuple(draw(latencies)), (True, *measured[1:]))


@given(profiles())
def test_latency_never_falls_as_the_batch_grows(profile: LatencyProfile) -> None:
    latencies = [profile.latency_ns(batch) for batch in range(1, 2 * profile.buckets[-1] + 2)]
    assert latencies == sorted(latencies)
    assert all(p99 >= median for p99, median in zip(profile.p99_ns, profile.median_ns, strict=True))


@given(profiles())
def test_latency_of_a_bucket_is_its_median(profile: LatencyProfile) -> None:
    assert tuple(profile.latency_ns(batch) for batch in profile.buckets) == profile.median_ns


@given(profiles())
def test_fit_is_never_negative(profile: LatencyProfile) -> None:
    assert profile.alpha_ns >= 0
    assert profile.beta_ns >= 0


@given(profiles())
def test_json_brings_the_same_profile_back(profile: LatencyProfile) -> None:
    assert LatencyProfile.from_json(json.loads(json.dumps(profile.to_json()))) == profile


@given(st.integers(0, 10**9), st.integers(0, 10**9))
def test_fit_finds_the_line_that_made_the_points(alpha: int, beta: int) -> None:
    buckets = (1, 2, 4, 8, 16)
    latencies = tuple(alpha * batch + beta for batch in buckets)
    profile = LatencyProfile(buckets, latencies, latencies)
    assert profile.alpha_ns == pytest.approx(alpha, rel=1e-6, abs=1)
    assert profile.beta_ns == pytest.approx(beta, rel=1e-6, abs=10)
    assert profile.latency_ns(32) == pytest.approx(alpha * 32 + beta, rel=1e-6, abs=100)


def test_latency_between_buckets_lies_on_the_line() -> None:
    profile = LatencyProfile((1, 2, 4), (10, 20, 60), (11, 21, 61))
    assert [profile.latency_ns(batch) for batch in (1, 2, 3, 4)] == [10, 20, 40, 60]


def test_a_faster_larger_bucket_is_raised() -> None:
    profile = LatencyProfile((1, 2, 4), (10, 8, 12), (9, 30, 20))
    assert profile.median_ns == (10, 10, 12)
    assert profile.p99_ns == (10, 30, 30)


def test_a_line_through_negative_costs_starts_at_zero() -> None:
    profile = LatencyProfile((1, 2), (10, 40), (10, 40))
    assert profile.beta_ns == 0
    assert profile.alpha_ns == pytest.approx((1 * 10 + 2 * 40) / (1 + 4))


def test_one_bucket_costs_by_the_frame() -> None:
    profile = LatencyProfile((4,), (40,), (50,))
    assert (profile.alpha_ns, profile.beta_ns) == (10, 0)
    assert [profile.latency_ns(batch) for batch in (1, 4, 6)] == [40, 40, 60]


def test_fit_leaves_out_what_was_not_measured() -> None:
    profile = LatencyProfile((1, 2, 4), (30, 40, 5000), (30, 40, 5000), (True, True, False))
    assert (profile.alpha_ns, profile.beta_ns) == pytest.approx((10, 20))


def test_batch_below_one_is_refused() -> None:
    with pytest.raises(EngineError, match="at least 1, not 0"):
        LatencyProfile((1,), (10,), (10,)).latency_ns(0)


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        (((), (), ()), "at least one bucket"),
        (((1, 2), (10,), (10, 20)), "one value per bucket"),
        (((2, 1), (10, 20), (10, 20)), "ascending"),
        (((0, 1), (10, 20), (10, 20)), "1 or more"),
        (((1,), (-1,), (10,)), "negative"),
        (((1,), (1.5,), (10,)), "whole numbers"),
        (((1,), (10,), (10,), (False,)), "measured"),
    ],
)
def test_columns_that_do_not_fit_are_refused(columns: Any, message: str) -> None:
    with pytest.raises(EngineError, match=message):
        LatencyProfile(*columns)


@pytest.mark.parametrize(
    "value", [{}, {"buckets": [1]}, {"buckets": 1, "median_ns": [1], "p99_ns": [1], "measured": [True]}]
)
def test_other_json_is_refused(value: dict[str, Any]) -> None:
    with pytest.raises(EngineError, match="expected a latency profile with the lists buckets"):
        LatencyProfile.from_json(value)


@pytest.mark.parametrize(
    ("max_batch", "buckets"),
    [(1, (1,)), (2, (1, 2)), (3, (1, 2, 3)), (8, (1, 2, 4, 8)), (12, (1, 2, 4, 8, 12))],
)
def test_buckets_are_powers_of_two_and_the_largest(max_batch: int, buckets: tuple[int, ...]) -> None:
    assert batch_buckets(max_batch) == buckets


def test_no_buckets_below_one() -> None:
    with pytest.raises(EngineError, match="max_batch must be at least 1, not 0"):
        batch_buckets(0)


class TimedEngine(FakeEngine):
    """A fake engine whose runs move its own clock, and which keeps the batches that it ran."""

    def __init__(self, latency_ns: Callable[[int, int], int], max_batch: int = 8) -> None:
        super().__init__(max_batch=max_batch, compute=self._spend)
        self.now_ns = 0
        self.batches: list[int] = []
        self._latency_ns = latency_ns

    def clock_ns(self) -> int:
        return self.now_ns

    def _spend(self, inputs: Rows, batch: int) -> Rows:
        self.now_ns += self._latency_ns(batch, self.batches.count(batch))
        self.batches.append(batch)
        return {"mean": np.zeros((batch, 1), np.float32)}


def test_measure_finds_the_latencies() -> None:
    with TimedEngine(lambda batch, run: (3 * batch + 5) * MS) as engine:
        profile = measure_profile(engine, clock_ns=engine.clock_ns)
    assert profile.buckets == (1, 2, 4, 8)
    assert profile.median_ns == profile.p99_ns == (8 * MS, 11 * MS, 17 * MS, 29 * MS)
    assert profile.measured == (True,) * 4
    assert (profile.alpha_ns, profile.beta_ns) == pytest.approx((3 * MS, 5 * MS))


def test_measure_leaves_the_warm_up_out() -> None:
    with TimedEngine(lambda batch, run: 900 * MS if run < 3 else MS, max_batch=1) as engine:
        profile = measure_profile(engine, warmup=3, repeats=5, clock_ns=engine.clock_ns)
    assert profile.p99_ns == (MS,)
    assert engine.batches == [1] * 8


def test_measure_tells_the_median_from_the_slowest() -> None:
    with TimedEngine(lambda batch, run: 7 * MS if run == 9 else MS, max_batch=1) as engine:
        profile = measure_profile(engine, clock_ns=engine.clock_ns)
    assert (profile.median_ns, profile.p99_ns) == ((MS,), (7 * MS,))


def test_measure_shares_the_time_among_the_buckets() -> None:
    with TimedEngine(lambda batch, run: 10 * MS) as engine:
        profile = measure_profile(engine, repeats=1000, time_limit_s=2.0, clock_ns=engine.clock_ns)
    assert profile.measured == (True,) * 4
    assert [engine.batches.count(batch) for batch in (1, 2, 4, 8)] == [50, 50, 50, 50]


def test_measure_extrapolates_what_is_too_slow() -> None:
    with TimedEngine(lambda batch, run: (batch * 100 + 20) * MS) as engine:
        profile = measure_profile(engine, time_limit_s=3.5, clock_ns=engine.clock_ns)
    assert profile.measured == (True, True, False, False)
    assert engine.batches.count(1) >= 5
    assert engine.batches.count(2) >= 5
    assert set(engine.batches) == {1, 2}
    assert profile.median_ns[2:] == pytest.approx((420 * MS, 820 * MS), rel=1e-6)
    assert profile.p99_ns[2:] == pytest.approx(profile.median_ns[2:], rel=1e-6)


def test_measure_always_takes_three_samples_of_the_first_bucket() -> None:
    with TimedEngine(lambda batch, run: 60_000 * MS) as engine:
        profile = measure_profile(engine, warmup=1, time_limit_s=0.0, clock_ns=engine.clock_ns)
    assert engine.batches == [1] * 4
    assert profile.measured == (True, False, False, False)
    assert profile.latency_ns(8) == 480_000 * MS


def test_measure_reports_its_progress() -> None:
    seen: list[tuple[int, int]] = []
    with TimedEngine(lambda batch, run: MS, max_batch=4) as engine:
        measure_profile(engine, clock_ns=engine.clock_ns, on_progress=lambda done, total: seen.append((done, total)))
    assert seen == [(1, 3), (2, 3), (3, 3)]


def test_measure_runs_on_random_pixels_in_the_slot_given() -> None:
    with FakeEngine(max_batch=2) as engine:
        slot = engine.new_slot()
        measure_profile(engine, slot=slot, repeats=3)
        assert len(np.unique(slot.inputs["pixels"])) > 200
        assert engine.new_slot().index == 1


def test_measure_needs_a_loaded_engine() -> None:
    with pytest.raises(EngineError, match="not loaded"):
        measure_profile(FakeEngine())

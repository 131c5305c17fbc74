"""The simulator's own parts: cameras, the engine, the measures, and single decisions of the policies."""

from __future__ import annotations

import math
from itertools import pairwise
from statistics import mean

import pytest
from hypothesis import given
from hypothesis import strategies as st

from foveate.tools.simulation import (
    Arrival,
    Camera,
    EarliestDeadline,
    Fifo,
    LazyDrop,
    NexusEarlyDrop,
    Outcome,
    SimulatedEngine,
    TimeoutQueue,
    arrivals,
    jain,
    simulate,
)

MS = 1_000_000
PUNCTUAL = Camera(10.0, jitter_ms=0, stalls_per_minute=0, key_frame_every=0)


def test_a_punctual_camera_sends_at_its_pace() -> None:
    sent = arrivals([PUNCTUAL], 3.0)
    gaps = {later.at_ns - earlier.at_ns for earlier, later in pairwise(sent)}
    assert len(sent) == 30
    assert max(gaps) - min(gaps) <= 1
    assert all(arrival.deadline_ns - arrival.at_ns == pytest.approx(100 * MS, abs=1) for arrival in sent)


def test_what_a_frame_loses_on_its_way_is_gone_from_its_budget() -> None:
    slow = Camera(10.0, jitter_ms=0, stalls_per_minute=0, key_frame_every=3, key_frame_ms=25)
    left_ms = [(arrival.deadline_ns - arrival.at_ns) / MS for arrival in arrivals([slow], 1.0)]
    assert left_ms == pytest.approx([75, 100, 100, 75, 100, 100, 75, 100, 100, 75][: len(left_ms)], abs=1e-3)


def test_a_stall_ends_in_a_burst() -> None:
    sent = arrivals([Camera(30.0, stalls_per_minute=20, stall_ms=500)], 60.0, seed=3)
    moments = [arrival.at_ns for arrival in sent]
    most_at_once = max(moments.count(moment) for moment in set(moments))
    longest_gap = max(later - earlier for earlier, later in pairwise(moments))
    assert most_at_once >= 8
    assert longest_gap >= 300 * MS


@given(st.integers(0, 1000), st.lists(st.floats(1.0, 60.0), min_size=1, max_size=5))
def test_frames_of_a_camera_keep_their_order_and_a_seed_its_frames(seed: int, rates: list[float]) -> None:
    cameras = [Camera(fps, stalls_per_minute=30) for fps in rates]
    sent = arrivals(cameras, 2.0, seed)
    for index in range(len(cameras)):
        deadlines = [arrival.deadline_ns for arrival in sent if arrival.stream == index]
        assert deadlines == sorted(deadlines)
    again = arrivals(cameras, 2.0, seed)
    assert [(a.at_ns, a.stream) for a in sent] == [(a.at_ns, a.stream) for a in again]


def test_the_engine_takes_its_profile_give_or_take() -> None:
    engine = SimulatedEngine.from_line(2.0, 0.5, max_batch=8, noise=0.05)
    took_ms = [engine.run_ns(4) / MS for _ in range(500)]
    assert mean(took_ms) == pytest.approx(4.0, rel=0.02)
    assert max(took_ms) > 4.2
    assert SimulatedEngine.from_line(2.0, 0.5, max_batch=8, noise=0.0).run_ns(8) == 6 * MS
    assert engine.capacity_fps(8) == pytest.approx(8 / 0.006)


@given(st.lists(st.floats(0.01, 1e6), min_size=1, max_size=20))
def test_jains_index_lies_between_one_of_all_and_all_alike(shares: list[float]) -> None:
    assert 1 / len(shares) - 1e-9 <= jain(shares) <= 1 + 1e-9
    assert jain([shares[0]] * 7) == pytest.approx(1.0)
    assert jain([1.0, *[0.0] * 9]) == pytest.approx(0.1)
    assert math.isclose(jain([2 * share for share in shares]), jain(shares))


@pytest.mark.parametrize(
    ("policy", "batch", "dropped"),
    [
        (Fifo, [900, 20, 61.5, 901], []),
        (TimeoutQueue, [900, 61.5, 901, 902], [20]),
        (LazyDrop, [61.5], [20]),
        (NexusEarlyDrop, [900, 901, 902], [20, 61.5]),
        (EarliestDeadline, [900, 901, 902], [20]),
    ],
)
def test_each_policy_takes_and_drops_by_its_own_rule(
    policy: type[Fifo], batch: list[float], dropped: list[float]
) -> None:
    """On an engine of 10 ms and 1 ms a frame, up to 4 frames, half a millisecond kept free."""
    engine = SimulatedEngine.from_line(10.0, 1.0, max_batch=4)
    made = policy(engine.profile, [Camera(budget_ms=1000)])
    for index, deadline_ms in enumerate([900, 20, 61.5, 901, 902]):
        made.arrive(Arrival(index, 0, int(deadline_ms * MS)), 0, 0)
    decision = made.plan(50 * MS, 50 * MS)
    assert [arrival.deadline_ns / MS for arrival in decision.batch] == batch
    assert [arrival.deadline_ns / MS for arrival in decision.dropped] == dropped


def test_a_run_that_ends_after_a_deadline_is_late_for_it() -> None:
    engine = SimulatedEngine.from_line(10.0, 0.0, max_batch=1, noise=0.0)
    sent = [Arrival(0, 0, 15 * MS), Arrival(1 * MS, 0, 15 * MS), Arrival(2 * MS, 0, 100 * MS)]
    outcome = simulate(Fifo(engine.profile, [PUNCTUAL]), engine, sent, Outcome([PUNCTUAL], 1.0))
    (stream,) = outcome.streams
    assert (stream.received, stream.on_time, stream.late, outcome.batches) == (3, 2, 1, 3)
    assert outcome.late_share == pytest.approx(1 / 3)
    assert outcome.goodput_fps == 2.0

"""Several lanes on one device: whose batch is next, and what that is worth."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from foveate.service.arbiter import Bid, next_lane
from foveate.service.scheduler import Scheduler, StreamShare, Waiting
from support.frames import MS, latency_model


def test_the_higher_class_goes_first_then_the_least_laxity_then_the_first_lane() -> None:
    assert next_lane({"a": Bid(1, 0), "b": Bid(0, 900)}) == "b"
    assert next_lane({"a": Bid(0, 900), "b": Bid(0, 899)}) == "b"
    assert next_lane({"b": Bid(0, 5), "a": Bid(0, 5)}) == "b"
    assert next_lane({"a": None, "b": Bid(7, 10**12)}) == "b"
    assert next_lane({"a": None}) is None
    assert next_lane({}) is None


frames = st.tuples(st.integers(0, 2), st.integers(30, 500), st.integers(0, 20))
"""Class, budget and decoding time in milliseconds."""


@given(st.lists(frames, max_size=20), st.integers(0, 40))
def test_a_lane_bids_for_the_frame_of_its_highest_class_that_has_the_least_time(
    waiting: list[tuple[int, int, int]], free_ms: int
) -> None:
    lane: Scheduler[int] = Scheduler(latency_model(lambda batch: 5 * MS), 8)
    kept = []
    for index, (priority, budget_ms, prepare_ms) in enumerate(waiting):
        share = StreamShare(priority)
        if not lane.arrive(Waiting(index, share, budget_ms * MS, prepare_ms * MS), 0, free_ms * MS):
            kept.append((priority, budget_ms - max(prepare_ms, free_ms)))
    bid = lane.bid(0, free_ms * MS)
    if not kept:
        assert bid is None
        return
    assert bid is not None
    top = min(priority for priority, _ in kept)
    assert bid.priority == top
    assert bid.laxity_ns == (min(left for priority, left in kept if priority == top) - 5.5) * MS
    assert bid.laxity_ns >= 0, "what can no longer make it does not wait"


def answered(choose: Callable[[dict[str, Scheduler[str]], int], str | None]) -> Counter[str]:
    """Frames that run in two seconds of a device shared by a quick model with tight budgets and a slow one."""
    lanes: dict[str, Scheduler[str]] = {
        "slow": Scheduler(latency_model(lambda batch: (10 + 5 * batch) * MS), 4),
        "quick": Scheduler(latency_model(lambda batch: (2 + batch) * MS), 8),
    }
    cameras = [("slow", 300, StreamShare(), 60 + index) for index in range(10)]
    cameras += [("quick", 45, StreamShare(), 33 + index) for index in range(6)]
    counts: Counter[str] = Counter()
    now_ms, free_ms = 0, 0
    while now_ms < 2000:
        for model, budget_ms, share, period_ms in cameras:
            if now_ms % period_ms == 0:
                lanes[model].arrive(Waiting(model, share, (now_ms + budget_ms) * MS), now_ms * MS, free_ms * MS)
        if now_ms >= free_ms and (chosen := choose(lanes, now_ms)) is not None:
            plan = lanes[chosen].plan(now_ms * MS, now_ms * MS)
            counts.update(plan.batch)
            free_ms = -(-plan.ends_ns // MS)
        now_ms += 1
        free_ms = max(now_ms, free_ms)
    return counts


def test_least_laxity_serves_the_tight_model_without_starving_the_other() -> None:
    def by_laxity(lanes: dict[str, Scheduler[str]], now_ms: int) -> str | None:
        return next_lane({name: lane.bid(now_ms * MS, now_ms * MS) for name, lane in lanes.items()})

    def first_that_waits(lanes: dict[str, Scheduler[str]], _now_ms: int) -> str | None:
        return next((name for name, lane in lanes.items() if len(lane)), None)

    shared, in_order = answered(by_laxity), answered(first_that_waits)
    sent_quick = sum(-(-2000 // (33 + index)) for index in range(6))
    sent_slow = sum(-(-2000 // (60 + index)) for index in range(10))
    assert shared["quick"] >= 0.9 * sent_quick
    assert shared["slow"] >= 0.6 * sent_slow
    assert in_order["quick"] < 0.5 * sent_quick, "the order of the lanes alone would starve it"


def test_bids_are_in_a_lanes_own_time() -> None:
    lane: Scheduler[str] = Scheduler(latency_model(lambda batch: 5 * MS), 8)
    assert lane.bid(0, 0) is None
    lane.arrive(Waiting("a", StreamShare(), 100 * MS), 0, 0)
    assert lane.bid(0, 0) == Bid(0, int(94.5 * MS))
    assert lane.bid(10 * MS, 30 * MS) == Bid(0, int(64.5 * MS))
    assert pytest.approx(lane.bid(94 * MS, 0)) == (0, int(0.5 * MS))

"""Several lanes on one device: whose batch is next, and what that is worth."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import pytest
from hypothesis import given
from hypothesis import strategies as st

from foveate.service.arbiter import Arbiter, Beside, Bid, next_lane
from foveate.service.scheduler import Scheduler, StreamShare, Waiting
from foveate.service.turns import Turns
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


@dataclass(eq=False)
class Told:
    """A lane that bids what it is told to."""

    asks: Bid | None = None
    woken: int = 0
    means: Beside = field(default_factory=Beside)

    def bid(self, now_ns: int, free_ns: int) -> Bid | None:
        return self.asks and Bid(self.asks.priority, self.asks.laxity_ns - free_ns)

    def beside(self, now_ns: int) -> Beside:
        return self.means

    def wake(self) -> None:
        self.woken += 1


def arbiter_of(*lanes: Told) -> Arbiter:
    made = Arbiter()
    for lane in lanes:
        made.join(lane)
    return made


def test_a_lane_alone_always_plans() -> None:
    lane = Told()
    alone = arbiter_of(lane)
    assert alone.is_first(lane, 0, 0)
    alone.has_planned(lane, 10, 1)
    assert lane.woken == 0, "it knows"


def test_a_lane_that_is_not_first_wakes_the_one_that_is() -> None:
    urgent, other = Told(Bid(0, 10)), Told(Bid(0, 20))
    arbiter = arbiter_of(other, urgent)
    assert not arbiter.is_first(other, 0, 0)
    assert (urgent.woken, other.woken) == (1, 0)
    assert arbiter.is_first(urgent, 0, 0)
    arbiter.has_planned(urgent, 10, 1)
    assert (urgent.woken, other.woken) == (1, 1)
    urgent.asks = None
    assert arbiter.is_first(other, 0, 0), "whoever cannot plan holds up nobody"
    other.asks = None
    assert arbiter.is_first(other, 0, 0)


def test_laxity_decides_until_a_lane_is_behind_by_more_than_three_services() -> None:
    tight, loose = Told(Bid(0, 10)), Told(Bid(0, 500))
    arbiter = arbiter_of(tight, loose)
    order = []
    for _ in range(12):
        first = tight if arbiter.is_first(tight, 0, 0) else loose
        arbiter.has_planned(first, 20, 4)
        order.append("tight" if first is tight else "loose")
    assert order == ["tight"] * 4 + ["loose", "tight"] * 4


def test_lanes_share_by_the_weight_of_their_streams() -> None:
    many, one = Told(Bid(0, 500)), Told(Bid(0, 10))
    arbiter = arbiter_of(one, many)
    had = Counter[str]()
    for _ in range(100):
        first, weight, name = (one, 1.0, "one") if arbiter.is_first(one, 0, 0) else (many, 9.0, "many")
        arbiter.has_planned(first, 20, weight)
        had[name] += 1
    assert 80 <= had["many"] <= 90


@pytest.mark.parametrize("meanwhile", [None, Bid(1, 0)])
def test_what_a_lane_did_not_compete_for_is_not_made_up_for(meanwhile: Bid | None) -> None:
    busy, back = Told(Bid(0, 10)), Told(meanwhile)
    arbiter = arbiter_of(busy, back)
    for _ in range(50):
        assert arbiter.is_first(busy, 0, 0)
        arbiter.has_planned(busy, 20, 1)
    back.asks = Bid(0, 500)
    assert arbiter.is_first(busy, 0, 0)


@given(st.lists(st.one_of(st.none(), st.builds(Bid, st.integers(0, 2), st.integers(0, 5))), min_size=1, max_size=5))
def test_of_the_lanes_that_ask_exactly_one_is_first(bids: list[Bid | None]) -> None:
    lanes = [Told(bid) for bid in bids]
    arbiter = arbiter_of(*lanes)
    first = [lane for lane in lanes if lane.asks and arbiter.is_first(lane, 0, 0)]
    assert len(first) == bool(any(bids))


def test_of_the_other_lanes_the_longest_run_and_the_least_patience_count() -> None:
    quick, slow, idle = Told(means=Beside(10, 30)), Told(means=Beside(50, 200)), Told()
    arbiter = arbiter_of(quick, slow, idle)
    assert arbiter.beside(idle, 0) == Beside(50, 30)
    assert arbiter.beside(quick, 0) == Beside(50, 200)
    assert arbiter.beside(slow, 0) == Beside(10, 30)
    assert arbiter_of(quick).beside(quick, 0) == Beside(0, None)


def lane_of(budget_ms: int, fps: float) -> Simulated:
    """A lane of which a batch of b takes 5 + 5 b ms."""
    latency = latency_model(lambda batch: (5 + 5 * batch) * MS)
    return Simulated(Scheduler(latency, 8), budget_ms, fps)


def test_batches_leave_time_for_the_tight_budgets_of_another_lane() -> None:
    """A frame of the tight lane that has just missed a batch of the loose one waits for all of it."""
    tight, loose = lane_of(40, fps=30.0), lane_of(2000, fps=400.0)
    share_a_device(tight, loose)
    assert loose.scheduler.batch_cap == 4, "the tight lane can wait for 29.5 ms, in which a batch of 4 runs"
    assert (tight.late, loose.late) == (0, 0)
    assert tight.on_time >= 0.97 * 8 * 30, "it asks for less than its half"
    alone = lane_of(2000, fps=400.0)
    share_a_device(alone)
    assert alone.scheduler.batch_cap == 8


def test_a_lane_to_which_nothing_is_sent_any_more_holds_nobody_back() -> None:
    tight, loose = lane_of(40, fps=60.0), lane_of(2000, fps=400.0)
    tight.scheduler.arrive(Waiting(0, tight.streams[0], 40 * MS), 0, 0)
    assert tight.scheduler.beside(5000 * MS) == Beside(15 * MS, 29_500_000)
    assert tight.scheduler.beside(5001 * MS) == Beside(0, None)
    loose.scheduler.share(tight.scheduler.beside(5001 * MS))
    assert loose.scheduler.batch_cap == 8


def test_a_lane_counts_on_waiting_for_the_longest_run_of_another() -> None:
    lane = lane_of(100, fps=60.0).scheduler
    lane.arrive(Waiting(0, StreamShare(), 100 * MS), 0, 0)
    assert lane.batch_cap == 8, "twice 45 ms leave time"
    lane.share(Beside(longest_run_ns=70 * MS))
    assert lane.batch_cap == 4, "70 ms and 25 ms do, 70 ms and 30 ms do not"
    lane.share(Beside(longest_run_ns=1000 * MS))
    assert lane.batch_cap == 1


@dataclass(eq=False)
class Simulated:
    """A lane of a simulated device: one batch may be planned behind the one that runs."""

    scheduler: Scheduler[int]
    budget_ms: int
    fps: float
    priority: int = 0
    streams: list[StreamShare] = field(default_factory=list)
    on_time: int = 0
    late: int = 0
    ran_ms: float = 0.0

    def __post_init__(self) -> None:
        self.streams = [StreamShare(self.priority) for _ in range(12)]

    def bid(self, now_ns: int, free_ns: int) -> Bid | None:
        return self.scheduler.bid(now_ns, free_ns)

    def beside(self, now_ns: int) -> Beside:
        return self.scheduler.beside(now_ns)

    def wake(self) -> None:
        """It looks at every moment anyway."""

    def arrivals(self, now_ms: int) -> Iterator[Waiting[int]]:
        """What the cameras send at this moment, each with its deadline as the frame."""
        period_ms = 1000 * len(self.streams) / self.fps
        for index, share in enumerate(self.streams):
            phase = (now_ms + index * period_ms / len(self.streams)) % period_ms
            if phase < 1:
                deadline_ns = (now_ms + self.budget_ms) * MS
                yield Waiting(deadline_ns, share, deadline_ns)


def share_a_device(*lanes: Simulated, seconds: int = 8) -> None:
    """Run lanes on a device of which the runs take as long as predicted."""
    lock = threading.Lock()
    lock.acquire()
    turns, arbiter = Turns(lock), Arbiter()
    planned: dict[int, tuple[Simulated, tuple[int, ...], int]] = {}
    runs: tuple[Simulated, tuple[int, ...], int] | None = None
    for lane in lanes:
        arbiter.join(lane)
    for now_ms in range(seconds * 1000):
        now_ns = now_ms * MS
        if runs and now_ns >= runs[2]:
            lane, frames, _ = runs
            on_time = sum(deadline_ns >= now_ns for deadline_ns in frames)
            lane.on_time, lane.late, runs = lane.on_time + on_time, lane.late + len(frames) - on_time, None
            turns.end()
        for lane in lanes:
            for waiting in lane.arrivals(now_ms):
                lane.scheduler.arrive(waiting, now_ns, turns.free_ns(now_ns))
        for lane in lanes:
            if len(lane.scheduler) and arbiter.is_first(lane, now_ns, turns.free_ns(now_ns)):
                weight = lane.scheduler.weight(now_ns)
                lane.scheduler.share(arbiter.beside(lane, now_ns))
                plan = lane.scheduler.plan(now_ns, turns.free_ns(now_ns))
                if plan.batch:
                    turn = turns.take(plan.ends_ns - plan.starts_ns, plan.ends_ns, lane, 1)
                    turns.ready(turn)
                    planned[turn] = (lane, plan.batch, plan.ends_ns - plan.starts_ns)
                    arbiter.has_planned(lane, plan.ends_ns - plan.starts_ns, weight)
        for turn in [turn for turn in planned if turns.is_up(turn)]:
            lane, frames, took_ns = planned.pop(turn)
            turns.begin(turn, took_ns, now_ns)
            lane.ran_ms += took_ns / MS
            runs = (lane, frames, now_ns + took_ns)


def overloaded(budget_ms: int, priority: int = 0) -> Simulated:
    """A lane that is sent half as much again as the device could do for it alone."""
    latency = latency_model(lambda batch: (4 + 2 * batch) * MS)
    return Simulated(Scheduler(latency, 8), budget_ms, 1.5 * 8 / 0.020, priority)


def test_two_overloaded_lanes_are_never_late_and_share_alike() -> None:
    tight, loose = overloaded(70), overloaded(300)
    share_a_device(loose, tight)
    assert (tight.late, loose.late) == (0, 0)
    assert tight.ran_ms + loose.ran_ms >= 0.95 * 8000, "sharing leaves no time unused"
    assert tight.ran_ms >= 0.48 * 8000, "who has less time is not worse off"
    assert loose.ran_ms >= 0.45 * 8000, "although its frames are replaced by ones with more time, again and again"
    assert min(tight.on_time, loose.on_time) >= 0.45 * 8 * 8000 / 20


def test_an_overloaded_higher_class_has_the_device_to_itself() -> None:
    high, low = overloaded(300, 0), overloaded(70, 1)
    share_a_device(low, high)
    assert (high.late, low.late) == (0, 0)
    assert high.ran_ms >= 0.9 * 8000


def test_a_lane_alone_does_as_well_as_without_an_arbiter() -> None:
    alone = overloaded(70)
    share_a_device(alone)
    assert alone.late == 0
    assert alone.ran_ms >= 0.95 * 8000

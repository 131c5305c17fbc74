"""The scheduler over random traces: whatever comes, the promises hold, and a replay decides the same."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from foveate.service.frame import Verdict
from foveate.service.prediction import LatencyModel
from foveate.service.scheduler import Plan, Refusal, Scheduler, StreamShare, Waiting
from support.frames import MS, latency_model

_US = 1_000


@dataclass(frozen=True)
class Arrival:
    stream: int
    at_ns: int
    deadline_ns: int
    prepare_ns: int
    withdraw: bool = False
    """Not a frame: the stream's client is gone."""


@dataclass(frozen=True)
class Trace:
    """What happens to a scheduler: all that a replay needs."""

    profile_ns: tuple[int, int]
    """Latency of a batch: the first, and so much more for each frame."""
    max_batch: int
    decoders: int
    shares: tuple[tuple[int, float, int | None, float], ...]
    """Of each stream: priority, weight, queue depth, guaranteed frames per second."""
    arrivals: tuple[Arrival, ...]
    slowness: tuple[float, ...]
    """Of each run in turn, over its prediction."""

    def scheduler(self) -> tuple[Scheduler[int], LatencyModel, list[StreamShare]]:
        base_ns, slope_ns = self.profile_ns
        latency = latency_model(lambda batch: base_ns + slope_ns * batch)
        shares = [
            StreamShare(priority, weight, depth, guaranteed_fps=fps) for priority, weight, depth, fps in self.shares
        ]
        return Scheduler(latency, self.max_batch, self.decoders), latency, shares


@st.composite
def traces(draw: st.DrawFn) -> Trace:
    depths = st.none() | st.integers(1, 4)
    guaranteed = st.sampled_from([0.0, 0.0, 20.0, 200.0])
    share = st.tuples(st.integers(0, 2), st.sampled_from([0.5, 1.0, 3.0]), depths, guaranteed)
    shares = tuple(draw(st.lists(share, min_size=1, max_size=6)))
    prepare_us = draw(st.sampled_from([0, 2_000]))
    event = st.tuples(
        st.integers(0, len(shares) - 1),
        st.integers(0, 12_000),
        st.integers(-5, 120),
        st.integers(0, prepare_us),
        st.integers(0, 30),
    )
    arrivals: list[Arrival] = []
    now_ns = 0
    for stream, gap_us, budget_ms, decode_us, withdraw in draw(st.lists(event, min_size=1, max_size=60)):
        now_ns += gap_us * _US
        arrivals.append(Arrival(stream, now_ns, now_ns + budget_ms * MS, decode_us * _US, withdraw == 0))
    return Trace(
        profile_ns=(draw(st.integers(100, 15_000)) * _US, draw(st.integers(10, 5_000)) * _US),
        max_batch=draw(st.integers(1, 12)),
        decoders=draw(st.integers(1, 4)),
        shares=shares,
        arrivals=tuple(arrivals),
        slowness=tuple(draw(st.lists(st.floats(0.7, 1.6), min_size=1, max_size=8))),
    )


@dataclass
class Replay:
    """A trace played to a scheduler, with what it promises checked at each step by other means than its own."""

    trace: Trace
    now_ns: int = 0
    free_ns: int = 0
    runs: int = 0
    log: list[tuple[int, str, tuple[int, ...]]] = field(default_factory=list)
    outcomes: dict[int, str] = field(default_factory=dict)
    waiting: list[list[int]] = field(default_factory=list)
    """Of each stream: its frames that wait, in the order in which they came."""

    def __post_init__(self) -> None:
        self.scheduler, self.latency, self.shares = self.trace.scheduler()
        self.virtual_ns = [share.virtual_ns for share in self.shares]
        self.waiting = [[] for _ in self.shares]

    def play(self) -> Replay:
        for index, arrival in enumerate(self.trace.arrivals):
            self._plan_until(arrival.at_ns)
            self.now_ns = arrival.at_ns
            if arrival.withdraw:
                self._withdraw(arrival.stream)
            else:
                self._arrive(index, arrival)
        self._plan_until(1 << 62)
        return self

    def settle(self, index: int, outcome: str) -> None:
        assert index not in self.outcomes, f"frame {index} was answered twice"
        self.outcomes[index] = outcome
        self.waiting[self.trace.arrivals[index].stream].remove(index)

    def is_late(self, index: int) -> bool:
        arrival = self.trace.arrivals[index]
        starts_ns = max(self.now_ns + arrival.prepare_ns, self.free_ns)
        return starts_ns + self.latency.latency_ns(1) + self.latency.margin_ns > arrival.deadline_ns

    def _arrive(self, index: int, arrival: Arrival) -> None:
        share, queue = self.shares[arrival.stream], self.waiting[arrival.stream]
        queue.append(index)
        waiting = Waiting(index, share, arrival.deadline_ns, arrival.prepare_ns)
        refused = self.scheduler.arrive(waiting, self.now_ns, max(self.now_ns, self.free_ns))
        assert len(refused) <= 1
        for refusal in refused:
            self._check_refused_on_arrival(refusal, index, share, queue)
            self.settle(refusal.frame, refusal.verdict.value)
        if not refused:
            assert not self.is_late(index)
        assert len(queue) <= (share.queue_depth or 1)
        self.log.append((self.now_ns, "arrive", tuple(refusal.frame for refusal in refused)))

    def _check_refused_on_arrival(
        self, refusal: Refusal[int], index: int, share: StreamShare, queue: Sequence[int]
    ) -> None:
        assert refusal.message
        if refusal.verdict is Verdict.INFEASIBLE:
            assert refusal.frame == index
            assert self.is_late(index)
        elif refusal.verdict is Verdict.SUPERSEDED:
            assert share.queue_depth is None
            assert [refusal.frame, index] == queue, "the newest is kept, the one before it leaves"
        else:
            assert refusal.verdict is Verdict.REJECTED
            assert refusal.frame == index
            assert share.queue_depth is not None
            assert len(queue) == share.queue_depth + 1

    def _charged_since(self) -> float:
        """Engine time that the streams have been charged in this plan."""
        before = zip(self.shares, self.virtual_ns, strict=True)
        return sum((share.virtual_ns - virtual_ns) * share.weight for share, virtual_ns in before)

    def _withdraw(self, stream: int) -> None:
        withdrawn = self.scheduler.withdraw(self.shares[stream])
        assert withdrawn == self.waiting[stream]
        for index in withdrawn:
            self.settle(index, "withdrawn")

    def _plan_until(self, until_ns: int) -> None:
        """Plan now, and whenever the scheduler asks for it, up to a moment."""
        due = False
        while True:
            plan = self._plan()
            assert plan.batch or not due, "asked to be woken for nothing"
            if not plan.batch:
                assert (plan.wake_at_ns is None) == (not any(self.waiting))
                if plan.wake_at_ns is None or plan.wake_at_ns >= until_ns:
                    return
                assert plan.wake_at_ns > self.now_ns
                self.now_ns, due = plan.wake_at_ns, True
            else:
                due = False

    def _plan(self) -> Plan[int]:
        self.virtual_ns = [share.virtual_ns for share in self.shares]
        cap, free_ns = self.scheduler.batch_cap, max(self.now_ns, self.free_ns)
        plan = self.scheduler.plan(self.now_ns, free_ns)
        for refusal in plan.refused:
            assert refusal.verdict is Verdict.EXPIRED
            assert self.is_late(refusal.frame)
            self.settle(refusal.frame, refusal.verdict.value)
        if plan.batch:
            self._start(plan, cap, free_ns)
        self.log.append((self.now_ns, "plan", plan.batch))
        return plan

    def _start(self, plan: Plan[int], cap: int, free_ns: int) -> None:
        size = len(plan.batch)
        frames = [self.trace.arrivals[index] for index in plan.batch]
        assert size <= cap <= self.trace.max_batch
        costs = [frame.prepare_ns for frame in frames]
        prepared_ns = self.now_ns + max(max(costs), sum(costs) // self.trace.decoders)
        assert plan.starts_ns == max(prepared_ns, free_ns)
        assert plan.ends_ns == plan.starts_ns + self.latency.latency_ns(size)
        assert all(plan.ends_ns + self.latency.margin_ns <= frame.deadline_ns for frame in frames)
        assert self._charged_since() == pytest.approx(self.latency.latency_ns(size)), "all of the run, and no more"
        for stream in {frame.stream for frame in frames}:
            mine = [index for index in plan.batch if self.trace.arrivals[index].stream == stream]
            assert mine == self.waiting[stream][: len(mine)], "frames of a stream start in capture order"
        for index in plan.batch:
            self.settle(index, "started")
        took_ns = int((plan.ends_ns - plan.starts_ns) * self.trace.slowness[self.runs % len(self.trace.slowness)])
        self.runs += 1
        self.free_ns = plan.starts_ns + took_ns
        self.latency.observe_run(size, took_ns, self.free_ns)


@settings(max_examples=150, deadline=None)
@given(traces())
def test_every_promise_holds_on_any_trace(trace: Trace) -> None:
    replay = Replay(trace).play()
    frames = {index for index, arrival in enumerate(trace.arrivals) if not arrival.withdraw}
    assert set(replay.outcomes) == frames
    assert len(replay.scheduler) == 0


@settings(max_examples=40, deadline=None)
@given(traces())
def test_a_replayed_trace_is_decided_the_same(trace: Trace) -> None:
    assert Replay(trace).play().log == Replay(trace).play().log


@settings(max_examples=40, deadline=None)
@given(traces(), st.sampled_from([-3_600, 3_600]))
def test_only_durations_count(trace: Trace, skew_s: int) -> None:
    """On a clock that is an hour off, everything is decided the same, an hour off."""
    skew_ns = skew_s * 1_000 * MS
    skewed = replace(
        trace,
        arrivals=tuple(
            replace(arrival, at_ns=arrival.at_ns + skew_ns, deadline_ns=arrival.deadline_ns + skew_ns)
            for arrival in trace.arrivals
        ),
    )
    log = Replay(trace).play().log
    moved = Replay(skewed, now_ns=skew_ns, free_ns=skew_ns).play().log
    assert [(at_ns - skew_ns, what, frames) for at_ns, what, frames in moved] == log


@settings(max_examples=100, deadline=None)
@given(traces())
def test_what_waits_is_taken_out_once_it_expires(trace: Trace) -> None:
    """As a lane does it whose engine is stuck: it sleeps until `next_expiry_ns`, and takes out what is late."""
    replay = Replay(trace)
    for index, arrival in enumerate(trace.arrivals):
        if not arrival.withdraw:
            replay.now_ns = arrival.at_ns
            replay._arrive(index, arrival)
    for _ in trace.arrivals:
        expires_ns = replay.scheduler.next_expiry_ns()
        if expires_ns is None:
            break
        replay.now_ns = max(replay.now_ns, expires_ns + 1)
        expired = replay.scheduler.expire(replay.now_ns, replay.now_ns)
        assert expired, "woken for a frame that does not expire"
        for refusal in expired:
            assert refusal.verdict is Verdict.EXPIRED
            assert replay.is_late(refusal.frame)
            replay.settle(refusal.frame, "expired")
    assert len(replay.scheduler) == 0
    assert not any(replay.waiting)


@given(
    st.lists(st.tuples(st.integers(0, 3), st.integers(20, 500)), min_size=1, max_size=20),
    st.integers(1, 8),
)
def test_a_batch_holds_the_first_by_class_then_deadline(frames: list[tuple[int, int]], max_batch: int) -> None:
    """Streams that are equal otherwise, all with time enough for any batch."""
    scheduler: Scheduler[tuple[int, int, int]] = Scheduler(latency_model(lambda batch: MS), max_batch)
    keys = [(priority, budget_ms * MS, index) for index, (priority, budget_ms) in enumerate(frames)]
    for key in keys:
        scheduler.arrive(Waiting(key, StreamShare(key[0]), key[1]), 0, 0)
    taken: list[tuple[int, int, int]] = []
    while batch := scheduler.plan(0, 0).batch:
        assert len(batch) == min(max_batch, len(keys) - len(taken))
        taken += batch
    by_rank = [(priority, deadline_ns) for priority, deadline_ns, _ in sorted(keys)]
    assert [(priority, deadline_ns) for priority, deadline_ns, _ in taken] == by_rank

"""Single decisions of the scheduler, each on a small case with its numbers in the test."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from foveate.service.frame import Verdict
from foveate.service.scheduler import Scheduler, StreamShare, Waiting
from support.frames import MS, latency_model

MARGIN_MS = 0.5
"""Of a fresh latency model."""


def scheduler(per_batch_ms: float = 10.0, per_frame_ms: float = 0.0, max_batch: int = 8) -> Scheduler[str]:
    """A scheduler that has seen many loose budgets, so that a few tight ones do not lower its batch cap."""
    engine: Scheduler[str] = Scheduler(
        latency_model(lambda batch: (per_batch_ms + per_frame_ms * batch) * MS), max_batch
    )
    for _ in range(128):
        loose = waiting("loose")
        engine.arrive(loose, 0, 0)
        engine.withdraw(loose.share)
    return engine


def waiting(
    frame: str, share: StreamShare | None = None, budget_ms: float = 1000.0, prepare_ms: float = 0.0
) -> Waiting[str]:
    return Waiting(frame, share or StreamShare(), int(budget_ms * MS), int(prepare_ms * MS))


def test_a_frame_that_just_makes_it_is_taken_and_one_that_does_not_is_refused_on_arrival() -> None:
    engine = scheduler()
    assert engine.arrive(waiting("fits", budget_ms=10 + MARGIN_MS), 0, 0) == []
    (refusal,) = engine.arrive(waiting("late", budget_ms=10 + MARGIN_MS - 0.001), 0, 0)
    assert (refusal.frame, refusal.verdict) == ("late", Verdict.INFEASIBLE)
    assert "too late on arrival" in refusal.message
    assert "a run 10.0 ms" in refusal.message


def test_the_running_batch_and_the_decoding_count_towards_lateness() -> None:
    engine = scheduler()
    assert engine.arrive(waiting("behind a run", budget_ms=24), 0, 14 * MS)[0].verdict is Verdict.INFEASIBLE
    assert engine.arrive(waiting("slow to decode", budget_ms=24, prepare_ms=14), 0, 0)[0].verdict is Verdict.INFEASIBLE
    assert engine.arrive(waiting("both at once", budget_ms=24.5, prepare_ms=14), 0, 14 * MS) == []


def test_a_frame_that_comes_to_be_late_while_it_waits_expires() -> None:
    engine = scheduler()
    engine.arrive(waiting("slow", budget_ms=30), 0, 15 * MS)
    plan = engine.plan(15 * MS, 25 * MS)
    assert plan.batch == ()
    assert [(refusal.frame, refusal.verdict) for refusal in plan.refused] == [("slow", Verdict.EXPIRED)]
    assert plan.wake_at_ns is None


def test_latest_keeps_only_the_newest_frame() -> None:
    engine, camera = scheduler(), StreamShare()
    assert engine.arrive(waiting("old", camera), 0, 0) == []
    (refusal,) = engine.arrive(waiting("new", camera), 1, 1)
    assert (refusal.frame, refusal.verdict) == ("old", Verdict.SUPERSEDED)
    assert engine.plan(2, 2).batch == ("new",)


def test_latest_keeps_the_frame_it_has_where_the_new_one_cannot_make_it() -> None:
    engine, camera = scheduler(), StreamShare()
    engine.arrive(waiting("good", camera), 0, 0)
    (refusal,) = engine.arrive(waiting("hopeless", camera, budget_ms=1), 0, 0)
    assert (refusal.frame, refusal.verdict) == ("hopeless", Verdict.INFEASIBLE)
    assert engine.plan(0, 0).batch == ("good",)


def test_a_queue_takes_its_depth_and_refuses_the_next() -> None:
    engine, camera = scheduler(max_batch=2), StreamShare(queue_depth=3)
    for frame in "abc":
        assert engine.arrive(waiting(frame, camera), 0, 0) == []
    (refusal,) = engine.arrive(waiting("d", camera), 0, 0)
    assert (refusal.frame, refusal.verdict) == ("d", Verdict.REJECTED)
    assert "its queue holds 3" in refusal.message
    assert engine.plan(0, 0).batch == ("a", "b")
    assert engine.arrive(waiting("e", camera), 0, 0) == []


def test_a_newer_frame_does_not_overtake_one_of_its_stream_that_does_not_fit_the_batch() -> None:
    engine, camera = scheduler(per_batch_ms=4, per_frame_ms=10), StreamShare(queue_depth=4)
    others = [StreamShare() for _ in range(2)]
    engine.arrive(waiting("tight", camera, budget_ms=20), 0, 0)
    engine.arrive(waiting("its next", camera, budget_ms=900), 0, 0)
    for index, share in enumerate(others):
        share.virtual_ns = -1.0
        engine.arrive(waiting(f"other {index}", share, budget_ms=950), 0, 0)
    plan = engine.plan(0, 0)
    assert "its next" not in plan.batch
    assert set(plan.batch) == {"other 0", "other 1"}, "the frame held up gives its place to the next by rank"


def test_the_batch_is_the_largest_that_its_own_frames_have_the_time_for() -> None:
    engine = scheduler(per_batch_ms=20, per_frame_ms=10)
    for index, budget_ms in enumerate((65, 65, 65, 65, 400, 400)):
        engine.arrive(waiting(f"{index}", budget_ms=budget_ms), 0, 0)
    assert engine.plan(0, 0).batch == ("0", "1", "2", "3"), "four take 60 ms, which all of them have; five take 70"


def test_a_leader_that_lags_far_behind_is_not_left_out_for_a_larger_batch() -> None:
    def plan(lag_ms: float) -> tuple[str, ...]:
        engine = scheduler(per_batch_ms=20, per_frame_ms=10)
        for index in range(4):
            engine.arrive(waiting(f"{index}", StreamShare(virtual_ns=lag_ms * MS), budget_ms=400), 0, 0)
        engine.arrive(waiting("behind", StreamShare(), budget_ms=45), 0, 0)
        return engine.plan(0, 0).batch

    assert plan(lag_ms=80) == ("0", "1", "2", "3")
    assert plan(lag_ms=100)[0] == "behind", "more than three services of 30 ms"


def test_planning_waits_until_the_batch_must_be_prepared() -> None:
    engine = scheduler()
    engine.arrive(waiting("a", prepare_ms=4), 0, 50 * MS)
    engine.arrive(waiting("b", prepare_ms=6), 0, 50 * MS)
    plan = engine.plan(0, 50 * MS)
    assert plan.batch == ()
    assert plan.wake_at_ns == pytest.approx((50 - 10 - 0.5) * MS), "one decoder takes 4 + 6 ms; planning 0.5 ms"
    assert engine.plan(int((50 - 10 - 0.5) * MS), 50 * MS).batch == ("a", "b")


def test_decoders_side_by_side_shorten_the_preparation() -> None:
    engine: Scheduler[str] = Scheduler(latency_model(lambda batch: 10 * MS), 8, decoders=2)
    for frame in "abc":
        engine.arrive(waiting(frame, prepare_ms=4), 0, 0)
    plan = engine.plan(0, 0)
    assert plan.starts_ns == 6 * MS, "12 ms of decoding over two decoders"


def test_nothing_waits_nothing_is_planned() -> None:
    plan = scheduler().plan(0, 0)
    assert (plan.batch, plan.refused, plan.wake_at_ns) == ((), (), None)


def test_withdrawn_frames_are_gone() -> None:
    engine, camera = scheduler(), StreamShare(queue_depth=4)
    for frame in "ab":
        engine.arrive(waiting(frame, camera), 0, 0)
    engine.arrive(waiting("other"), 0, 0)
    assert engine.withdraw(camera) == ["a", "b"]
    assert engine.withdraw(camera) == []
    assert engine.plan(0, 0).batch == ("other",)


@given(
    base_us=st.integers(100, 50_000),
    slope_us=st.integers(1, 10_000),
    max_batch=st.integers(1, 32),
    budgets_ms=st.lists(st.integers(1, 2_000), min_size=1, max_size=200),
)
def test_batch_cap_follows_its_formula(base_us: int, slope_us: int, max_batch: int, budgets_ms: list[int]) -> None:
    latency = latency_model(lambda batch: (base_us + slope_us * batch) * 1_000)
    engine: Scheduler[int] = Scheduler(latency, max_batch)
    for budget_ms in budgets_ms:
        engine.arrive(Waiting(0, StreamShare(), budget_ms * MS), 0, 0)
    fill = math.ceil(9 * latency.profile.beta_ns / latency.profile.alpha_ns)
    possible = [ms * MS for ms in budgets_ms if 2 * latency.latency_ns(1) + latency.margin_ns <= ms * MS]
    tight = sorted(possible)[int(0.1 * (len(possible) - 1))] if possible else math.inf
    fitting = [b for b in range(1, 33) if 2 * latency.latency_ns(b) + latency.margin_ns <= tight]
    assert engine.batch_cap == max(1, min(max_batch, fill, max(fitting, default=1)))


def test_frames_that_no_engine_could_keep_do_not_shrink_the_batches_of_others() -> None:
    engine = scheduler(per_batch_ms=10, per_frame_ms=1)
    for _ in range(1000):
        engine.arrive(waiting("hopeless", budget_ms=5), 0, 0)
        engine.arrive(waiting("chancy", budget_ms=22), 0, 0)
        engine.arrive(waiting("easy", budget_ms=1000), 0, 0)
    assert engine.batch_cap == 8, "22 ms are less than two runs: no batch size could make sure of it"


def test_a_stream_that_floods_with_tight_frames_has_one_say_in_the_batch_size() -> None:
    engine: Scheduler[str] = Scheduler(latency_model(lambda batch: (10 + batch) * MS), 8)
    flood = StreamShare()
    for _ in range(20):
        engine.arrive(waiting("easy"), 0, 0)
    for _ in range(1000):
        engine.arrive(waiting("tight", flood, budget_ms=23), 0, 0)
    assert engine.batch_cap == 8
    for _ in range(3):
        engine.arrive(waiting("tight too", budget_ms=23), 0, 0)
    assert engine.batch_cap == 1, "four streams of 24 are more than a tenth"


def test_a_budget_is_forgotten_when_its_stream_has_stopped_sending() -> None:
    engine: Scheduler[str] = Scheduler(latency_model(lambda batch: (10 + batch) * MS), 8)
    tight, loose = StreamShare(), StreamShare()
    engine.arrive(waiting("tight", tight, budget_ms=23), 0, 0)
    assert engine.batch_cap == 1
    engine.arrive(waiting("easy", loose, budget_ms=6000), 5000 * MS, 5000 * MS)
    assert engine.batch_cap == 1
    engine.arrive(waiting("easy", loose, budget_ms=6000), 5001 * MS, 5001 * MS)
    assert engine.batch_cap == 8


def test_a_guaranteed_stream_goes_before_best_effort_and_its_excess_does_not() -> None:
    engine = scheduler(max_batch=2)
    assured = StreamShare(guaranteed_fps=10.0, virtual_ns=1e12)
    for step in range(20):  # twice the declared rate; every second frame is in excess once the burst is used up
        now_ns = step * 50 * MS
        engine.arrive(waiting(f"assured {step}", assured), now_ns, now_ns)
        for index in range(3):
            engine.arrive(waiting(f"best effort {step} {index}"), now_ns, now_ns)
        batch = engine.plan(now_ns, now_ns).batch
        for share in list(engine._room._columns):
            engine.withdraw(share)
        served = f"assured {step}" in batch
        assert served == (step < 5 or step % 2 == 0), step


def test_a_guarantee_counts_within_its_class_only() -> None:
    engine = scheduler(max_batch=1)
    engine.arrive(waiting("lower class", StreamShare(priority=1, guaranteed_fps=10.0)), 0, 0)
    engine.arrive(waiting("higher class", StreamShare(priority=0)), 0, 0)
    assert engine.plan(0, 0).batch == ("higher class",)


@pytest.mark.parametrize(
    ("leader", "others"),
    [(StreamShare(priority=0), StreamShare(priority=1)), (StreamShare(guaranteed_fps=5.0), StreamShare())],
)
def test_a_frame_never_waits_for_a_larger_batch_of_lesser_ones(leader: StreamShare, others: StreamShare) -> None:
    """However little its stream lags: a batch for which the first has no time is made of its equals only."""
    engine = scheduler(per_batch_ms=20, per_frame_ms=10)
    for index in range(4):
        engine.arrive(waiting(f"{index}", StreamShare(others.priority), budget_ms=400), 0, 0)
    engine.arrive(waiting("first", leader, budget_ms=45), 0, 0)
    assert engine.plan(0, 0).batch == ("first", "0")


def test_one_stream_of_little_weight_that_is_far_ahead_does_not_make_the_others_lag() -> None:
    engine = scheduler(per_batch_ms=20, per_frame_ms=10)
    engine.arrive(waiting("light", StreamShare(weight=0.01, virtual_ns=3000.0 * MS), budget_ms=400), 0, 0)
    for index in range(3):
        engine.arrive(waiting(f"{index}", StreamShare(virtual_ns=1.0 * MS), budget_ms=400), 0, 0)
    engine.arrive(waiting("first", StreamShare(), budget_ms=45), 0, 0)
    assert "first" not in engine.plan(0, 0).batch


def test_a_frame_behind_a_patient_one_of_its_stream_is_no_more_urgent_than_that() -> None:
    engine, camera, other = scheduler(max_batch=3), StreamShare(queue_depth=4), StreamShare(queue_depth=4)
    engine.arrive(waiting("patient", camera, budget_ms=900), 0, 0)
    engine.arrive(waiting("urgent", camera, budget_ms=100), 0, 0)
    for frame in ("other 1", "other 2"):
        engine.arrive(waiting(frame, other, budget_ms=500), 0, 0)
    assert engine.plan(0, 0).batch == ("other 1", "patient", "other 2")


def test_a_queue_shares_a_batch_with_others_frame_by_frame() -> None:
    """The virtual time of a frame behind others of its stream counts those."""
    engine = scheduler(max_batch=4)
    heavy, light = StreamShare(weight=3.0, queue_depth=8), StreamShare(queue_depth=8)
    for index in range(8):
        engine.arrive(waiting(f"heavy {index}", heavy), 0, 0)
        engine.arrive(waiting(f"light {index}", light), 0, 0)
    batches = [engine.plan(0, 0).batch for _ in range(2)]
    assert [sum(frame.startswith("light") for frame in batch) for batch in batches] == [1, 1]


def test_a_batch_is_held_back_to_be_filled_where_that_is_asked_for() -> None:
    engine = scheduler(max_batch=3)
    engine.hold_ns = 8 * MS
    engine.arrive(waiting("a"), 0, 0)
    plan = engine.plan(0, 0)
    assert (plan.batch, plan.wake_at_ns) == ((), 8 * MS)
    engine.arrive(waiting("b"), 1 * MS, 1 * MS)
    assert engine.plan(1 * MS, 1 * MS).wake_at_ns == 8 * MS
    assert engine.plan(8 * MS, 8 * MS).batch == ("a", "b"), "it waited long enough"
    for frame in "cde":
        engine.arrive(waiting(frame), 9 * MS, 9 * MS)
    assert engine.plan(9 * MS, 9 * MS).batch == ("c", "d", "e"), "a full batch goes at once"


def test_a_batch_is_not_held_back_beyond_its_deadlines() -> None:
    engine = scheduler(per_batch_ms=10, per_frame_ms=1, max_batch=3)
    engine.hold_ns = 50 * MS
    engine.arrive(waiting("a", budget_ms=20), 0, 0)
    last_start_ms = 20 - (12 + MARGIN_MS)
    assert engine.plan(0, 0).wake_at_ns == last_start_ms * MS, "then it still fits beside one more"
    assert engine.plan(int(last_start_ms * MS), int(last_start_ms * MS)).batch == ("a",)


def test_thousands_of_waiting_frames_are_all_answered_once() -> None:
    engine = scheduler(per_batch_ms=1, per_frame_ms=0.1)
    shares = [StreamShare(index % 4, 1.0 + index % 3, queue_depth=4) for index in range(1000)]
    for step in range(4):
        for index, share in enumerate(shares):
            assert engine.arrive(waiting(f"{index} {step}", share, budget_ms=200 + index), 0, 0) == []
    taken: list[str] = []
    now_ns = 0
    while len(engine):
        plan = engine.plan(now_ns, now_ns)
        taken += [*plan.batch, *(refusal.frame for refusal in plan.refused)]
        now_ns = plan.ends_ns
    assert sorted(taken) == sorted(f"{index} {step}" for index in range(1000) for step in range(4))


def test_frames_of_streams_that_have_gone_leave_nothing_behind() -> None:
    engine = scheduler()
    for _ in range(1000):
        engine.arrive(waiting("single"), 0, 0)
        assert engine.plan(0, 0).batch == ("single",)
    assert len(engine._room) == 0
    assert not engine._room._columns
    assert len(engine._room._counts) == 1, "one place in the tables, used over and over"

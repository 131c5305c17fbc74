"""The scheduler and a slow, plain reading of its rules decide the same, frame by frame, on random traces."""

from __future__ import annotations

from dataclasses import dataclass
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from foveate.service.arbiter import Beside
from foveate.service.prediction import LatencyModel
from foveate.service.scheduler import Scheduler, StreamShare, Waiting
from support.frames import MS, latency_model
from support.reference_scheduler import ReferenceFrame, ReferenceScheduler, ReferenceStream

Share = tuple[int, float, int | None, float]
"""Priority, weight, queue depth, guaranteed frames per second."""

shares = st.tuples(
    st.integers(0, 2),
    st.sampled_from([0.5, 1.0, 3.0]),
    st.none() | st.integers(1, 5),
    st.sampled_from([0.0, 0.0, 10.0, 100.0]),
)


@dataclass(frozen=True)
class Step:
    """A frame comes, or (with no budget) a stream's client goes. Units: milliseconds."""

    stream: int
    after: float
    budget: float | None
    prepare: float


steps = st.builds(
    Step,
    stream=st.integers(0, 40),
    after=st.sampled_from([0.0, 0.0, 0.5, 3.0, 20.0]) | st.floats(0, 8),
    budget=st.sampled_from([60.0, 200.0]) | st.floats(-2, 300) | st.just(None) | st.floats(10, 80),
    prepare=st.just(0.0) | st.floats(0, 3),
)


class Both:
    """Both schedulers, given the same things and asked the same questions."""

    def __init__(self, profile_ms: tuple[float, float], max_batch: int, decoders: int, standing: list[Share]) -> None:
        def new_latency() -> LatencyModel:
            return latency_model(lambda batch: (profile_ms[0] + profile_ms[1] * batch) * MS)

        self.latencies = (new_latency(), new_latency())
        self.real: Scheduler[int] = Scheduler(self.latencies[0], max_batch, decoders)
        self.reference = ReferenceScheduler(self.latencies[1], max_batch, decoders)
        self.shares = [StreamShare(p, w, depth, guaranteed_fps=fps) for p, w, depth, fps in standing]
        self.streams = [ReferenceStream(p, w, depth, fps) for p, w, depth, fps in standing]
        self.now_ns = self.free_ns = 0
        self.batches = 0

    def step(self, name: int, step: Step, slowness: float) -> None:
        self.plan_until(self.now_ns + int(step.after * MS), slowness)
        index = step.stream % len(self.shares)
        if step.budget is None:
            assert self.real.withdraw(self.shares[index]) == self.reference.withdraw(self.streams[index])
            return
        deadline_ns, prepare_ns = self.now_ns + int(step.budget * MS), int(step.prepare * MS)
        waiting = Waiting(name, self.shares[index], deadline_ns, prepare_ns)
        free_ns = max(self.now_ns, self.free_ns)
        refused = self.real.arrive(waiting, self.now_ns, free_ns)
        frame = ReferenceFrame(name, self.streams[index], deadline_ns, prepare_ns)
        expected = self.reference.arrive(frame, self.now_ns, free_ns)
        assert [(refusal.frame, refusal.verdict) for refusal in refused] == expected

    def plan_until(self, until_ns: int, slowness: float) -> None:
        while True:
            free_ns = max(self.now_ns, self.free_ns)
            assert self.real.batch_cap == self.reference.cap
            plan = self.real.plan(self.now_ns, free_ns)
            batch, expired, wake_ns = self.reference.plan(self.now_ns, free_ns)
            assert list(plan.batch) == batch
            assert [refusal.frame for refusal in plan.refused] == expired
            assert plan.wake_at_ns == wake_ns
            assert [share.virtual_ns for share in self.shares] == [stream.virtual_ns for stream in self.streams]
            if plan.batch:
                took_ns = int((plan.ends_ns - plan.starts_ns) * slowness)
                self.free_ns = plan.starts_ns + took_ns
                for latency in self.latencies:
                    latency.observe_run(len(plan.batch), took_ns, self.free_ns)
                self.batches += 1
            elif plan.wake_at_ns is None or plan.wake_at_ns >= until_ns:
                self.now_ns = until_ns
                return
            else:
                self.now_ns = plan.wake_at_ns


@settings(max_examples=100, deadline=None)
@given(
    st.tuples(st.floats(0.1, 15), st.floats(0.1, 5)),
    st.integers(1, 16),
    st.integers(1, 4),
    st.lists(shares, min_size=1, max_size=12),
    st.lists(steps, min_size=1, max_size=80),
    st.floats(0.8, 1.4),
    st.just(Beside()) | st.builds(Beside, st.integers(0, 60 * MS), st.none() | st.integers(0, 60 * MS)),
)
def test_the_scheduler_decides_as_its_rules_read(
    profile_ms: tuple[float, float],
    max_batch: int,
    decoders: int,
    standing: list[Share],
    trace: list[Step],
    slowness: float,
    others: Beside,
) -> None:
    both = Both(profile_ms, max_batch, decoders, standing)
    both.real.share(others)
    both.reference.longest_beside_ns, both.reference.patience_ns = others
    for name, step in enumerate(trace):
        both.step(name, step, slowness)
    both.plan_until(1 << 50, slowness)
    assert len(both.real) == 0


def crowd(random: Random) -> tuple[Both, list[Step]]:
    """Many streams that come together, with budgets around what batches take: where the rules bite."""
    per_batch_ms, per_frame_ms = random.choice([(8.0, 1.0), (2.0, 2.0), (20.0, 0.5)])
    tight_ms = 2 * (per_batch_ms + per_frame_ms) + 1
    full_ms = per_batch_ms + 8 * per_frame_ms
    standing: list[Share] = [
        (
            random.choice([0, 0, 0, 1]),
            random.choice([0.1, 1.0, 1.0, 1.0, 3.0]),
            random.choice([None, 2, 5]),
            random.choice([0.0, 0.0, 5.0, 50.0]),
        )
        for _ in range(random.randint(4, 16))
    ]
    hurried = set(random.sample(range(len(standing)), len(standing) // 3))
    steps = []
    for _ in range(150):
        stream = random.randrange(len(standing))
        budget = random.uniform(0.6, 1.2) * tight_ms if stream in hurried else random.uniform(1.0, 8.0) * full_ms
        steps.append(
            Step(stream, random.choice([0.0, 0.0, 0.0, 0.3 * full_ms]), budget, random.choice([0.0, 0.5, 2.0]))
        )
    max_batch = random.choice([4, 8, 16])
    return Both((per_batch_ms, per_frame_ms), max_batch, random.randint(1, 3), standing), steps


@pytest.mark.parametrize("seed", range(60))
def test_a_crowd_is_decided_as_the_rules_read(seed: int) -> None:
    random = Random(seed)
    both, steps = crowd(random)
    for share, stream in zip(both.shares, both.streams, strict=True):
        share.virtual_ns = stream.virtual_ns = random.choice([0, 0, 2, 4, 8]) * both.latencies[0].latency_ns(1)
    for name, step in enumerate(steps):
        both.step(name, step, random.uniform(0.9, 1.1))
    both.plan_until(1 << 50, 1.0)
    assert len(both.real) == 0
    assert both.batches >= 5

"""What the scheduler reaches in the simulator at an overloaded engine, and what other policies do there."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from random import Random

import pytest

from foveate.engines.profile import LatencyProfile
from foveate.tools.simulation import (
    POLICIES,
    Camera,
    FairShares,
    Outcome,
    Scenario,
    SimulatedEngine,
    arrivals,
    jain,
    overloaded,
    simulate,
)

PER_BATCH_MS, PER_FRAME_MS, MAX_BATCH = 1.5, 0.25, 32
CAPACITY_FPS = MAX_BATCH / (PER_BATCH_MS + MAX_BATCH * PER_FRAME_MS) * 1e3


def honest(camera: Camera) -> bool:
    return camera.excess == 1.0


def in_class(priority: int) -> Callable[[Camera], bool]:
    return lambda camera: camera.priority == priority


def scenario(*groups: tuple[int, Camera], seconds: float = 3.0) -> Scenario:
    cameras = [camera for count, camera in groups for _ in range(count)]
    return Scenario(cameras, PER_BATCH_MS, PER_FRAME_MS, MAX_BATCH, seconds=seconds)


@pytest.fixture(scope="module")
def at_half_too_much() -> dict[str, Outcome]:
    """336 streams at 1.5 times what the engine can do, 20 of which send 4 times what they declare."""
    case = overloaded(1.5, seconds=5.0)
    return {name: case.run(policy) for name, policy in POLICIES.items()}


def test_fair_shares_keep_the_engine_on_time_and_the_streams_equal(at_half_too_much: dict[str, Outcome]) -> None:
    outcome = at_half_too_much["fair shares"]
    fair_fps = CAPACITY_FPS / 336
    assert outcome.goodput_fps >= 0.98 * CAPACITY_FPS
    assert outcome.late_share <= 0.001
    assert jain(outcome.fps(honest)) >= 0.99
    assert min(outcome.fps(honest)) >= 0.8 * fair_fps
    greedy = outcome.fps(lambda camera: not honest(camera))
    assert max(greedy) <= 1.1 * fair_fps, "who sends four times as much gets no more for it"


def test_other_policies_lose_the_engine_or_the_streams(at_half_too_much: dict[str, Outcome]) -> None:
    """So that the simulator is known to tell policies apart."""
    share = {name: outcome.goodput_fps / CAPACITY_FPS for name, outcome in at_half_too_much.items()}
    assert share["fifo"] < 0.05
    assert share["lazy drop"] < 0.5
    assert share["timeout queue"] < 0.95
    assert at_half_too_much["timeout queue"].late_share > 0.05
    fair_fps = CAPACITY_FPS / 336
    for name in ("earliest deadline", "early drop"):
        assert min(at_half_too_much[name].fps(honest)) < 0.6 * fair_fps
        greedy = at_half_too_much[name].fps(lambda camera: not honest(camera))
        assert min(greedy) > 2 * fair_fps


def test_every_frame_is_counted_once(at_half_too_much: dict[str, Outcome]) -> None:
    for outcome in at_half_too_much.values():
        for stream in outcome.streams:
            assert stream.received == stream.on_time + stream.late + stream.superseded + stream.dropped


def test_three_times_too_much_is_answered_on_time_all_the_same() -> None:
    outcome = overloaded(3.0, seconds=3.0).run(FairShares)
    assert outcome.goodput_fps >= 0.95 * CAPACITY_FPS
    assert outcome.late_share <= 0.001
    assert jain(outcome.fps(honest)) >= 0.99


def test_a_noisy_engine_makes_few_answers_late() -> None:
    outcome = replace(overloaded(3.0, seconds=3.0), noise=0.06).run(FairShares)
    assert outcome.goodput_fps >= 0.9 * CAPACITY_FPS
    assert outcome.late_share <= 0.002


class Stalling(SimulatedEngine):
    """Every so many runs one takes longer, as when the machine does something else."""

    def __init__(self, profile: LatencyProfile, every: int, stall_ms: float) -> None:
        super().__init__(profile, noise=0.02, seed=1)
        self._every = every
        self._stall_ns = int(stall_ms * 1e6)
        self._runs = 0

    def run_ns(self, batch: int) -> int:
        self._runs += 1
        return super().run_ns(batch) + (self._stall_ns if self._runs % self._every == 0 else 0)


def on_a_stalling_engine(load: float, *, every: int, stall_ms: float) -> tuple[float, float]:
    """On time of what is sent, and late of what is answered: eight streams at an engine of 20 ms for a single frame."""
    profile = SimulatedEngine.from_line(18.0, 2.0, 4).profile
    seconds, engine = 20.0, Stalling(profile, every, stall_ms)
    fps = load * engine.capacity_fps(4) / 8
    cameras = [Camera(fps, budget_ms=4 * 26.0, stalls_per_minute=0) for _ in range(8)]
    policy = FairShares(profile, cameras)
    outcome = simulate(policy, engine, arrivals(cameras, seconds, seed=1), Outcome(cameras, seconds))
    sent = sum(stream.received for stream in outcome.streams)
    return sum(stream.on_time for stream in outcome.streams) / sent, outcome.late_share


def test_a_stall_costs_a_slow_engine_the_frames_of_the_stall_and_no_more() -> None:
    """Kept free for seconds after each one, the time of a stall would cost many times as much."""
    share, _ = on_a_stalling_engine(0.8, every=500, stall_ms=200)
    assert share >= 0.98
    share, _ = on_a_stalling_engine(3.0, every=500, stall_ms=200)
    assert share >= 0.98 / 3
    share, late = on_a_stalling_engine(3.0, every=100, stall_ms=60)
    assert share >= 0.97 / 3
    assert late <= 0.002


@pytest.mark.parametrize(("every", "stall_ms"), [(20, 10), (50, 30), (100, 20)])
def test_stalls_within_a_run_make_no_answer_late(every: int, stall_ms: float) -> None:
    assert on_a_stalling_engine(3.0, every=every, stall_ms=stall_ms)[1] <= 0.001


def test_weights_of_three_to_one_give_three_to_one() -> None:
    fps = 4 * CAPACITY_FPS / 100
    outcome = scenario(
        (50, Camera(fps, weight=3.0, stalls_per_minute=0)), (50, Camera(fps, weight=1.0, stalls_per_minute=0))
    ).run(FairShares)
    heavy = outcome.fps(lambda camera: camera.weight == 3.0)
    light = outcome.fps(lambda camera: camera.weight == 1.0)
    assert sum(heavy) / sum(light) == pytest.approx(3.0, rel=0.05)
    assert jain(heavy) >= 0.99
    assert jain(light) >= 0.99


def test_the_top_class_is_on_time_beside_any_number_of_others() -> None:
    top = Camera(0.1 * CAPACITY_FPS / 20, priority=0, stalls_per_minute=0)
    rest = Camera(1.4 * CAPACITY_FPS / 200, priority=1)
    outcome = scenario((20, top), (200, rest)).run(FairShares)
    assert outcome.on_time_share(in_class(0)) >= 0.99
    assert min(outcome.fps(in_class(0))) >= 0.98 * top.fps
    assert outcome.goodput_fps >= 0.95 * CAPACITY_FPS


def test_a_guarantee_holds_beside_best_effort_of_the_same_class() -> None:
    rate = 0.5 * CAPACITY_FPS / 160
    promised = Camera(rate, guaranteed_fps=rate, stalls_per_minute=0)
    outcome = scenario((160, promised), (80, Camera(2.0 * CAPACITY_FPS / 80))).run(FairShares)
    assert min(outcome.fps(lambda camera: camera.guaranteed_fps > 0)) >= 0.97 * rate
    assert outcome.goodput_fps >= 0.95 * CAPACITY_FPS


def test_sending_above_the_declared_rate_is_guaranteed_up_to_that_rate_only() -> None:
    declared = 0.2 * CAPACITY_FPS / 10
    greedy = Camera(declared, guaranteed_fps=declared, excess=4.0, stalls_per_minute=0)
    outcome = scenario((10, greedy), (40, Camera(2 * CAPACITY_FPS / 40, stalls_per_minute=0))).run(FairShares)
    fair_fps = CAPACITY_FPS / 50
    assert outcome.fps(lambda camera: camera.guaranteed_fps > 0) == pytest.approx([declared] * 10, rel=0.1)
    assert min(outcome.fps(lambda camera: not camera.guaranteed_fps)) >= 0.95 * fair_fps


def test_tight_budgets_are_served_beside_loose_ones() -> None:
    fps = 1.5 * CAPACITY_FPS / 200
    outcome = scenario(
        (40, Camera(fps, budget_ms=30, jitter_ms=0.5, key_frame_ms=0, stalls_per_minute=0)),
        (160, Camera(fps, budget_ms=500, stalls_per_minute=0)),
    ).run(FairShares)
    fair_fps = CAPACITY_FPS / 200
    assert min(outcome.fps(lambda camera: camera.budget_ms == 30)) >= 0.9 * fair_fps
    assert outcome.goodput_fps >= 0.85 * CAPACITY_FPS


@pytest.mark.parametrize("depth", [2, 8])
def test_streams_that_queue_are_shared_out_like_those_that_want_the_newest(depth: int) -> None:
    fps = 1.5 * CAPACITY_FPS / 60
    outcome = scenario(
        (30, Camera(fps, queue_depth=depth, stalls_per_minute=0)), (30, Camera(fps, stalls_per_minute=0))
    ).run(FairShares)
    assert jain(outcome.fps(honest)) >= 0.99
    assert min(outcome.fps(honest)) >= 0.8 * CAPACITY_FPS / 60
    assert outcome.goodput_fps >= 0.97 * CAPACITY_FPS


def test_below_its_capacity_everybody_gets_all() -> None:
    case = overloaded(0.6, abusive=0, seconds=4.0)
    outcome = case.run(FairShares)
    received = sum(stream.received for stream in outcome.streams)
    assert outcome.goodput_fps * outcome.seconds >= 0.98 * received


@pytest.mark.parametrize("seed", range(12))
def test_a_stream_at_its_fair_share_is_not_starved_whatever_the_others_send(seed: int) -> None:
    """It wants the newest frame or queues; as LATEST it can have no more than one frame in a batch, so it asks less."""
    random = Random(seed)
    others = [
        Camera(
            random.uniform(60, 200),
            random.uniform(60, 400),
            weight=random.choice([0.5, 1.0, 3.0]),
            queue_depth=random.choice([None, 1, 6]),
            excess=random.choice([1.0, 4.0]),
        )
        for _ in range(random.randint(3, 8))
    ]
    batch_s = 0.040
    fair_fps = 8 / batch_s / (1 + sum(camera.weight for camera in others))
    depth = random.choice([None, 3])
    polite = Camera(
        0.8 * min(fair_fps, 1 / batch_s), 300, queue_depth=depth, jitter_ms=0, stalls_per_minute=0, key_frame_every=0
    )
    outcome = Scenario([polite, *others], 8.0, 4.0, 8, seconds=4.0, seed=seed).run(FairShares)
    stream = outcome.streams[0]
    assert stream.on_time >= 0.95 * stream.received - 1

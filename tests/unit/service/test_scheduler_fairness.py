"""Who gets how much of an overloaded engine, counted over simulated seconds."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import pytest

from foveate.service.scheduler import Scheduler, StreamShare, Waiting
from support.frames import MS, latency_model

SECOND = 1_000 * MS


@dataclass(frozen=True)
class Camera:
    """A stream that sends at an even pace for a while. Units: frames and simulated seconds."""

    name: str
    fps: float
    share: StreamShare
    starts_s: float = 0.0
    budget_ms: int = 300


def started(
    cameras: Sequence[Camera], seconds: float, *, max_batch: int = 4, per_batch_ms: float = 8, per_frame_ms: float = 4
) -> list[tuple[float, str]]:
    """Play cameras against an engine: when a frame of which camera was started."""
    scheduler: Scheduler[str] = Scheduler(
        latency_model(lambda batch: (per_batch_ms + per_frame_ms * batch) * MS), max_batch
    )
    # No two cameras tick together: each is a little off the others.
    events = sorted(
        (int((camera.starts_s + tick / camera.fps) * SECOND) + 977 * index, index)
        for index, camera in enumerate(cameras)
        for tick in range(int((seconds - camera.starts_s) * camera.fps))
    )
    log: list[tuple[float, str]] = []
    free_ns = 0

    def plan_until(now_ns: int, until_ns: int) -> int:
        nonlocal free_ns
        while True:
            plan = scheduler.plan(now_ns, max(now_ns, free_ns))
            if plan.batch:
                free_ns = plan.ends_ns
                log.extend((plan.starts_ns / SECOND, name) for name in plan.batch)
            elif plan.wake_at_ns is None or plan.wake_at_ns >= until_ns:
                return until_ns
            else:
                now_ns = plan.wake_at_ns

    now_ns = 0
    for at_ns, index in events:
        now_ns = plan_until(now_ns, at_ns)
        camera = cameras[index]
        waiting = Waiting(camera.name, camera.share, now_ns + camera.budget_ms * MS)
        scheduler.arrive(waiting, now_ns, max(now_ns, free_ns))
    return log


def counted(log: Sequence[tuple[float, str]], since_s: float = 0.0) -> Counter[str]:
    return Counter(name for at_s, name in log if at_s >= since_s)


@pytest.mark.parametrize("queue_depth", [None, 4])
def test_a_stream_that_sends_too_much_gets_no_more_than_its_share(queue_depth: int | None) -> None:
    polite = [Camera(f"polite {index}", 25, StreamShare(queue_depth=queue_depth)) for index in range(11)]
    hog = Camera("hog", 100, StreamShare(queue_depth=queue_depth))
    counts = counted(started([*polite, hog], 20.0))
    capacity = 20.0 * 4 / 0.024
    assert sum(counts.values()) == pytest.approx(capacity, rel=0.02), "the engine is the bottleneck"
    share = capacity / 12
    for camera in polite:
        assert counts[camera.name] == pytest.approx(share, rel=0.05)
    assert counts["hog"] <= 1.05 * share


def test_weights_share_the_engine_out() -> None:
    cameras = [
        Camera("heavy", 200, StreamShare(weight=3.0, queue_depth=8)),
        Camera("light", 200, StreamShare(weight=1.0, queue_depth=8)),
    ]
    counts = counted(started(cameras, 20.0))
    assert counts["heavy"] / counts["light"] == pytest.approx(3.0, rel=0.05)


def test_what_one_stream_does_not_ask_for_goes_to_the_others() -> None:
    cameras = [
        Camera("modest", 10, StreamShare()),
        Camera("greedy", 200, StreamShare(queue_depth=8)),
        Camera("greedy too", 200, StreamShare(queue_depth=8)),
    ]
    counts = counted(started(cameras, 10.0))
    assert counts["modest"] >= 98
    assert counts["greedy"] == pytest.approx(counts["greedy too"], rel=0.03)
    assert sum(counts.values()) == pytest.approx(10.0 * 4 / 0.024, rel=0.05)


def test_idling_earns_no_credit() -> None:
    cameras = [
        Camera("early", 200, StreamShare(queue_depth=8)),
        Camera("late", 200, StreamShare(queue_depth=8), starts_s=10.0),
    ]
    together = counted(started(cameras, 12.0), since_s=10.1)
    assert together["early"] == pytest.approx(together["late"], rel=0.1)


def test_the_first_class_is_served_before_the_second() -> None:
    cameras = [
        *(Camera(f"first {index}", 30, StreamShare(priority=0)) for index in range(3)),
        *(Camera(f"second {index}", 30, StreamShare(priority=1)) for index in range(10)),
    ]
    counts = counted(started(cameras, 10.0))
    firsts = [counts[camera.name] for camera in cameras[:3]]
    seconds = [counts[camera.name] for camera in cameras[3:]]
    assert min(firsts) >= 0.97 * 30 * 10, "all that they send"
    assert sum(seconds) > 0, "what is left over"
    assert max(seconds) < min(firsts)


def test_a_newcomer_of_a_class_is_not_held_against_what_another_class_has_had() -> None:
    """The second class has had almost nothing for a long time: that is no lead that a newcomer has to wait out."""
    cameras = [
        Camera("first", 150, StreamShare(priority=0, queue_depth=8)),
        Camera("second", 60, StreamShare(priority=1, queue_depth=8), budget_ms=2000),
        Camera("newcomer", 60, StreamShare(priority=1, queue_depth=8), starts_s=20.0, budget_ms=2000),
    ]
    counts = counted(started(cameras, 24.0), since_s=20.5)
    assert counts["second"] > 0
    assert counts["newcomer"] == pytest.approx(counts["second"], rel=0.25)


def test_tight_budgets_are_not_starved_by_large_batches_of_loose_ones() -> None:
    cameras = [
        *(Camera(f"loose {index}", 30, StreamShare(), budget_ms=1000) for index in range(12)),
        *(Camera(f"tight {index}", 30, StreamShare(), budget_ms=80) for index in range(4)),
    ]
    counts = counted(started(cameras, 10.0, max_batch=16, per_batch_ms=16, per_frame_ms=2))
    least_tight = min(counts[f"tight {index}"] for index in range(4))
    most_loose = max(counts[f"loose {index}"] for index in range(12))
    assert least_tight >= 0.8 * most_loose

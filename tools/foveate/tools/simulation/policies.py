"""What may decide which frames run: the scheduler of this service, and others to compare it with.

Sources: LazyDrop and NexusEarlyDrop after Shen et al., "Nexus: a GPU cluster engine for accelerating DNN-based video
analysis", SOSP 2019, section 6.3. TimeoutQueue is a dynamic batcher whose queue drops what has timed out.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from bisect import bisect_left, insort
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from foveate.engines.profile import LatencyProfile
from foveate.service.batch_cap import batch_cap
from foveate.service.prediction import LatencyModel
from foveate.service.scheduler import Scheduler, StreamShare, Waiting
from foveate.tools.simulation.cameras import Arrival, Camera

__all__ = [
    "POLICIES",
    "Decision",
    "EarliestDeadline",
    "FairShares",
    "Fifo",
    "LazyDrop",
    "NexusEarlyDrop",
    "Policy",
    "TimeoutQueue",
]


@dataclass(frozen=True, slots=True)
class Decision:
    """What runs next."""

    batch: Sequence[Arrival]
    """Empty: nothing now."""
    dropped: Sequence[Arrival] = ()
    """Answered without having run."""
    superseded: Sequence[Arrival] = ()
    """Of those dropped, the ones that a newer frame replaced."""
    wake_at_ns: int | None = None
    """Ask again then; None: when a frame arrives or a run ends."""


class Policy(ABC):
    """Frames come in by `arrive`; `plan` says what runs when the engine is free.

    A policy knows the engine's profile and what its runs took, and not what they will take.
    """

    @abstractmethod
    def arrive(self, arrival: Arrival, now_ns: int, free_ns: int) -> Decision:
        """Take a frame in; the decision may only drop."""

    @abstractmethod
    def plan(self, now_ns: int, free_ns: int) -> Decision:
        """What runs next on an engine that is predicted to be free at `free_ns`."""

    @abstractmethod
    def latency_ns(self, batch: int) -> int:
        """How long a run is expected to take."""

    @abstractmethod
    def observe(self, batch: int, took_ns: int, now_ns: int) -> None:
        """A run has ended."""

    def begin(self, batch: Sequence[Arrival], now_ns: int) -> Sequence[Arrival]:
        """Those frames of a planned batch that still run when the engine has come to be free."""
        return batch


class _Queue(Policy):
    """Frames in the order of `_key`.

    Predictions, their margin and the largest batch are those of our own scheduler, so that the comparison is one of
    policies.
    """

    def __init__(self, profile: LatencyProfile, cameras: Sequence[Camera]) -> None:
        budgets_ns = sorted(int(camera.budget_ms * 1e6) for camera in cameras)
        self._latency = LatencyModel(profile)
        self._cap = batch_cap(self._latency, profile.buckets[-1], budgets_ns[len(budgets_ns) // 10])
        self._queue: list[Arrival] = []

    def latency_ns(self, batch: int) -> int:
        return self._latency.latency_ns(batch)

    def observe(self, batch: int, took_ns: int, now_ns: int) -> None:
        self._latency.observe_run(batch, took_ns, now_ns)

    def arrive(self, arrival: Arrival, now_ns: int, free_ns: int) -> Decision:
        insort(self._queue, arrival, key=self._key)
        return Decision(())

    def plan(self, now_ns: int, free_ns: int) -> Decision:
        if free_ns > now_ns or not self._queue:
            return Decision(())
        dropped = self._drop(now_ns)
        return Decision(self._take(now_ns), dropped)

    def _key(self, arrival: Arrival) -> int:
        return arrival.at_ns

    def _drop(self, now_ns: int) -> list[Arrival]:
        return []

    def _take(self, now_ns: int) -> list[Arrival]:
        return self._cut(0, self._cap)

    def _cut(self, start: int, stop: int) -> list[Arrival]:
        cut = self._queue[start:stop]
        del self._queue[start:stop]
        return cut

    def _in_time_ns(self, size: int, now_ns: int) -> int:
        """The deadline that a batch of that size keeps if it starts now."""
        return now_ns + self.latency_ns(size) + self._latency.margin_ns


class _ByDeadline(_Queue):
    def _key(self, arrival: Arrival) -> int:
        return arrival.deadline_ns

    def _before(self, moment_ns: int) -> int:
        """How many frames have an earlier deadline than that."""
        return bisect_left(self._queue, moment_ns, key=self._key)


class Fifo(_Queue):
    """First come, first served, however late."""


class TimeoutQueue(_Queue):
    """As FIFO, but what is late already when its batch forms is dropped; nothing is predicted."""

    def _drop(self, now_ns: int) -> list[Arrival]:
        dropped = [arrival for arrival in self._queue if arrival.deadline_ns < now_ns]
        self._queue = [arrival for arrival in self._queue if arrival.deadline_ns >= now_ns]
        return dropped


class LazyDrop(_ByDeadline):
    """Drops what cannot make it any more, and forms the batch that the first frame has the time for.

    In the source all frames of a queue have one budget, so that their order of arrival is that of their deadlines.
    """

    def _drop(self, now_ns: int) -> list[Arrival]:
        return self._cut(0, self._before(self._in_time_ns(1, now_ns)))

    def _take(self, now_ns: int) -> list[Arrival]:
        sizes = range(min(self._cap, len(self._queue)), 0, -1)
        fitting = (size for size in sizes if self._queue[0].deadline_ns >= self._in_time_ns(size, now_ns))
        return self._cut(0, next(fitting, 0))


class NexusEarlyDrop(_ByDeadline):
    """Drops frames until the first one left has the time for a whole batch with those behind it."""

    def _drop(self, now_ns: int) -> list[Arrival]:
        first = 0
        while first < len(self._queue):
            size = min(self._cap, len(self._queue) - first)
            if self._queue[first].deadline_ns >= self._in_time_ns(size, now_ns):
                break
            first += 1
        return self._cut(0, first)


class EarliestDeadline(_ByDeadline):
    """As our own scheduler, but by deadline alone: no class, no fair share, no newest frame."""

    def _drop(self, now_ns: int) -> list[Arrival]:
        return self._cut(0, self._before(self._in_time_ns(1, now_ns)))

    def _take(self, now_ns: int) -> list[Arrival]:
        for size in range(min(self._cap, len(self._queue)), 0, -1):
            first = self._before(self._in_time_ns(size, now_ns))
            if len(self._queue) - first >= size:
                return self._cut(first, first + size)
        return []


class FairShares(Policy):
    """The scheduler of this service."""

    def __init__(
        self,
        profile: LatencyProfile,
        cameras: Sequence[Camera],
        new_scheduler: Callable[[LatencyProfile], Scheduler[Arrival]] | None = None,
    ) -> None:
        """`new_scheduler` makes the scheduler for a profile; None: the plain one."""
        if new_scheduler is None:
            self._scheduler: Scheduler[Arrival] = Scheduler(LatencyModel(profile), profile.buckets[-1])
        else:
            self._scheduler = new_scheduler(profile)
        self.shares = [
            StreamShare(camera.priority, camera.weight, camera.queue_depth, guaranteed_fps=camera.guaranteed_fps)
            for camera in cameras
        ]

    def latency_ns(self, batch: int) -> int:
        return self._scheduler.latency.latency_ns(batch)

    def arrive(self, arrival: Arrival, now_ns: int, free_ns: int) -> Decision:
        waiting = Waiting(arrival, self.shares[arrival.stream], arrival.deadline_ns)
        refused = [refusal.frame for refusal in self._scheduler.arrive(waiting, now_ns, free_ns)]
        return Decision((), refused, [frame for frame in refused if frame is not arrival])

    def plan(self, now_ns: int, free_ns: int) -> Decision:
        plan = self._scheduler.plan(now_ns, free_ns)
        return Decision(plan.batch, [refusal.frame for refusal in plan.refused], wake_at_ns=plan.wake_at_ns)

    def begin(self, batch: Sequence[Arrival], now_ns: int) -> Sequence[Arrival]:
        """As a lane does it: what the run before has made late by overrunning is not started."""
        ends_ns = now_ns + self.latency_ns(len(batch)) + self._scheduler.latency.reply_ns
        return [arrival for arrival in batch if arrival.deadline_ns >= ends_ns]

    def observe(self, batch: int, took_ns: int, now_ns: int) -> None:
        self._scheduler.latency.observe_run(batch, took_ns, now_ns)


POLICIES: dict[str, Callable[[LatencyProfile, Sequence[Camera]], Policy]] = {
    "fifo": Fifo,
    "timeout queue": TimeoutQueue,
    "lazy drop": LazyDrop,
    "early drop": NexusEarlyDrop,
    "earliest deadline": EarliestDeadline,
    "fair shares": FairShares,
}
"""The last one is ours."""

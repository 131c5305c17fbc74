"""Which waiting frames run next, and which can no longer make it. Pure: no clock, no I/O, no threads.

Every decision is a function of what has arrived, of the latency model and of the time that comes with the call,
so a recorded trace replays to the same decisions. A frame enters by `arrive` and leaves exactly once: in a
`Plan`'s batch, as a `Refusal`, or by `withdraw`.

Time of a batch of b frames planned now: it starts at ``t0 = max(now + preparing it, engine free)`` and ends at
``t0 + l(b)``; a frame fits when its deadline is at least ``t0 + l(b) + margin``.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

from foveate.service.frame import Verdict
from foveate.service.prediction import LatencyModel

__all__ = ["Plan", "Refusal", "Scheduler", "StreamShare", "Waiting"]

F = TypeVar("F")

_LAGS_BY_SERVICES = 3
"""A leader whose stream is behind the others by more than this many services is not left out of a batch again."""
_BUDGETS_REMEMBERED = 128
_TIGHT_SHARE = 0.1
_PLANNING_SLACK_NS = 500_000
"""How long before the last moment the next batch is planned: the planning itself and the thread's wake-up."""


@dataclass(slots=True)
class StreamShare:
    """One stream's standing with the scheduler."""

    priority: int = 0
    weight: float = 1.0
    queue_depth: int | None = None
    """Frames that may wait; None: only the newest (LATEST)."""
    virtual_ns: float = 0.0
    """Engine time received so far, over the weight: the stream with the least is served first."""


@dataclass(slots=True, eq=False)
class Waiting(Generic[F]):
    """A frame that waits, with all that the scheduler needs to know of it. Units: monotonic nanoseconds."""

    frame: F
    share: StreamShare
    deadline_ns: int
    prepare_ns: int = 0
    """Predicted time to decode it."""


@dataclass(frozen=True, slots=True)
class Refusal(Generic[F]):
    """A frame that will not run, and why."""

    frame: F
    verdict: Verdict
    message: str


@dataclass(frozen=True, slots=True)
class Plan(Generic[F]):
    """What to do now, and when to ask again."""

    batch: tuple[F, ...]
    """Frames to run together, in order; empty: nothing to start now."""
    refused: tuple[Refusal[F], ...]
    starts_ns: int = 0
    """Predicted start of the batch's run."""
    ends_ns: int = 0
    """Predicted end of the batch's run."""
    wake_at_ns: int | None = None
    """With an empty batch: ask again then, or when a frame arrives; None: only when a frame arrives."""


@dataclass(slots=True)
class Scheduler(Generic[F]):
    """The waiting frames of one engine, over all its streams.

    `decoders` is how many frames are prepared side by side.
    """

    latency: LatencyModel
    max_batch: int
    decoders: int = 1
    _waiting: dict[int, deque[Waiting[F]]] = field(default_factory=dict)
    _budgets_ns: deque[int] = field(default_factory=lambda: deque(maxlen=_BUDGETS_REMEMBERED))
    _virtual_now_ns: dict[int, float] = field(default_factory=dict)
    """By class: the virtual time up to which its streams have been served."""

    def __len__(self) -> int:
        return sum(len(queue) for queue in self._waiting.values())

    @property
    def batch_cap(self) -> int:
        """The largest batch worth forming now.

        Source: min(engine max, ceil(9 beta / alpha), the largest b with 2 l(b) + margin within the tightest
        tenth of the budgets left on arrival). Without the second term an uncapped batch starves tight budgets.
        """
        cap = min(self.max_batch, self.latency.fill_cap)
        if self._budgets_ns:
            ranked = sorted(self._budgets_ns)
            tight_ns = ranked[int(_TIGHT_SHARE * (len(ranked) - 1))]
            while cap > 1 and 2 * self.latency.latency_ns(cap) + self.latency.margin_ns > tight_ns:
                cap -= 1
        return cap

    def arrive(self, waiting: Waiting[F], now_ns: int, engine_free_ns: int) -> list[Refusal[F]]:
        """Take a frame in. The answer may refuse it, or the older frame that it replaces."""
        share = waiting.share
        self.latency.relax(now_ns)
        needed_ns = self._needed_ns()
        if _short_by_ns(waiting, now_ns, needed_ns) <= 0:  # one that no engine could keep asks for no smaller batch
            self._budgets_ns.append(waiting.deadline_ns - now_ns)
        short_ns = _short_by_ns(waiting, now_ns, needed_ns, engine_free_ns)
        if short_ns > 0:
            return [Refusal(waiting.frame, Verdict.INFEASIBLE, self._too_late(waiting, short_ns, "on arrival"))]
        queue = self._waiting.get(id(share))
        if not queue:
            served_ns = self._virtual_now_ns.get(share.priority, 0.0)
            share.virtual_ns = max(share.virtual_ns, served_ns)  # idling earns no credit
            self._waiting[id(share)] = deque([waiting])
            return []
        if share.queue_depth is None:
            replaced = queue.popleft()
            queue.append(waiting)
            return [Refusal(replaced.frame, Verdict.SUPERSEDED, "a newer frame of the stream replaced it")]
        if len(queue) >= share.queue_depth:
            message = f"{len(queue)} frames of the stream wait already, its queue holds {share.queue_depth}"
            return [Refusal(waiting.frame, Verdict.REJECTED, message + ": send slower, or open it with LATEST")]
        queue.append(waiting)
        return []

    def plan(self, now_ns: int, engine_free_ns: int) -> Plan[F]:
        """Decide what runs next on an engine that is free from `engine_free_ns` on.

        The next batch is planned as late as it can be prepared in time, so that it holds the newest frames
        and as many of them as have come.
        """
        refused = tuple(self._drop_late(now_ns, engine_free_ns))
        if not self._waiting:
            return Plan((), refused)
        plan_at_ns = engine_free_ns - self._lead_ns()
        if now_ns < plan_at_ns:
            return Plan((), refused, wake_at_ns=plan_at_ns)
        chosen = self._form(now_ns, engine_free_ns)
        latency_ns = self.latency.latency_ns(len(chosen))
        self._charge(chosen, latency_ns / len(chosen))
        starts_ns = self._starts_ns([w.prepare_ns for w in chosen], now_ns, engine_free_ns)
        return Plan(tuple(w.frame for w in chosen), refused, starts_ns, starts_ns + latency_ns)

    def expire(self, now_ns: int, engine_free_ns: int) -> list[Refusal[F]]:
        """Take out the frames that have come to be predicted late, for when nothing can be planned."""
        return list(self._drop_late(now_ns, engine_free_ns))

    def next_expiry_ns(self) -> int | None:
        """When the first of the waiting frames can no longer make it, even on an idle engine; None: none waits."""
        needed_ns = self._needed_ns()
        latest_starts = (waiting.deadline_ns - waiting.prepare_ns - needed_ns for waiting in self._all())
        return min(latest_starts, default=None)

    def withdraw(self, share: StreamShare) -> list[F]:
        """Take all frames of a stream back out: its client is gone."""
        return [waiting.frame for waiting in self._waiting.pop(id(share), ())]

    def _all(self) -> Iterator[Waiting[F]]:
        for queue in self._waiting.values():
            yield from queue

    def _starts_ns(self, costs_ns: Sequence[int], now_ns: int, engine_free_ns: int) -> int:
        """When a batch can start whose frames take `costs_ns` to decode."""
        return max(now_ns + self._prepare_ns(costs_ns), engine_free_ns)

    def _prepare_ns(self, costs_ns: Sequence[int]) -> int:
        return max(max(costs_ns), sum(costs_ns) // self.decoders)

    def _needed_ns(self) -> int:
        """What a frame that runs alone must have left before its deadline when its run starts."""
        return self.latency.latency_ns(1) + self.latency.margin_ns

    def _too_late(self, waiting: Waiting[F], short_ns: int, when: str) -> str:
        return (
            f"predicted {short_ns / 1e6:.1f} ms too late {when}: decoding takes {waiting.prepare_ns / 1e6:.1f} ms, "
            f"a run {self.latency.latency_ns(1) / 1e6:.1f} ms, and {self.latency.margin_ns / 1e6:.1f} ms are kept free"
        )

    def _drop_late(self, now_ns: int, engine_free_ns: int) -> Iterator[Refusal[F]]:
        needed_ns = self._needed_ns()
        for key, queue in list(self._waiting.items()):
            for waiting in list(queue):
                short_ns = _short_by_ns(waiting, now_ns, needed_ns, engine_free_ns)
                if short_ns > 0:
                    queue.remove(waiting)
                    yield Refusal(waiting.frame, Verdict.EXPIRED, self._too_late(waiting, short_ns, "while it waited"))
            if not queue:
                del self._waiting[key]

    def _lead_ns(self) -> int:
        """How long before the engine is free the next batch must be planned to be prepared in time."""
        costs = sorted((waiting.prepare_ns for waiting in self._all()), reverse=True)[: self.batch_cap]
        return self._prepare_ns(costs) + _PLANNING_SLACK_NS

    def _form(self, now_ns: int, engine_free_ns: int) -> list[Waiting[F]]:
        """Take the batch out of the waiting frames: the largest that its own frames have the time for."""
        ranked = self._ranked()
        leader = ranked[0]
        keep_leader = self._lag_ns(leader) > _LAGS_BY_SERVICES * self.latency.latency_ns(1)
        costs_ns = sorted((waiting.prepare_ns for waiting in ranked), reverse=True)
        for size in range(min(self.batch_cap, len(ranked)), 1, -1):
            starts_ns = self._starts_ns(costs_ns[:size], now_ns, engine_free_ns)
            batch = _fitting(ranked, size, starts_ns + self.latency.latency_ns(size) + self.latency.margin_ns)
            if len(batch) == size and (not keep_leader or leader in batch):
                break
        else:
            batch = [leader]
        for waiting in batch:
            self._remove(waiting)
        return batch

    def _ranked(self) -> list[Waiting[F]]:
        """All waiting frames by (class, virtual time, deadline); those of one stream in their own order."""
        keyed: list[tuple[int, float, int, Waiting[F]]] = []
        for queue in self._waiting.values():
            latest_ns = 0
            for waiting in queue:
                latest_ns = max(latest_ns, waiting.deadline_ns)
                keyed.append((waiting.share.priority, waiting.share.virtual_ns, latest_ns, waiting))
        keyed.sort(key=_rank)
        return [waiting for *_, waiting in keyed]

    def _lag_ns(self, leader: Waiting[F]) -> float:
        """How far the leader's stream is behind the furthest waiting stream of its class, in engine time."""
        shares = (queue[0].share for queue in self._waiting.values())
        ahead = (share.virtual_ns for share in shares if share.priority == leader.share.priority)
        return max(ahead) - leader.share.virtual_ns

    def _charge(self, batch: list[Waiting[F]], cost_ns: float) -> None:
        behind_ns: dict[int, float] = {}
        for share in (waiting.share for waiting in batch):
            behind_ns[share.priority] = min(share.virtual_ns, behind_ns.get(share.priority, share.virtual_ns))
        for priority, virtual_ns in behind_ns.items():
            self._virtual_now_ns[priority] = max(virtual_ns, self._virtual_now_ns.get(priority, 0.0))
        for waiting in batch:
            waiting.share.virtual_ns += cost_ns / waiting.share.weight

    def _remove(self, waiting: Waiting[F]) -> None:
        key = id(waiting.share)
        queue = self._waiting[key]
        queue.remove(waiting)
        if not queue:
            del self._waiting[key]


def _short_by_ns(waiting: Waiting[Any], now_ns: int, needed_ns: int, engine_free_ns: int = 0) -> int:
    """By how much the frame would miss its deadline if it ran alone and next; 0 or less: it fits."""
    return max(now_ns + waiting.prepare_ns, engine_free_ns) + needed_ns - waiting.deadline_ns


def _fitting(ranked: list[Waiting[F]], size: int, ends_ns: int) -> list[Waiting[F]]:
    """The first `size` frames by rank that have until `ends_ns`, or fewer; none overtakes one of its stream."""
    batch: list[Waiting[F]] = []
    held_up: set[int] = set()
    for waiting in ranked:
        stream = id(waiting.share)
        if waiting.deadline_ns < ends_ns:
            held_up.add(stream)
        elif stream not in held_up:
            batch.append(waiting)
            if len(batch) == size:
                break
    return batch


def _rank(keyed: tuple[int, float, int, Any]) -> tuple[int, float, int]:
    return keyed[:3]

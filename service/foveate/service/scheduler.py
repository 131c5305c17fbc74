"""Which waiting frames run next, and which can no longer make it. Pure: no clock, no I/O, no threads.

Every decision is a function of what has arrived, of the latency model and of the time that comes with the call,
so a recorded trace replays to the same decisions. A frame enters by `arrive` and leaves exactly once: in a
`Plan`'s batch, as a `Refusal`, or by `withdraw`.

Time of a batch of b frames planned now: it starts at ``t0 = max(now + preparing it, engine free)`` and ends at
``t0 + l(b)``; a frame fits when its deadline is at least ``t0 + l(b) + margin``.

Frames rank by (class, guarantee, virtual time, deadline): the first of all is the *leader*.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Generic, TypeVar

import numpy as np
from numpy.typing import NDArray

from foveate.service.arbiter import Beside, Bid
from foveate.service.batch_cap import StreamBudgets, batch_cap
from foveate.service.frame import Verdict
from foveate.service.prediction import LatencyModel
from foveate.service.senders import Senders
from foveate.service.waiting_room import Standing, StreamShare, Waiting, WaitingRoom

__all__ = ["Plan", "Refusal", "Scheduler", "StreamShare", "Waiting"]

F = TypeVar("F")

_LAGS_BY_SERVICES = 3
"""A leader whose stream is behind the others by more than this many services is not left out of a batch again."""
_PLANNING_SLACK_NS = 500_000
"""How long before the last moment the next batch is planned: the planning itself and the thread's wake-up."""


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

    `decoders` is how many frames are prepared side by side. `hold_ns` is how long a batch that is not full may wait
    for more frames, as far as their deadlines allow; it saves power or leaves a shared device to others, and gains
    nothing where the engine is one's own.
    """

    latency: LatencyModel
    max_batch: int
    decoders: int = 1
    hold_ns: int = 0
    _room: WaitingRoom[F] = field(default_factory=WaitingRoom)
    _budgets: StreamBudgets = field(default_factory=StreamBudgets)
    _virtual_now_ns: dict[int, float] = field(default_factory=dict)
    """By class: the least virtual time of the streams that wait; a stream that comes back starts from there."""

    _senders: Senders = field(default_factory=Senders)
    _others: Beside = field(default_factory=Beside)

    def __len__(self) -> int:
        return len(self._room)

    def weight(self, now_ns: int) -> float:
        """Of the streams that send."""
        return self._senders.weight(now_ns)

    @property
    def batch_cap(self) -> int:
        """The largest batch worth forming now."""
        return batch_cap(self.latency, self.max_batch, self._budgets.tight_ns, self._others)

    def beside(self, now_ns: int) -> Beside:
        """What this means to other lanes of the device; nothing while no frames are sent here."""
        self._budgets.forget_old(now_ns)
        if (tight_ns := self._budgets.tight_ns) is None:
            return Beside()
        return Beside(self.latency.latency_ns(self.batch_cap), tight_ns - self._needed_ns())

    def share(self, others: Beside) -> None:
        """Learn what the other lanes of the device mean to this one."""
        self._others = others

    def arrive(self, waiting: Waiting[F], now_ns: int, engine_free_ns: int) -> list[Refusal[F]]:
        """Take a frame in. The answer may refuse it, or the older frame that it replaces."""
        share, latency = waiting.share, self.latency
        latency.relax(now_ns)
        self._senders.note(share, now_ns)
        left_ns = waiting.deadline_ns - now_ns
        if left_ns >= latency.smallest_budget_ns:  # below it there is no batch size at which it could be counted on
            self._budgets.note(share, left_ns, now_ns)
        starts_ns = max(now_ns + waiting.prepare_ns, engine_free_ns)
        short_ns = starts_ns + self._needed_ns() - waiting.deadline_ns
        if short_ns > 0:
            return [Refusal(waiting.frame, Verdict.INFEASIBLE, self._too_late(waiting, short_ns, "on arrival"))]
        there = self._room.count(share)
        if there and share.queue_depth is None:
            replaced = self._room.replace(waiting, now_ns)
            return [Refusal(replaced.frame, Verdict.SUPERSEDED, "a newer frame of the stream replaced it")]
        if share.queue_depth is not None and there >= share.queue_depth:
            message = f"{there} frames of the stream wait already, its queue holds {share.queue_depth}"
            return [Refusal(waiting.frame, Verdict.REJECTED, message + ": send slower, or open it with LATEST")]
        if not there:  # idling earns no credit
            share.virtual_ns = max(share.virtual_ns, self._virtual_now_ns.get(share.priority, 0.0))
        self._room.add(waiting, now_ns)
        return []

    def plan(self, now_ns: int, engine_free_ns: int) -> Plan[F]:
        """Decide what runs next on an engine that is free from `engine_free_ns` on.

        The next batch is planned as late as it can be prepared in time, so that it holds the newest frames
        and as many of them as have come.
        """
        refused = tuple(self._drop_late(now_ns, engine_free_ns))
        if not len(self):
            return Plan((), refused)
        cap = self.batch_cap
        costs_ns = self._room.costliest_ns(cap)
        plan_at_ns = engine_free_ns - self._prepare_ns(costs_ns) - _PLANNING_SLACK_NS
        if now_ns < plan_at_ns:
            return Plan((), refused, wake_at_ns=plan_at_ns)
        standing = self._room.standing(now_ns, self._service_ns(cap))
        places = self._form(standing, self._prepared_ns(costs_ns), now_ns, engine_free_ns)
        held_until_ns = self._held_until_ns(standing, places, cap)
        if held_until_ns is not None and now_ns < held_until_ns:
            return Plan((), refused, wake_at_ns=held_until_ns)
        self._advance(standing, places)
        prepare_ns = self._prepare_ns(standing.prepare_ns[places])
        return self._start(places, refused, max(now_ns + prepare_ns, engine_free_ns), now_ns)

    def expire(self, now_ns: int, engine_free_ns: int) -> list[Refusal[F]]:
        """Take out the frames that have come to be predicted late, for when nothing can be planned."""
        return self._drop_late(now_ns, engine_free_ns)

    def next_expiry_ns(self) -> int | None:
        """When the first of the waiting frames can no longer make it, even on an idle engine; None: none waits."""
        start_by_ns = self._room.earliest_start_by_ns()
        return None if start_by_ns is None else start_by_ns - self._needed_ns()

    def bid(self, now_ns: int, engine_free_ns: int) -> Bid | None:
        """What the waiting frames ask of a device that lanes share; None: none waits."""
        tightest = self._room.tightest(now_ns, engine_free_ns)
        return None if tightest is None else Bid(tightest[0], tightest[1] - self._needed_ns())

    def withdraw(self, share: StreamShare) -> list[F]:
        """Take all frames of a stream back out: its client is gone."""
        return [waiting.frame for waiting in self._room.take(self._room.of(share))]

    def _drop_late(self, now_ns: int, engine_free_ns: int) -> list[Refusal[F]]:
        needed_ns = self._needed_ns()
        late = self._room.late(now_ns, engine_free_ns, needed_ns)
        refused = []
        for waiting in self._room.take(late) if len(late) else ():
            short_ns = max(now_ns + waiting.prepare_ns, engine_free_ns) + needed_ns - waiting.deadline_ns
            message = self._too_late(waiting, short_ns, "while it waited")
            refused.append(Refusal(waiting.frame, Verdict.EXPIRED, message))
        return refused

    def _needed_ns(self) -> int:
        """What a frame that runs alone must have left before its deadline when its run starts."""
        return self.latency.latency_ns(1) + self.latency.margin_ns

    def _service_ns(self, cap: int) -> float:
        """What one frame of a full batch is charged."""
        return self.latency.latency_ns(cap) / cap

    def _prepare_ns(self, costs_ns: NDArray[np.int64]) -> int:
        costs: list[int] = costs_ns.tolist()
        return max(max(costs), sum(costs) // self.decoders)

    def _prepared_ns(self, costs_ns: NDArray[np.int64]) -> NDArray[np.int64]:
        """How long preparing a batch takes that has the first one, two, ... of these costs, the longest first."""
        prepared_ns: NDArray[np.int64] = np.maximum(costs_ns[0], np.cumsum(costs_ns) // self.decoders)
        return prepared_ns

    def _too_late(self, waiting: Waiting[F], short_ns: int, when: str) -> str:
        return (
            f"predicted {short_ns / 1e6:.1f} ms too late {when}: decoding takes {waiting.prepare_ns / 1e6:.1f} ms, "
            f"a run {self.latency.latency_ns(1) / 1e6:.1f} ms, and {self.latency.margin_ns / 1e6:.1f} ms are kept free"
        )

    def _form(
        self, standing: Standing, prepared_ns: NDArray[np.int64], now_ns: int, engine_free_ns: int
    ) -> NDArray[np.int64]:
        """The places of the next batch: the largest that its own frames have the time for.

        It may leave out the leader, where that one's deadline calls for a smaller batch, only for frames of the
        leader's own class and guarantee, and only while the leader's stream is not far behind.
        """
        most = len(prepared_ns)
        leader = standing.first(1, np.arange(len(standing.band)))[0]
        starts_ns = np.maximum(now_ns + prepared_ns, engine_free_ns)
        fit_ns = starts_ns + self.latency.latencies_ns[:most] + self.latency.margin_ns
        in_largest = standing.fits_until_ns >= fit_ns[-1]
        if in_largest[leader] and np.count_nonzero(in_largest) >= most:  # the common case: no need to try the others
            return standing.first(most, in_largest.nonzero()[0])
        sizes = np.arange(1, most + 1)
        possible = _fitting(standing.fits_until_ns, fit_ns) >= sizes
        if not in_largest[leader]:
            with_leader = standing.fits_until_ns[leader] >= fit_ns
            peers = standing.fits_until_ns[standing.band == standing.band[leader]]
            near = self._lag_ns(standing, leader) <= _LAGS_BY_SERVICES * self.latency.latency_ns(1)
            possible &= with_leader | (near & (_fitting(peers, fit_ns) >= sizes))
        largest = int(possible.nonzero()[0].max(initial=0))
        if largest == 0:
            return np.array([leader])
        return standing.first(largest + 1, (standing.fits_until_ns >= fit_ns[largest]).nonzero()[0])

    def _lag_ns(self, standing: Standing, leader: np.int64) -> float:
        """How far the leader's stream is behind the other waiting streams of its class, in engine time.

        Measured from their mean by weight: one stream of little weight is far ahead after each of its services.
        """
        peers = (standing.priority == standing.priority[leader]) & (standing.ahead == 0)
        weight = standing.weight[peers]
        others = float(weight.sum()) - float(standing.weight[leader])
        if others <= 0:
            return 0.0
        behind_ns = float(weight @ (standing.virtual_ns[peers] - standing.virtual_ns[leader])) / others
        return behind_ns * float(standing.weight[leader])

    def _held_until_ns(self, standing: Standing, places: NDArray[np.int64], cap: int) -> int | None:
        """Until when a batch waits to be filled; None: it does not."""
        if not self.hold_ns or len(places) >= cap:
            return None
        larger_ns = self.latency.latency_ns(len(places) + 1) + self.latency.margin_ns
        prepare_ns = self._prepare_ns(standing.prepare_ns[places])
        last_start_ns = int(standing.fits_until_ns[places].min()) - larger_ns - prepare_ns
        return min(int(standing.arrived_ns[places].min()) + self.hold_ns, last_start_ns)

    def _advance(self, standing: Standing, places: NDArray[np.int64]) -> None:
        """Let virtual time go on in the classes that are served."""
        for served in set(standing.priority[places].tolist()):
            least_ns = float(standing.virtual_ns[standing.priority == served].min())
            self._virtual_now_ns[served] = max(least_ns, self._virtual_now_ns.get(served, 0.0))

    def _start(
        self, places: NDArray[np.int64], refused: tuple[Refusal[F], ...], starts_ns: int, now_ns: int
    ) -> Plan[F]:
        batch = self._room.take(places)
        latency_ns = self.latency.latency_ns(len(batch))
        cost_ns = latency_ns / len(batch)
        for waiting in batch:
            waiting.share.charge(cost_ns, now_ns)
            if waiting.share.queue_depth is not None:  # others of its stream may wait on
                self._room.charged(waiting.share)
        return Plan(tuple([waiting.frame for waiting in batch]), refused, starts_ns, starts_ns + latency_ns)


def _fitting(fits_until_ns: NDArray[np.int64], fit_ns: NDArray[np.int64]) -> NDArray[np.int64]:
    """How many frames fit, for each of the moments that their deadlines must not come before."""
    return len(fits_until_ns) - np.searchsorted(np.sort(fits_until_ns), fit_ns, side="left")

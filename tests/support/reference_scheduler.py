"""The scheduling rules once more, as plainly as they can be said: slow, and the oracle for the real scheduler.

It shares nothing with it but the latency model's numbers and the words for what comes in and what is decided.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from fractions import Fraction

from foveate.service.frame import Verdict
from foveate.service.prediction import LatencyModel

__all__ = ["ReferenceFrame", "ReferenceScheduler", "ReferenceStream"]

_SLACK_NS = 500_000
_BURST = 2
_BUDGETS_KEPT_NS = 5_000_000_000


@dataclass(eq=False)
class ReferenceStream:
    priority: int = 0
    weight: float = 1.0
    queue_depth: int | None = None
    guaranteed_fps: float = 0.0
    virtual_ns: float = 0.0
    due_ns: float = -math.inf


@dataclass(eq=False)
class ReferenceFrame:
    name: int
    stream: ReferenceStream
    deadline_ns: int
    prepare_ns: int


@dataclass
class ReferenceScheduler:
    latency: LatencyModel
    max_batch: int
    decoders: int = 1
    longest_beside_ns: int = 0
    patience_ns: int | None = None
    waiting: list[ReferenceFrame] = field(default_factory=list)
    budgets: dict[int, tuple[ReferenceStream, int, int]] = field(default_factory=dict)
    virtual_now: dict[int, float] = field(default_factory=dict)

    @property
    def cap(self) -> int:
        profile = self.latency.tracked
        sizes = range(1, min(self.max_batch, profile.buckets[-1]) + 1)
        alpha_ns, beta_ns = _line(profile.buckets, profile.median_ns)
        if alpha_ns > 0:
            sizes = range(1, min(sizes[-1], max(1, math.ceil(9 * beta_ns / alpha_ns))) + 1)
        left = sorted(left_ns for _, left_ns, _ in self.budgets.values())

        def fits(batch: int) -> bool:
            run_ns = self.latency.latency_ns(batch)
            if self.patience_ns is not None and run_ns > self.patience_ns:
                return False
            needed_ns = run_ns + max(run_ns, self.longest_beside_ns) + self.latency.margin_ns
            return not left or needed_ns <= left[int(0.1 * (len(left) - 1))]

        return max(filter(fits, sizes), default=1)

    def arrive(self, frame: ReferenceFrame, now_ns: int, free_ns: int) -> list[tuple[int, Verdict]]:
        self.latency.relax(now_ns)
        left_ns = frame.deadline_ns - now_ns
        if left_ns >= 2 * self.latency.latency_ns(1) + self.latency.margin_ns:
            self.budgets[id(frame.stream)] = (frame.stream, left_ns, now_ns)
            for key, (_, _, at_ns) in list(self.budgets.items()):
                if now_ns - at_ns > _BUDGETS_KEPT_NS:
                    del self.budgets[key]
        if self._is_late(frame, now_ns, free_ns):
            return [(frame.name, Verdict.INFEASIBLE)]
        line = self._line(frame.stream)
        if line and frame.stream.queue_depth is None:
            place = self.waiting.index(line[0])
            self.waiting[place] = frame
            return [(line[0].name, Verdict.SUPERSEDED)]
        if frame.stream.queue_depth is not None and len(line) >= frame.stream.queue_depth:
            return [(frame.name, Verdict.REJECTED)]
        if not line:
            stream = frame.stream
            stream.virtual_ns = max(stream.virtual_ns, self.virtual_now.get(stream.priority, 0.0))
        self.waiting.append(frame)
        return []

    def plan(self, now_ns: int, free_ns: int) -> tuple[list[int], list[int], int | None]:
        """The batch, the frames that expired, and when to ask again."""
        expired = [frame for frame in self.waiting if self._is_late(frame, now_ns, free_ns)]
        self.waiting = [frame for frame in self.waiting if frame not in expired]
        names = [frame.name for frame in expired]
        if not self.waiting:
            return [], names, None
        costs = sorted((frame.prepare_ns for frame in self.waiting), reverse=True)[: self.cap]
        wake_ns = free_ns - self._prepare(costs) - _SLACK_NS
        if now_ns < wake_ns:
            return [], names, wake_ns
        batch = self._form(now_ns, free_ns)
        self._serve(batch, now_ns)
        return [frame.name for frame in batch], names, None

    def withdraw(self, stream: ReferenceStream) -> list[int]:
        gone = self._line(stream)
        self.waiting = [frame for frame in self.waiting if frame not in gone]
        return [frame.name for frame in gone]

    def _line(self, stream: ReferenceStream) -> list[ReferenceFrame]:
        return [frame for frame in self.waiting if frame.stream is stream]

    def _prepare(self, costs: list[int]) -> int:
        return max(max(costs), sum(costs) // self.decoders)

    def _is_late(self, frame: ReferenceFrame, now_ns: int, free_ns: int) -> bool:
        starts_ns = max(now_ns + frame.prepare_ns, free_ns)
        return starts_ns + self.latency.latency_ns(1) + self.latency.margin_ns > frame.deadline_ns

    def _band(self, frame: ReferenceFrame, now_ns: int) -> tuple[int, bool]:
        stream = frame.stream
        if not stream.guaranteed_fps:
            return stream.priority, True
        interval_ns = 1e9 / stream.guaranteed_fps
        ahead = self._line(stream).index(frame)
        return stream.priority, stream.due_ns - _BURST * interval_ns + ahead * interval_ns > now_ns

    def _ranked(self, now_ns: int) -> list[ReferenceFrame]:
        cap = self.cap
        service_ns = self.latency.latency_ns(cap) / cap

        def key(frame: ReferenceFrame) -> tuple[tuple[int, bool], float, int]:
            line = self._line(frame.stream)
            ahead = line.index(frame)
            virtual_ns = frame.stream.virtual_ns + ahead * service_ns / frame.stream.weight
            return self._band(frame, now_ns), virtual_ns, max(each.deadline_ns for each in line[: ahead + 1])

        return sorted(self.waiting, key=key)

    def _fits(self, until_ns: int) -> Callable[[ReferenceFrame], bool]:
        def fits(frame: ReferenceFrame) -> bool:
            line = self._line(frame.stream)
            return all(each.deadline_ns >= until_ns for each in line[: line.index(frame) + 1])

        return fits

    def _form(self, now_ns: int, free_ns: int) -> list[ReferenceFrame]:
        ranked = self._ranked(now_ns)
        leader = ranked[0]
        costs = sorted((frame.prepare_ns for frame in ranked), reverse=True)
        for size in range(min(self.cap, len(ranked)), 1, -1):
            starts_ns = max(now_ns + self._prepare(costs[:size]), free_ns)
            until_ns = starts_ns + self.latency.latency_ns(size) + self.latency.margin_ns
            batch = list(filter(self._fits(until_ns), ranked))[:size]
            if len(batch) < size:
                continue
            same_band = all(self._band(frame, now_ns) == self._band(leader, now_ns) for frame in batch)
            if leader in batch or (same_band and not self._lags(leader)):
                return batch
        return [leader]

    def _lags(self, leader: ReferenceFrame) -> bool:
        streams = {id(frame.stream): frame.stream for frame in self.waiting}.values()
        others = [s for s in streams if s is not leader.stream and s.priority == leader.stream.priority]
        if not others:
            return False
        ahead = math.fsum(s.weight * (s.virtual_ns - leader.stream.virtual_ns) for s in others)
        mean_ns = ahead / math.fsum(s.weight for s in others)
        return mean_ns * leader.stream.weight > 3 * self.latency.latency_ns(1)

    def _serve(self, batch: list[ReferenceFrame], now_ns: int) -> None:
        for priority in {frame.stream.priority for frame in batch}:
            least = min(f.stream.virtual_ns for f in self.waiting if f.stream.priority == priority)
            self.virtual_now[priority] = max(least, self.virtual_now.get(priority, 0.0))
        self.waiting = [frame for frame in self.waiting if frame not in batch]
        cost_ns = self.latency.latency_ns(len(batch)) / len(batch)
        for frame in batch:
            stream = frame.stream
            stream.virtual_ns += cost_ns / stream.weight
            if stream.guaranteed_fps:
                interval_ns = 1e9 / stream.guaranteed_fps
                if now_ns >= stream.due_ns - _BURST * interval_ns:
                    stream.due_ns = max(stream.due_ns, now_ns) + interval_ns


def _line(batches: Sequence[int], latencies_ns: Sequence[int]) -> tuple[Fraction, Fraction]:
    """Slope and intercept of the line closest to the points, least squares, without rounding."""
    mean, mean_ns = Fraction(sum(batches), len(batches)), Fraction(sum(latencies_ns), len(batches))
    spread = sum((batch - mean) ** 2 for batch in batches)
    rise = sum((batch - mean) * (ns - mean_ns) for batch, ns in zip(batches, latencies_ns, strict=True))
    alpha_ns = Fraction(rise, spread)
    return alpha_ns, mean_ns - alpha_ns * mean

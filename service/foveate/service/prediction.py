"""What a batch will take: the measured profile, tracked while it runs, and the margin that its errors call for."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from itertools import accumulate

import numpy as np
from numpy.typing import NDArray

from foveate.engines.profile import LatencyProfile
from foveate.service.recent import RecentValues

__all__ = ["LatencyModel"]

_WEIGHT = 0.1
"""Of the newest run in its bucket's ratio to the profile: follows a clock change in about ten batches."""
_KNOWN_FOR_RUNS = 64
"""For how many runs a bucket stands on what it has seen itself; after that it goes along with the others."""
_MOST_RATIO = 1000.0
_MOST_GROWTH = 2
"""What is seen counts as at most so many times what was expected: one stall is not taken at its word."""
_REMEMBERED_NS = 2_000_000_000
_REMEMBERED_AT_LEAST = 32
_REMEMBERED_AT_MOST = 1024
_SMALLEST_ERROR_NS = 500_000
_LONGEST_REPLY_NS = 20_000_000
_IDLE_BEFORE_RELAXING_NS = 1_000_000_000


class LatencyModel:
    """`l(b)`, the batch fit, and the margin before a deadline. No clock: the time comes with each call.

    Each bucket of the profile has its own ratio of what runs take now to what was measured, so that a batch size
    that got slower does not speak for the others. A bucket that has not run lately goes along with those that have:
    a device that changes its clock slows them all, and only some of them run.
    """

    def __init__(self, profile: LatencyProfile) -> None:
        self._profile = profile
        self._ratios = [1.0] * len(profile.buckets)
        self._runs = 0
        self._seen_at: list[int | None] = [None] * len(profile.buckets)
        self._table = _Table(profile.buckets)
        self._tracked: LatencyProfile | None = None
        self._fill_cap: int | None = None
        self._measured = [index for index, measured in enumerate(profile.measured) if measured]
        self._errors = RecentValues(_REMEMBERED_NS, _REMEMBERED_AT_LEAST, _REMEMBERED_AT_MOST)
        self._replies = RecentValues(_REMEMBERED_NS, _REMEMBERED_AT_LEAST, _REMEMBERED_AT_MOST)
        self._last_run_ns: int | None = None
        self._error_ns = _SMALLEST_ERROR_NS
        self._reply_ns = 0
        self._margin_ns = _SMALLEST_ERROR_NS
        self._track()

    @property
    def profile(self) -> LatencyProfile:
        """The profile as it was measured, before any tracking."""
        return self._profile

    @property
    def tracked(self) -> LatencyProfile:
        """The profile as the engine's runs have it now; never falling as the batch grows."""
        if self._tracked is None:
            p99_ns = tuple(round(ns * ratio) for ns, ratio in zip(self._profile.p99_ns, self._ratios, strict=True))
            self._tracked = LatencyProfile(self._profile.buckets, self._medians_ns, p99_ns, self._profile.measured)
        return self._tracked

    def latency_ns(self, batch: int) -> int:
        """`l(b)`: the predicted time of one run of this batch, as tracked now."""
        by_batch_ns = self._by_batch_ns
        return by_batch_ns[batch - 1] if 0 < batch <= len(by_batch_ns) else self.tracked.latency_ns(batch)

    def largest_within(self, time_ns: int) -> int:
        """The largest batch of the profile that is predicted to take no longer; 0: none does."""
        return bisect_right(self._by_batch_ns, time_ns)

    @property
    def latencies_ns(self) -> NDArray[np.int64]:
        """`l(1)` to `l(b)` of the profile's largest bucket b, as tracked now. Shapes: (b,); not to be written to."""
        return self._latencies_ns

    @property
    def margin_ns(self) -> int:
        """What is kept free before each deadline: the error of the prediction, and the way of the answer out.

        Source: max(0.5 ms, p99.9 of the prediction error) + p99 of post-processing and sending, over the last two
        seconds or 32 runs. With each run either term grows to at most twice what it was (and 1 ms), so that a stall
        of the machine is taken for what the engine does only if it comes again; the error term is held to one l(1)
        and the other to 20 ms.
        """
        return self._margin_ns

    @property
    def reply_ns(self) -> int:
        """The part of the margin that the answer's way out needs, however well the run was predicted."""
        return self._reply_ns

    @property
    def smallest_budget_ns(self) -> int:
        """The least budget that a frame arriving just after a batch has started can be answered within."""
        return 2 * self.latency_ns(1) + self.margin_ns

    @property
    def fill_cap(self) -> int:
        """The batch beyond which filling gains little: at 9 beta / alpha, 90 % of the engine's best rate."""
        if self._fill_cap is None:
            points = [(self._profile.buckets[index], self._medians_ns[index]) for index in self._measured]
            self._fill_cap = _fill_cap(points)
        return self._fill_cap

    def observe_run(self, batch: int, took_ns: int, now_ns: int) -> None:
        """Learn from a finished run of `batch` frames."""
        expected_ns = self.latency_ns(batch)
        self._errors.add(min(took_ns - expected_ns, _MOST_GROWTH * self._error_ns), now_ns)
        self._runs += 1
        ratio = min(took_ns, _MOST_GROWTH * expected_ns) / max(1, self._profile.latency_ns(batch))
        self._follow(batch, min(max(ratio, 1 / _MOST_RATIO), _MOST_RATIO))
        self._track()
        self._last_run_ns = now_ns
        self._set_margin()

    def observe_reply(self, took_ns: int) -> None:
        """Learn how long an answer took from the end of its run until gRPC had it."""
        most_ns = _MOST_GROWTH * max(self._reply_ns, _SMALLEST_ERROR_NS)
        self._replies.add(min(took_ns, most_ns), self._last_run_ns or 0)

    def relax(self, now_ns: int) -> None:
        """Forget a slow spell by halves while nothing runs.

        Without it, an engine that was slow once could be refused every frame for ever, since only a run can
        show that it is fast again.
        """
        if self._last_run_ns is None or now_ns - self._last_run_ns < _IDLE_BEFORE_RELAXING_NS:
            return
        self._last_run_ns = now_ns
        self._ratios = [1.0 + (ratio - 1.0) / 2 for ratio in self._ratios]
        self._track()
        for learned in (self._errors, self._replies):
            learned.forget_half()
        self._set_margin()

    def _follow(self, batch: int, sample: float) -> None:
        """Move the buckets around a batch towards its ratio, and with them those that have not run lately."""
        around = dict(_shares(self._profile.buckets, batch))
        moved = 1.0
        for index, share in around.items():
            ratio = self._ratios[index]
            step = _WEIGHT * share / sum(each * each for each in around.values())
            self._ratios[index] = ratio + step * (sample - ratio)
            moved += share * (self._ratios[index] / ratio - 1.0)
            self._seen_at[index] = self._runs
        for index, seen_at in enumerate(self._seen_at):
            if index not in around and (seen_at is None or self._runs - seen_at > _KNOWN_FOR_RUNS):
                self._ratios[index] *= moved

    def _track(self) -> None:
        """Bring up to date what is asked for with each decision; the rest is worked out when it is asked for."""
        medians = (round(ns * ratio) for ns, ratio in zip(self._profile.median_ns, self._ratios, strict=True))
        self._medians_ns = tuple(accumulate(medians, max))
        self._latencies_ns = self._table.latencies_ns(self._medians_ns)
        self._by_batch_ns: list[int] = self._latencies_ns.tolist()
        self._tracked = None
        self._fill_cap = None

    def _set_margin(self) -> None:
        self._error_ns = max(_SMALLEST_ERROR_NS, min(self._errors.quantile(0.999), self.latency_ns(1)))
        self._reply_ns = min(self._replies.quantile(0.99), _LONGEST_REPLY_NS)
        self._margin_ns = self._error_ns + self._reply_ns


class _Table:
    """Where each batch up to the largest bucket lies between buckets."""

    def __init__(self, buckets: Sequence[int]) -> None:
        ends, batches = np.array(buckets), np.arange(1, buckets[-1] + 1)
        self._above = np.searchsorted(ends, batches)
        self._below = np.maximum(self._above - 1, 0)
        first = self._above == 0
        self._into = np.where(first, 0, batches - ends[self._below])
        self._span = np.where(first, 1, ends[self._above] - ends[self._below])

    def latencies_ns(self, medians_ns: Sequence[int]) -> NDArray[np.int64]:
        """The latency of every batch, as `LatencyProfile.latency_ns` has it."""
        ends_ns = np.array(medians_ns)
        below_ns: NDArray[np.int64] = ends_ns[self._below]
        return below_ns + (ends_ns[self._above] - below_ns) * self._into // self._span


def _fill_cap(points: Sequence[tuple[int, int]]) -> int:
    """ceil(9 beta / alpha) of the line closest to (batch, latency), least squares; in whole numbers, so exact."""
    count = len(points)
    batches, latencies_ns = sum(batch for batch, _ in points), sum(ns for _, ns in points)
    rise = count * sum(batch * ns for batch, ns in points) - batches * latencies_ns
    spread = count * sum(batch * batch for batch, _ in points) - batches * batches
    if not spread:
        return 1
    return max(1, -(-9 * (latencies_ns * spread - rise * batches) // (count * rise))) if rise > 0 else 1 << 30


def _shares(buckets: Sequence[int], batch: int) -> list[tuple[int, float]]:
    """The buckets between which a batch lies, by index, each with its share in the batch's latency."""
    above = min(bisect_left(buckets, batch), len(buckets) - 1)
    if above == 0 or batch >= buckets[above]:
        return [(above, 1.0)]
    share = (batch - buckets[above - 1]) / (buckets[above] - buckets[above - 1])
    return [(above - 1, 1.0 - share), (above, share)]

"""What a batch will take: the measured profile, tracked while it runs, and the margin that its errors call for."""

from __future__ import annotations

import math
from bisect import bisect_left
from collections import deque
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from foveate.engines.profile import LatencyProfile

__all__ = ["LatencyModel"]

_WEIGHT = 0.1
"""Of the newest run in its bucket's ratio to the profile: follows a clock change in about ten batches."""
_KNOWN_FOR_RUNS = 64
"""For how many runs a bucket stands on what it has seen itself; after that it goes along with the others."""
_MOST_RATIO = 1000.0
_RUN_WINDOW = 256
_REPLY_WINDOW = 256
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
        self._tracked = profile
        self._latencies_ns = _table_ns(profile)
        self._fill_cap = _fill_cap(profile)
        self._errors: deque[int] = deque(maxlen=_RUN_WINDOW)
        self._replies: deque[int] = deque(maxlen=_REPLY_WINDOW)
        self._last_run_ns: int | None = None
        self._reply_ns = 0
        self._margin_ns = _SMALLEST_ERROR_NS

    @property
    def profile(self) -> LatencyProfile:
        """The profile as it was measured, before any tracking."""
        return self._profile

    @property
    def tracked(self) -> LatencyProfile:
        """The profile as the engine's runs have it now; never falling as the batch grows."""
        return self._tracked

    def latency_ns(self, batch: int) -> int:
        """`l(b)`: the predicted time of one run of this batch, as tracked now."""
        return self._tracked.latency_ns(batch)

    @property
    def latencies_ns(self) -> NDArray[np.int64]:
        """`l(1)` to `l(b)` of the profile's largest bucket b, as tracked now. Shapes: (b,); not to be written to."""
        return self._latencies_ns

    @property
    def margin_ns(self) -> int:
        """What is kept free before each deadline: the error of the prediction, and the way of the answer out.

        Source: max(0.5 ms, p99.9 of the prediction error) + p99 of post-processing and sending. The error term
        is held to one l(1) and the other to 20 ms, so that one stall of the machine cannot make every later
        frame infeasible.
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
        return self._fill_cap

    def observe_run(self, batch: int, took_ns: int, now_ns: int) -> None:
        """Learn from a finished run of `batch` frames."""
        self._errors.append(took_ns - self.latency_ns(batch))
        self._runs += 1
        ratio = took_ns / max(1, self._profile.latency_ns(batch))
        self._follow(batch, min(max(ratio, 1 / _MOST_RATIO), _MOST_RATIO))
        self._track()
        self._last_run_ns = now_ns
        self._set_margin()

    def observe_reply(self, took_ns: int) -> None:
        """Learn how long an answer took from the end of its run until gRPC had it."""
        self._replies.append(took_ns)

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
            for _ in range(math.ceil(len(learned) / 2)):
                learned.popleft()
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
        profile = self._profile
        median_ns, p99_ns = (
            tuple(round(ns * ratio) for ns, ratio in zip(column, self._ratios, strict=True))
            for column in (profile.median_ns, profile.p99_ns)
        )
        self._tracked = LatencyProfile(profile.buckets, median_ns, p99_ns, profile.measured)
        self._latencies_ns = _table_ns(self._tracked)
        self._fill_cap = _fill_cap(self._tracked)

    def _set_margin(self) -> None:
        error = min(_quantile(self._errors, 0.999), self.latency_ns(1))
        self._reply_ns = min(_quantile(self._replies, 0.99), _LONGEST_REPLY_NS)
        self._margin_ns = max(_SMALLEST_ERROR_NS, error) + self._reply_ns


def _table_ns(profile: LatencyProfile) -> NDArray[np.int64]:
    """The latency of every batch up to the largest bucket, as `LatencyProfile.latency_ns` has it."""
    buckets, median_ns = np.array(profile.buckets), np.array(profile.median_ns)
    batches = np.arange(1, profile.buckets[-1] + 1)
    above = np.searchsorted(buckets, batches)
    below = np.maximum(above - 1, 0)
    span = np.maximum(buckets[above] - buckets[below], 1)
    rise_ns = (median_ns[above] - median_ns[below]) * (batches - buckets[below]) // span
    return median_ns[below] + np.where(above > 0, rise_ns, 0)


def _fill_cap(profile: LatencyProfile) -> int:
    alpha, beta = profile.alpha_ns, profile.beta_ns
    return max(1, math.ceil(9 * beta / alpha)) if alpha > 0 else 1 << 30


def _shares(buckets: Sequence[int], batch: int) -> list[tuple[int, float]]:
    """The buckets between which a batch lies, by index, each with its share in the batch's latency."""
    above = min(bisect_left(buckets, batch), len(buckets) - 1)
    if above == 0 or batch >= buckets[above]:
        return [(above, 1.0)]
    share = (batch - buckets[above - 1]) / (buckets[above] - buckets[above - 1])
    return [(above - 1, 1.0 - share), (above, share)]


def _quantile(values: deque[int], share: float) -> int:
    """The smallest value that at least `share` of the values do not exceed; 0 of none."""
    if not values:
        return 0
    return sorted(values)[math.ceil(share * len(values)) - 1]

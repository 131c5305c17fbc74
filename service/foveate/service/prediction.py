"""What a batch will take: the measured profile, tracked while it runs, and the margin that its errors call for."""

from __future__ import annotations

import math
from collections import deque

from foveate.engines.profile import LatencyProfile

__all__ = ["LatencyModel"]

_WEIGHT = 0.1
"""Of the newest run in the tracked ratio to the profile: follows a clock change in about ten batches."""
_RUN_WINDOW = 256
_REPLY_WINDOW = 256
_SMALLEST_ERROR_NS = 500_000
_LONGEST_REPLY_NS = 20_000_000
_IDLE_BEFORE_RELAXING_NS = 1_000_000_000


class LatencyModel:
    """`l(b)`, the batch fit, and the margin before a deadline. No clock: the time comes with each call."""

    def __init__(self, profile: LatencyProfile) -> None:
        self._profile = profile
        self._ratio = 1.0
        self._errors: deque[int] = deque(maxlen=_RUN_WINDOW)
        self._replies: deque[int] = deque(maxlen=_REPLY_WINDOW)
        self._last_run_ns: int | None = None
        self._reply_ns = 0
        self._margin_ns = _SMALLEST_ERROR_NS

    @property
    def profile(self) -> LatencyProfile:
        """The profile as it was measured, before any tracking."""
        return self._profile

    def latency_ns(self, batch: int) -> int:
        """`l(b)`: the predicted time of one run of this batch, as tracked now."""
        return int(self._profile.latency_ns(batch) * self._ratio)

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
        alpha, beta = self._profile.alpha_ns, self._profile.beta_ns
        return max(1, math.ceil(9 * beta / alpha)) if alpha > 0 else 1 << 30

    def observe_run(self, batch: int, took_ns: int, now_ns: int) -> None:
        """Learn from a finished run of `batch` frames."""
        self._errors.append(took_ns - self.latency_ns(batch))
        ratio = took_ns / max(1, self._profile.latency_ns(batch))
        self._ratio += _WEIGHT * (ratio - self._ratio)
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
        self._ratio = 1.0 + (self._ratio - 1.0) / 2
        for learned in (self._errors, self._replies):
            for _ in range(math.ceil(len(learned) / 2)):
                learned.popleft()
        self._set_margin()

    def _set_margin(self) -> None:
        error = min(_quantile(self._errors, 0.999), self.latency_ns(1))
        self._reply_ns = min(_quantile(self._replies, 0.99), _LONGEST_REPLY_NS)
        self._margin_ns = max(_SMALLEST_ERROR_NS, error) + self._reply_ns


def _quantile(values: deque[int], share: float) -> int:
    """The smallest value that at least `share` of the values do not exceed; 0 of none."""
    if not values:
        return 0
    return sorted(values)[math.ceil(share * len(values)) - 1]

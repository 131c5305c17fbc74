"""The largest batch worth forming: what fills the engine, and what the tightest budgets leave time for."""

from __future__ import annotations

from bisect import bisect_left, insort
from collections import OrderedDict

from foveate.service.arbiter import Beside
from foveate.service.prediction import LatencyModel
from foveate.service.waiting_room import StreamShare

__all__ = ["StreamBudgets", "batch_cap"]

_TIGHT_SHARE = 0.1
_REMEMBERED_NS = 5_000_000_000
_MOST_STREAMS = 4096
_ALONE = Beside()


class StreamBudgets:
    """What is left of the budget of each stream's newest frame on arrival, for streams that send.

    A stream counts once however much it sends, so that one which floods the service with tight frames has no more
    say than any other.
    """

    def __init__(self) -> None:
        self._by_stream: OrderedDict[StreamShare, tuple[int, int]] = OrderedDict()
        self._ranked: list[int] = []

    def __len__(self) -> int:
        return len(self._ranked)

    def note(self, share: StreamShare, left_ns: int, now_ns: int) -> None:
        """A frame of a stream has arrived with so much left of its budget."""
        if share in self._by_stream:
            self._forget(share)
        self._by_stream[share] = (left_ns, now_ns)
        insort(self._ranked, left_ns)
        self.forget_old(now_ns)
        if len(self) > _MOST_STREAMS:
            self._forget(next(iter(self._by_stream)))

    def forget_old(self, now_ns: int) -> None:
        """Let go of streams that have not sent for five seconds."""
        while self._by_stream:
            oldest = next(iter(self._by_stream))
            if now_ns - self._by_stream[oldest][1] <= _REMEMBERED_NS:
                return
            self._forget(oldest)

    @property
    def tight_ns(self) -> int | None:
        """The tightest tenth of the streams has at most this; None while no stream is known."""
        return self._ranked[int(_TIGHT_SHARE * (len(self) - 1))] if self._ranked else None

    def _forget(self, share: StreamShare) -> None:
        left_ns, _ = self._by_stream.pop(share)
        del self._ranked[bisect_left(self._ranked, left_ns)]


def batch_cap(latency: LatencyModel, max_batch: int, tight_ns: int | None, beside: Beside = _ALONE) -> int:
    """The largest batch worth forming where the tightest budgets have `tight_ns` left when they arrive.

    Source: min(engine max, ceil(9 beta / alpha), the largest b with 2 l(b) + margin within the tight budgets). Without
    the second term an uncapped batch starves tight budgets; the third lets a frame that arrives just after a batch
    has started wait for its end and run in the next. On a shared device the batch that has just started may be another
    lane's: that one's longest run is waited for in place of the own, and no run here may be longer than what the
    tightest streams of the others can wait for.
    """
    cap = min(max_batch, latency.fill_cap, len(latency.latencies_ns))
    if beside.patience_ns is not None:
        cap = min(cap, latency.largest_within(beside.patience_ns))
    if tight_ns is not None:
        left_ns = tight_ns - latency.margin_ns
        cap = min(cap, latency.largest_within(min(left_ns // 2, left_ns - beside.longest_run_ns)))
    return max(1, cap)

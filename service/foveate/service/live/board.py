"""How the service stands, as a page shows it: rates out of counts, stages out of frames, headroom out of profiles.

No clock and no I/O: the time comes with each call. It remembers some seconds of counts, and for a while those streams
that have gone, since one that has just failed is what an eye on the page looks for.
"""

from __future__ import annotations

import math
from collections import defaultdict, deque
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from statistics import median
from typing import Any

import numpy as np

from foveate.service.boundary import LaneStatus
from foveate.service.frame import Verdict
from foveate.service.ledger import Ledger
from foveate.service.live.picture import STAGES, AnsweredFrame
from foveate.service.pipeline import PipelineSet, Unavailable
from foveate.service.whole_service import ServiceStatus, StreamStatus

__all__ = ["QUIET_AFTER_NS", "Board"]

_RATE_WINDOW_NS = 3_000_000_000
QUIET_AFTER_NS = 5_000_000_000
_GONE_FOR_NS = 60_000_000_000
_MOST_GONE = 64
"""However many streams come and go, a page is told of the last ones alone."""
_STRIP = 60
"""Frames of a stream whose fate is shown one by one."""
_TIMED = 30
"""Frames answered OK that the shown stage times are the medians of."""
_S = 1_000_000_000
_MS = 1_000_000
_VERDICTS = [verdict.value for verdict in Verdict]


@dataclass(frozen=True, slots=True)
class _Counts:
    at_ns: int
    received: int
    ok: int


class _Rates:
    """Frames per second received and answered OK, over the last seconds."""

    def __init__(self) -> None:
        self._seen: deque[_Counts] = deque()
        self.changed_ns = 0
        """When something was last received."""

    def count(self, ledger: Ledger, now_ns: int) -> None:
        if not self._seen or self._seen[-1].received != ledger.received:
            self.changed_ns = now_ns
        if self._seen and ledger.received < self._seen[-1].received:  # its process has died, and its counts with it
            self._seen.clear()
        self._seen.append(_Counts(now_ns, ledger.received, ledger.ok))
        while len(self._seen) > 2 and now_ns - self._seen[1].at_ns >= _RATE_WINDOW_NS:
            self._seen.popleft()

    @property
    def fps(self) -> tuple[float | None, float | None]:
        """None: there is too little to tell."""
        first, last = self._seen[0], self._seen[-1]
        took_s = (last.at_ns - first.at_ns) / _S
        if not took_s:
            return None, None
        return round((last.received - first.received) / took_s, 1), round((last.ok - first.ok) / took_s, 1)


@dataclass(eq=False)
class _Shown:
    """A stream, open or gone."""

    status: StreamStatus
    rates: _Rates = field(default_factory=_Rates)
    gone_ns: int | None = None
    timed: deque[AnsweredFrame] = field(default_factory=lambda: deque(maxlen=_TIMED))
    strip: deque[AnsweredFrame] = field(default_factory=lambda: deque(maxlen=_STRIP))


class Board:
    """What a page shows beside the pictures. Belongs to one thread."""

    def __init__(self) -> None:
        self._streams: dict[str, _Shown] = {}
        self._all = _Rates()
        self._inferred: dict[tuple[str, str], deque[tuple[int, int]]] = defaultdict(deque)

    def add_answers(self, stream_id: str, frames: Collection[AnsweredFrame]) -> None:
        """Frames of a stream have been answered."""
        if shown := self._streams.get(stream_id):
            shown.strip.extend(frames)
            shown.timed.extend(frame for frame in frames if frame.verdict == Verdict.OK.value)

    def snapshot(self, status: ServiceStatus, pipelines: PipelineSet | None, now_ns: int) -> dict[str, Any]:
        """All of it as JSON has it, from the status as it is now. Units: in the names."""
        self._all.count(status.ledger, now_ns)
        self._enter(status.streams, now_ns)
        received_fps, ok_fps = self._all.fps
        return {
            "stages": STAGES,
            "totals": _counts(status.ledger) | {"received_fps": received_fps, "ok_fps": ok_fps},
            "streams": [_stream(shown, now_ns) for shown in self._streams.values()],
            "engines": self._engines(status, now_ns),
            "unserved": [
                {"name": pipeline.name, "model": pipeline.model, "reason": pipeline.reason}
                for pipeline in (pipelines.all.values() if pipelines else ())
                if isinstance(pipeline, Unavailable)
            ],
        }

    def _enter(self, streams: Iterable[StreamStatus], now_ns: int) -> None:
        open_now = {stream.stream_id: stream for stream in streams}
        for stream_id, stream in open_now.items():
            shown = self._streams.setdefault(stream_id, _Shown(stream))
            shown.status, shown.gone_ns = stream, None
            shown.rates.count(stream.ledger, now_ns)
        gone: list[tuple[int, str]] = []
        for stream_id, shown in self._streams.items():
            if stream_id not in open_now:
                shown.gone_ns = shown.gone_ns or now_ns
                gone.append((shown.gone_ns, stream_id))
        gone.sort(reverse=True)
        for number, (gone_ns, stream_id) in enumerate(gone):
            if number >= _MOST_GONE or now_ns - gone_ns > _GONE_FOR_NS:
                del self._streams[stream_id]

    def _engines(self, status: ServiceStatus, now_ns: int) -> list[dict[str, Any]]:
        loads: dict[str, float] = defaultdict(float)
        rates = [self._inferred_fps(lane, now_ns) for lane in status.lanes]
        for lane, fps in zip(status.lanes, rates, strict=True):
            loads[lane.engine.device] += (fps or 0.0) * _frame_s(lane)
        return [
            self._engine(lane, fps, loads[lane.engine.device], status.lanes)
            for lane, fps in zip(status.lanes, rates, strict=True)
        ]

    def _engine(self, lane: LaneStatus, fps: float | None, load: float, lanes: Sequence[LaneStatus]) -> dict[str, Any]:
        """`load` is its device's, over all lanes: what they run would take so much of it if all batches were full."""
        free_fps = max(0.0, 1.0 - load) / _frame_s(lane)
        asked = [
            shown.rates.fps[0] or 0.0
            for shown in self._streams.values()
            if shown.gone_ns is None and shown.status.pipeline == lane.pipeline
        ]
        replicas = sum(other.pipeline == lane.pipeline for other in lanes)
        mean_fps = sum(asked) / len(asked) if asked else 0.0
        return {
            "pipeline": lane.pipeline,
            "name": lane.engine.name,
            "backend": lane.engine.backend,
            "precision": lane.engine.precision,
            "device": lane.engine.device,
            "busy": round(lane.busy_share, 3),
            "load": round((fps or 0.0) * _frame_s(lane), 3),
            "device_load": round(load, 3),
            "fps": None if fps is None else round(fps, 1),
            "most_fps": round(1.0 / _frame_s(lane), 1),
            "free_fps": round(free_fps, 1),
            "more_streams": math.floor(free_fps / mean_fps) if mean_fps else None,
            "mean_stream_fps": round(mean_fps, 1),
            "streams": len(asked),
            "shared_by": replicas,
            "one_ms": round(_latency_ns(lane, 1) / _MS, 2),
            "batch_cap": lane.batch_cap,
            "batch_cap_ms": round(_latency_ns(lane, lane.batch_cap) / _MS, 2),
            "margin_ms": round(lane.margin_ns / _MS, 2),
            "waiting": lane.waiting,
        }

    def _inferred_fps(self, lane: LaneStatus, now_ns: int) -> float | None:
        seen = self._inferred[lane.pipeline, lane.engine.device]
        if seen and lane.frames < seen[-1][1]:  # its process has died, and counts anew
            seen.clear()
        seen.append((now_ns, lane.frames))
        while len(seen) > 2 and now_ns - seen[1][0] >= _RATE_WINDOW_NS:
            seen.popleft()
        took_s = (now_ns - seen[0][0]) / _S
        return (lane.frames - seen[0][1]) / took_s if took_s else None


def _stream(shown: _Shown, now_ns: int) -> dict[str, Any]:
    status, quiet_ns = shown.status, now_ns - shown.rates.changed_ns
    received_fps, ok_fps = shown.rates.fps
    advised_fps = status.advised_fps
    return {
        "id": status.stream_id,
        "pipeline": status.pipeline,
        "grant": status.grant.value,
        "priority": status.priority,
        "budget_ms": status.budget_ns / _MS,
        "advised_fps": round(advised_fps, 1) if math.isfinite(advised_fps) else None,
        "open_s": round(status.open_s, 1),
        "gone_s": None if shown.gone_ns is None else round((now_ns - shown.gone_ns) / _S, 1),
        "quiet_s": round(quiet_ns / _S, 1) if quiet_ns >= QUIET_AFTER_NS else None,
        "received_fps": received_fps,
        "ok_fps": ok_fps,
        "counts": _counts(status.ledger),
        **_times(shown.timed),
        "strip": [_mark(frame, status.budget_ns) for frame in shown.strip],
    }


def _times(frames: deque[AnsweredFrame]) -> Mapping[str, Any]:
    """Medians stage by stage, so they need not add up to the total's."""
    if not frames:
        return {"stage_ms": None, "total_ms": None, "slowest_ms": None}
    stages = zip(*(frame.stages_us for frame in frames), strict=True)
    totals = [frame.total_us for frame in frames]
    return {
        "stage_ms": [round(median(stage) / 1e3, 2) for stage in stages],
        "total_ms": round(median(totals) / 1e3, 2),
        "slowest_ms": round(max(totals) / 1e3, 2),
    }


def _mark(frame: AnsweredFrame, budget_ns: int) -> list[float]:
    """A frame in the strip: the number of its verdict, and the share of the budget that it took."""
    share = min(frame.total_us * 1e3 / budget_ns, 9.99) if budget_ns else 0.0
    return [_VERDICTS.index(frame.verdict), round(share, 3)]


def _counts(ledger: Ledger) -> dict[str, Any]:
    counts: dict[str, Any] = {name: getattr(ledger, name) for name in ("received", *_VERDICTS, "late", "cancelled")}
    return counts | {"in_flight": max(0, ledger.in_flight)}


def _latency_ns(lane: LaneStatus, batch: int) -> float:
    batches, latencies = zip(*lane.profile, strict=True)
    return float(np.interp(batch, batches, latencies))


def _frame_s(lane: LaneStatus) -> float:
    """What a frame takes of the engine in the largest batch that is formed now."""
    return max(_latency_ns(lane, lane.batch_cap) / lane.batch_cap / _S, 1e-9)

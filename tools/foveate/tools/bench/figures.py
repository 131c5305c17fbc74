"""What a load's outcomes come to: goodput, lateness, latency, fairness."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from foveate.client import Verdict
from foveate.client.schedule import Outcome
from foveate.tools.bench.load import StreamLog
from foveate.tools.provenance import spread
from foveate.tools.simulation.metrics import jain

__all__ = ["LoadFigures", "StreamFigures", "fair_shares", "figures", "on_time"]


@dataclass(frozen=True, slots=True)
class StreamFigures:
    """One stream, in frames per second over the load's duration."""

    name: str
    offered_fps: float
    on_time_fps: float
    weight: float
    priority: int
    abusive: bool
    grant: str


@dataclass(frozen=True, slots=True)
class LoadFigures:
    """One load. On time: answered OK, and here, within the budget after the moment at which the frame was due."""

    seconds: float
    streams: int
    refused_streams: int
    frames: int
    offered_fps: float
    on_time_fps: float
    """The goodput."""
    on_time_share: float
    """Of all frames; 0..1."""
    late_share_of_ok: float
    """Answered OK by the server after the deadline, by its own clock; 0..1."""
    late_here_share_of_ok: float
    """Of those answered OK, that which came here after the deadline; holds both ways over the network."""
    verdicts: dict[str, int]
    latency_ms: dict[str, float]
    """From due to answered, over those answered OK."""
    added_ms: dict[str, float]
    """What the server's time holds beside decoding and the engine's run, over those answered OK."""
    send_error_ms: dict[str, float]
    """By how much this tool sent late."""
    mean_batch: float
    jain: float
    """Jain's index of what well-behaved streams got of their fair shares."""
    worst_share: float
    """The least that a well-behaved stream got of its fair share."""
    on_time_share_by_class: dict[int, float]
    on_time_fps_by_weight: dict[float, float]
    """Of a well-behaved stream of that weight, on the average."""
    per_stream: tuple[StreamFigures, ...]

    def to_json(self) -> dict[str, Any]:
        """All but the single streams, rounded, as values for JSON."""
        names = [name for name in self.__slots__ if name != "per_stream"]
        return {name: _rounded(getattr(self, name)) for name in names}


def figures(logs: Sequence[StreamLog], seconds: float) -> LoadFigures:
    """The figures of a load that was offered for that many seconds."""
    outcomes = [outcome for log in logs for outcome in log.outcomes]
    ok = [outcome for outcome in outcomes if outcome.verdict is Verdict.OK]
    good = sum(map(on_time, outcomes))
    streams = tuple(_stream_figures(log, seconds) for log in logs)
    shares = _received_shares(streams)
    return LoadFigures(
        seconds=seconds,
        streams=len(logs),
        refused_streams=sum(log.info is None for log in logs),
        frames=len(outcomes),
        offered_fps=len(outcomes) / seconds,
        on_time_fps=good / seconds,
        on_time_share=_share(good, len(outcomes)),
        late_share_of_ok=_share(sum(map(_late_at_server, ok)), len(ok)),
        late_here_share_of_ok=_share(len(ok) - good, len(ok)),
        verdicts=dict(Counter(outcome.verdict.value for outcome in outcomes).most_common()),
        latency_ms=spread([(outcome.answered_at - outcome.due_at) * 1e3 for outcome in ok]),
        added_ms=spread([outcome.total_ms - outcome.infer_ms - outcome.decode_ms for outcome in ok]),
        send_error_ms=spread([(o.sent_at - o.due_at) * 1e3 for o in outcomes if o.sent_at]),
        mean_batch=_share(sum(outcome.batch_size for outcome in ok), len(ok)),
        jain=jain(shares),
        worst_share=min(shares, default=1.0),
        on_time_share_by_class=_share_by_class(logs),
        on_time_fps_by_weight=_fps_by_weight(streams),
        per_stream=streams,
    )


def on_time(outcome: Outcome) -> bool:
    """Whether the answer came here within the budget after the moment at which its frame was due."""
    return outcome.verdict is Verdict.OK and (outcome.answered_at - outcome.due_at) * 1e3 <= outcome.budget_ms


def fair_shares(wanted: Sequence[float], weights: Sequence[float], capacity: float) -> list[float]:
    """The weighted max-min fair division of a capacity: what one does not want goes to the others."""
    given = [0.0] * len(wanted)
    left, weight_left = capacity, sum(weights)
    for number in sorted(range(len(wanted)), key=lambda n: wanted[n] / weights[n]):
        given[number] = min(wanted[number], left * weights[number] / weight_left)
        left -= given[number]
        weight_left -= weights[number]
    return given


def _received_shares(streams: Sequence[StreamFigures]) -> list[float]:
    """What each well-behaved stream got of its fair share of all that was on time.

    A stream is owed no more than it sent. Higher classes, and in one those whose rate is guaranteed, are owed theirs
    first, so each such group is divided by itself.
    """
    shares: list[float] = []
    for group in {(stream.priority, stream.grant) for stream in streams}:
        peers = [stream for stream in streams if (stream.priority, stream.grant) == group]
        capacity = sum(stream.on_time_fps for stream in peers)
        fair = fair_shares([each.offered_fps for each in peers], [each.weight for each in peers], capacity)
        shares += [
            stream.on_time_fps / owed
            for stream, owed in zip(peers, fair, strict=True)
            if owed > 0 and not stream.abusive
        ]
    return shares


def _stream_figures(log: StreamLog, seconds: float) -> StreamFigures:
    good = sum(map(on_time, log.outcomes))
    return StreamFigures(
        name=log.plan.name,
        offered_fps=len(log.outcomes) / seconds,
        on_time_fps=good / seconds,
        weight=log.plan.settings.get("weight", 1.0),
        priority=log.plan.settings.get("priority", 0),
        abusive=log.plan.abusive,
        grant=log.info.grant.value if log.info else "refused",
    )


def _late_at_server(outcome: Outcome) -> bool:
    age_ms = max(0.0, outcome.sent_at - outcome.due_at) * 1e3
    return age_ms + outcome.total_ms > outcome.budget_ms


def _share_by_class(logs: Iterable[StreamLog]) -> dict[int, float]:
    counted: dict[int, list[bool]] = {}
    for log in logs:
        counted.setdefault(log.plan.settings.get("priority", 0), []).extend(map(on_time, log.outcomes))
    return {priority: _share(sum(made), len(made)) for priority, made in sorted(counted.items())}


def _fps_by_weight(streams: Sequence[StreamFigures]) -> dict[float, float]:
    rates: dict[float, list[float]] = {}
    for stream in streams:
        if not stream.abusive:
            rates.setdefault(stream.weight, []).append(stream.on_time_fps)
    return {weight: sum(each) / len(each) for weight, each in sorted(rates.items())}


def _share(part: float, whole: float) -> float:
    return part / whole if whole else 0.0


def _rounded(value: Any) -> Any:
    if isinstance(value, float):
        return round(value, 5)
    if isinstance(value, dict):
        return {key: _rounded(each) for key, each in value.items()}
    return value

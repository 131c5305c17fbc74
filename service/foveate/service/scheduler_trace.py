"""A scheduler's life as JSON lines: record what it was told and what it decided, and replay it to the same decisions.

The first line is the head: the latency profile and the scheduler's settings. Every other line is one event, with the
decision it led to. Times are nanoseconds of the recorded clock; streams and frames are numbered as they first come.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from foveate.engines.profile import LatencyProfile
from foveate.service.arbiter import Beside
from foveate.service.prediction import LatencyModel
from foveate.service.scheduler import Plan, Refusal, Scheduler, StreamShare, Waiting

__all__ = ["RecordedLatency", "RecordedScheduler", "Replayed", "replay"]

F = TypeVar("F")
Write = Callable[[str], object]
"""Takes one line, its end included: the `write` of a text file."""

_VERSION = 1


class RecordedLatency(LatencyModel):
    """A latency model that writes down what it learns."""

    def __init__(self, profile: LatencyProfile, write: Write) -> None:
        super().__init__(profile)
        self._write = write

    def observe_run(self, batch: int, took_ns: int, now_ns: int) -> None:
        super().observe_run(batch, took_ns, now_ns)
        _write(self._write, do="run", at=now_ns, batch=batch, took=took_ns)

    def observe_reply(self, took_ns: int) -> None:
        super().observe_reply(took_ns)
        _write(self._write, do="reply", took=took_ns)


class RecordedScheduler(Scheduler[F]):
    """A scheduler that writes down what happens to it and what it decides.

    Its latency model must be a `RecordedLatency` that writes to the same place.
    """

    def __init__(
        self, latency: RecordedLatency, max_batch: int, write: Write, *, decoders: int = 1, hold_ns: int = 0
    ) -> None:
        super().__init__(latency, max_batch, decoders, hold_ns)
        self._write = write
        self._streams: dict[StreamShare, int] = {}
        self._frames: dict[int, int] = {}
        """Numbers of the frames that wait, by their identity."""
        self._seen = 0
        head = {"version": _VERSION, "profile": latency.profile.to_json(), "max_batch": max_batch}
        _write(write, **head, decoders=decoders, hold_ns=hold_ns)

    def arrive(self, waiting: Waiting[F], now_ns: int, engine_free_ns: int) -> list[Refusal[F]]:
        stream = self._number(waiting.share)
        number, self._seen = self._seen, self._seen + 1
        self._frames[id(waiting.frame)] = number
        refused = super().arrive(waiting, now_ns, engine_free_ns)
        _write(
            self._write,
            do="arrive",
            at=now_ns,
            free=engine_free_ns,
            frame=number,
            stream=stream,
            deadline=waiting.deadline_ns,
            prepare=waiting.prepare_ns,
            refused=self._refused(refused),
        )
        return refused

    def plan(self, now_ns: int, engine_free_ns: int) -> Plan[F]:
        plan = super().plan(now_ns, engine_free_ns)
        refused, batch = self._refused(plan.refused), self._leave(plan.batch)
        _write(self._write, do="plan", at=now_ns, free=engine_free_ns, refused=refused, batch=batch, **_times(plan))
        return plan

    def expire(self, now_ns: int, engine_free_ns: int) -> list[Refusal[F]]:
        refused = super().expire(now_ns, engine_free_ns)
        _write(self._write, do="expire", at=now_ns, free=engine_free_ns, refused=self._refused(refused))
        return refused

    def share(self, others: Beside) -> None:
        if others != self._others:
            _write(self._write, do="share", longest_run=others.longest_run_ns, patience=others.patience_ns)
        super().share(others)

    def withdraw(self, share: StreamShare) -> list[F]:
        withdrawn = super().withdraw(share)
        _write(self._write, do="withdraw", stream=self._number(share), frames=self._leave(withdrawn))
        return withdrawn

    def _number(self, share: StreamShare) -> int:
        if share not in self._streams:
            self._streams[share] = len(self._streams)
            _write(self._write, do="stream", stream=self._streams[share], **_standing(share))
        return self._streams[share]

    def _leave(self, frames: Sequence[F]) -> list[int]:
        return [self._frames.pop(id(frame)) for frame in frames]

    def _refused(self, refused: Sequence[Refusal[F]]) -> list[tuple[int, str]]:
        numbers = self._leave([refusal.frame for refusal in refused])
        return [(number, refusal.verdict.value) for number, refusal in zip(numbers, refused, strict=True)]


@dataclass(frozen=True, slots=True)
class Replayed:
    """One event of a trace, decided once more."""

    event: dict[str, Any]
    """As it was recorded, with its decision."""
    decided: dict[str, Any]
    """What the decision is now, under the same names; empty for an event that asks for none."""

    @property
    def same(self) -> bool:
        """Whether the decision is the recorded one."""
        return all(self.event[name] == value for name, value in self.decided.items())


def replay(lines: Iterable[str]) -> Iterator[Replayed]:
    """Give a recorded trace to a new scheduler, event by event.

    Raises: ValueError for what is no trace, or one of another version.
    """
    source = iter(lines)
    head = json.loads(next(source, "{}"))
    if head.get("version") != _VERSION:
        raise ValueError(f"expected a scheduler trace of version {_VERSION}, its head says {head.get('version')!r}")
    latency = LatencyModel(LatencyProfile.from_json(head["profile"]))
    scheduler: Scheduler[int] = Scheduler(latency, head["max_batch"], head["decoders"], head["hold_ns"])
    shares: list[StreamShare] = []
    for line in source:
        event = json.loads(line)
        yield Replayed(event, _decide(scheduler, shares, event))


def _decide(scheduler: Scheduler[int], shares: list[StreamShare], event: dict[str, Any]) -> dict[str, Any]:
    match event["do"]:
        case "stream":
            shares.append(StreamShare(**{name: event[name] for name in _STANDING}))
        case "arrive":
            waiting = Waiting(event["frame"], shares[event["stream"]], event["deadline"], event["prepare"])
            return {"refused": _listed(scheduler.arrive(waiting, event["at"], event["free"]))}
        case "plan":
            plan = scheduler.plan(event["at"], event["free"])
            return {"batch": list(plan.batch), "refused": _listed(plan.refused), **_times(plan)}
        case "expire":
            return {"refused": _listed(scheduler.expire(event["at"], event["free"]))}
        case "withdraw":
            return {"frames": scheduler.withdraw(shares[event["stream"]])}
        case "share":
            scheduler.share(Beside(event["longest_run"], event["patience"]))
        case "run":
            scheduler.latency.observe_run(event["batch"], event["took"], event["at"])
        case "reply":
            scheduler.latency.observe_reply(event["took"])
        case other:
            raise ValueError(f"a scheduler trace has no event {other!r}")
    return {}


_STANDING = ("priority", "weight", "queue_depth", "guaranteed_fps", "virtual_ns")


def _standing(share: StreamShare) -> dict[str, Any]:
    return {name: getattr(share, name) for name in _STANDING}


def _times(plan: Plan[Any]) -> dict[str, int | None]:
    return {"starts": plan.starts_ns, "ends": plan.ends_ns, "wake_at": plan.wake_at_ns}


def _listed(refused: Sequence[Refusal[int]]) -> list[list[Any]]:
    return [[refusal.frame, refusal.verdict.value] for refusal in refused]


def _write(write: Write, **event: Any) -> None:
    write(json.dumps(event, separators=(",", ":")) + "\n")

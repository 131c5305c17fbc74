"""The client's book of one stream: which frame is sent next, which wait for an answer, which result comes
next.

No I/O, no clock, no loop: the stream around it tells it what happened and asks it what may be done.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass

from foveate.client.frame import Payload
from foveate.client.result import Result, Verdict, unsent_result

__all__ = ["FrameFlow", "SentFrame", "sent_now"]

_MAX_UNREAD = 256
"""Frames that may be on their way or waiting to be read as results. It bounds the memory that a caller who
stops reading costs; beyond it the source has to wait."""


@dataclass(frozen=True, slots=True)
class SentFrame:
    """A frame that leaves now."""

    sequence: int
    payload: Payload
    sent_at: float
    """`time.monotonic()`."""
    age_s: float
    """Since its capture."""


def sent_now(sequence: int, payload: Payload, now: float) -> SentFrame:
    """The frame as it leaves `now`, on the clock of its capture: `time.monotonic()`."""
    age_s = 0.0 if payload.captured_at is None else max(0.0, now - payload.captured_at)
    return SentFrame(sequence, payload, now, age_s)


class FrameFlow:
    """Every frame that is offered leaves as exactly one result, in the order in which the frames were
    offered."""

    def __init__(self, *, newest_wins: bool, max_unread: int = _MAX_UNREAD) -> None:
        self._newest_wins = newest_wins
        self._max_unread = max_unread
        self._results: OrderedDict[int, Result | None] = OrderedDict()
        self._sent: dict[int, SentFrame] = {}
        self._waiting: tuple[int, Payload] | None = None
        self._offered = 0
        self.window = 0
        """Frames that the server lets be unanswered at once."""
        self.source_ended = False
        self.dropped = 0
        """Frames that a newer one replaced before they were sent."""
        self.unexpected = 0
        """Answers to no frame that waits for one: duplicates and unknown sequence numbers."""

    @property
    def has_room(self) -> bool:
        """Whether one more frame may be offered."""
        return len(self._results) < self._max_unread and (self._newest_wins or self._waiting is None)

    @property
    def can_send(self) -> bool:
        """Whether a frame waits that the window lets through."""
        return self._waiting is not None and len(self._sent) < self.window

    @property
    def all_sent(self) -> bool:
        """Whether no frame waits and none will come."""
        return self.source_ended and self._waiting is None

    @property
    def has_result(self) -> bool:
        """Whether the next result in frame order is there."""
        return next(iter(self._results.values()), None) is not None

    def offer(self, payload: Payload) -> None:
        """Take the next frame of the source; only while there is room."""
        if self._waiting is not None:
            self.dropped += 1
            self._settle_waiting(Verdict.DROPPED, "a newer frame replaced it before it was sent")
        self._offered += 1
        self._results[self._offered] = None
        self._waiting = (self._offered, payload)

    def reject(self, why: str) -> None:
        """Take the next frame of the source, which cannot be sent, with the verdict REJECTED; only while there is
        room."""
        self._offered += 1
        self.settle(unsent_result(self._offered, Verdict.REJECTED, why))

    def send(self, now: float) -> SentFrame:
        """The frame that leaves now; only while one can be sent. `now` is `time.monotonic()`."""
        assert self._waiting is not None
        sequence, payload = self._waiting
        sent = self._sent[sequence] = sent_now(sequence, payload, now)
        self._waiting = None
        return sent

    def answered(self, sequence: int) -> SentFrame | None:
        """The frame that this answers, for `settle`; None, and counted, if none waits for it."""
        sent = self._sent.pop(sequence, None)
        if sent is None:
            self.unexpected += 1
        return sent

    def settle(self, result: Result) -> None:
        """Keep a frame's result until it is its turn."""
        self._results[result.sequence] = result

    def lose_sent(self, why: str) -> None:
        """Give every frame that waits for an answer the verdict LOST."""
        for sent in self._sent.values():
            self.settle(unsent_result(sent.sequence, Verdict.LOST, why))
        self._sent.clear()

    def lose_all(self, why: str) -> None:
        """As `lose_sent`, and the frame that was not sent yet as well: nothing will be sent any more."""
        self.lose_sent(why)
        if self._waiting is not None:
            self._settle_waiting(Verdict.LOST, why)

    def next_result(self) -> Result | None:
        """Take the next result in frame order, if it is there."""
        if not self.has_result:
            return None
        return self._results.popitem(last=False)[1]

    def _settle_waiting(self, verdict: Verdict, why: str) -> None:
        assert self._waiting is not None
        self.settle(unsent_result(self._waiting[0], verdict, why))
        self._waiting = None

"""The client's book of one stream: which frame is sent next, which wait for an answer, which result comes
next.

No I/O, no clock, no loop: the stream around it tells it what happened and asks it what may be done.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from dataclasses import dataclass

from foveate.client.frame import Payload
from foveate.client.result import Result, Verdict, unsent_result

__all__ = ["FrameFlow", "SentFrame", "sent_now"]

_MAX_UNREAD = 256
"""Frames that may be on their way or waiting to be read as results. It bounds the memory that a caller who
stops reading costs; beyond it the source has to wait."""
_MAX_UNITS_WAITING = 32
"""Access units of a live video that may wait to be sent: about a second of them, since leaving one out costs all up to
the next key frame."""


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

    def __init__(self, *, newest_wins: bool, video: bool = False, max_unread: int = _MAX_UNREAD) -> None:
        """With `video` a frame builds on those before it, so that none but a key frame may follow one left out."""
        self._newest_wins = newest_wins
        self._video = video
        self._max_unread = max_unread
        self._max_waiting = _MAX_UNITS_WAITING if newest_wins and video else 1
        self._until_key = False
        self._results: OrderedDict[int, Result | None] = OrderedDict()
        self._sent: dict[int, SentFrame] = {}
        self._waiting: deque[tuple[int, Payload]] = deque()
        self._offered = 0
        self.window = 0
        """Frames that the server lets be unanswered at once."""
        self.source_ended = False
        self.dropped = 0
        """Frames of a live source that were left out before they were sent."""
        self.unexpected = 0
        """Answers to no frame that waits for one: duplicates and unknown sequence numbers."""

    @property
    def has_room(self) -> bool:
        """Whether one more frame may be offered."""
        return len(self._results) < self._max_unread and (self._newest_wins or not self._waiting)

    @property
    def can_send(self) -> bool:
        """Whether a frame waits that the window lets through."""
        return bool(self._waiting) and len(self._sent) < self.window

    @property
    def all_sent(self) -> bool:
        """Whether no frame waits and none will come."""
        return self.source_ended and not self._waiting

    @property
    def has_result(self) -> bool:
        """Whether the next result in frame order is there."""
        return next(iter(self._results.values()), None) is not None

    def offer(self, payload: Payload, *, key: bool = True) -> None:
        """Take the next frame of the source; only while there is room. `key` says whether it builds on no other."""
        self._offered += 1
        self._results[self._offered] = None
        full = len(self._waiting) == self._max_waiting
        self._until_key = not key and (self._until_key or (self._video and full))
        if self._until_key:
            self.dropped += 1
            why = "frames before it could not be sent in time, and it builds on them: the next key frame is sent"
            self.settle(unsent_result(self._offered, Verdict.DROPPED, why))
            return
        if full:
            self.dropped += len(self._waiting)
            self._settle_waiting(Verdict.DROPPED, "a newer frame replaced it before it was sent")
        self._waiting.append((self._offered, payload))

    def reject(self, why: str) -> None:
        """Take the next frame of the source, which cannot be sent, with the verdict REJECTED; only while there is
        room."""
        self._offered += 1
        self.settle(unsent_result(self._offered, Verdict.REJECTED, why))

    def send(self, now: float) -> SentFrame:
        """The frame that leaves now; only while one can be sent. `now` is `time.monotonic()`."""
        sequence, payload = self._waiting.popleft()
        sent = self._sent[sequence] = sent_now(sequence, payload, now)
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
        self._settle_waiting(Verdict.LOST, why)

    def next_result(self) -> Result | None:
        """Take the next result in frame order, if it is there."""
        if not self.has_result:
            return None
        return self._results.popitem(last=False)[1]

    def _settle_waiting(self, verdict: Verdict, why: str) -> None:
        for sequence, _ in self._waiting:
            self.settle(unsent_result(sequence, verdict, why))
        self._waiting.clear()

"""One camera's stream: its frames in capture order, each answered exactly once, and the count of them all.

Belongs to the event loop's thread; nothing here blocks or locks.
"""

from __future__ import annotations

import itertools
import math
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Protocol

from foveate.service.frame import Answer, Frame, Grant, StreamOptions, Verdict
from foveate.service.job import DecodeCost, DecodedPicture, Job
from foveate.service.ledger import Counts, Ledger
from foveate.service.rates import rate_notice_due

__all__ = ["Accounts", "Books", "CameraStream", "DrainNotice", "RateNotice", "StreamRecord"]

_numbers = itertools.count(1)


@dataclass(frozen=True, slots=True)
class DrainNotice:
    """The server goes away in this many milliseconds."""

    grace_ms: int


@dataclass(frozen=True, slots=True)
class RateNotice:
    """The frame rate that the stream may expect to be answered OK has changed to this."""

    advised_fps: float


class Accounts(Protocol):
    """Where the frames of all streams of a process are counted."""

    def of(self, pipeline: str, series: int) -> Sequence[Counts]:
        """The accounts of a stream, beside its own ledger; `series` as in `directory.Claim`."""

    def in_flight(self) -> Mapping[str, int]:
        """By pipeline, what has been received and is neither answered nor cancelled."""


class _NoAccounts:
    def of(self, pipeline: str, series: int) -> Sequence[Counts]:
        return ()

    def in_flight(self) -> Mapping[str, int]:
        return {}


@dataclass(slots=True)
class Books:
    """What is counted over all streams of a process."""

    accounts: Accounts = field(default_factory=_NoAccounts)
    held_bytes: int = 0
    """Of the frames that it holds because they are not answered yet."""


@dataclass(frozen=True, slots=True)
class StreamRecord:
    """What is kept of a stream whose connection is over, for the one that takes it up again."""

    stream_id: str
    resume_token: str
    opened_ns: int = field(default_factory=time.monotonic_ns)
    ledger: Ledger = field(default_factory=Ledger)
    decode_cost: DecodeCost = field(default_factory=DecodeCost)
    last_sequence: int | None = None
    next_track_id: int = 1


class CameraStream:
    """The state of one stream, from its opening to its last answer, over reconnects too."""

    def __init__(
        self,
        record: StreamRecord,
        options: StreamOptions,
        window: int,
        books: Books | None = None,
        series: int = 0,
    ) -> None:
        """`series` as in `directory.Claim`."""
        self.number = next(_numbers)
        """Names it within this process."""
        self.stream_id = record.stream_id
        self.resume_token = record.resume_token
        self.options = options
        self.window = window
        self.grant = Grant.BEST_EFFORT
        self.smallest_budget_ns = 0
        """As it stood when the stream opened."""
        self.opened_ns = record.opened_ns
        self.ledger = record.ledger
        self.decode_cost = record.decode_cost
        self.next_track_id = record.next_track_id
        """Of a new object, where the stream is tracked: no two ever have the same."""
        self.notices: deque[DrainNotice | RateNotice] = deque()
        self.series = series
        self._books = books or Books()
        self._accounts = (self.ledger, *self._books.accounts.of(options.pipeline, series))
        self._jobs: deque[Job] = deque()
        self._last_sequence = record.last_sequence
        self._on_ready: Callable[[], None] = _nobody
        self._told_fps = math.inf
        self._told_ns = self.opened_ns
        self.before_drop: Callable[[Job, Answer], None] | None = None
        """Whoever looks at the stream: told of each answer while the frame still has its pixels."""
        self.closed = False
        """Its connection is over: what still comes in over it is not of this service any more."""

    def record(self) -> StreamRecord:
        """What goes on after a lost connection: the same name, numbers and counts."""
        return StreamRecord(
            self.stream_id,
            self.resume_token,
            self.opened_ns,
            self.ledger,
            self.decode_cost,
            self._last_sequence,
            self.next_track_id,
        )

    def attach(self, on_ready: Callable[[], None]) -> None:
        """Call `on_ready` whenever an answer or a notice can be taken, until `detach`."""
        self._on_ready = on_ready

    def detach(self) -> None:
        self._on_ready = _nobody

    @property
    def unanswered(self) -> int:
        """Frames whose answer has not been taken by the writer yet."""
        return len(self._jobs)

    def in_flight(self) -> Iterator[Frame]:
        """Frames that have no answer yet, the oldest first."""
        return (job.frame for job in self._jobs if job.answer is None)

    def receive(self, frame: Frame) -> Job:
        """Enter a frame into the order of the answers. It may be answered at once: see ``job.answer``."""
        job = Job(self, frame)
        self._count("received")
        waiting = len(self._jobs)
        self._jobs.append(job)
        self._books.held_bytes += job.held_bytes
        if self._last_sequence is not None and frame.sequence <= self._last_sequence:
            came = "came twice" if frame.sequence == self._last_sequence else "goes backwards"
            expected = f"expected one above {self._last_sequence}: number frames upwards"
            self.settle(job, Answer(Verdict.REJECTED, f"sequence {frame.sequence} {came}, {expected}"))
            return job
        self._last_sequence = frame.sequence
        if waiting >= self.window:
            message = f"{waiting} frames of the stream are unanswered, its window is {self.window}"
            self.settle(job, Answer(Verdict.REJECTED, f"{message}: wait for answers before sending on"))
        return job

    def settle(self, job: Job, answer: Answer) -> None:
        """Give a frame its one answer; later ones are ignored, as is one for a frame whose client is gone."""
        if job.over:
            return
        job.answer = answer if answer.ready_ns else replace(answer, ready_ns=time.monotonic_ns())
        self._books.held_bytes -= job.held_bytes
        if self.before_drop is not None:
            self.before_drop(job, job.answer)
        # The pixels are not needed any more, the answer may wait long.
        job.frame, job.picture = replace(job.frame, data=b""), None
        self._count(answer.verdict.value)
        if self._jobs and self._jobs[0].answer is not None:
            self._on_ready()

    def hold_picture(self, job: Job, picture: DecodedPicture) -> None:
        """Keep the picture of a frame instead of its access unit, which is decoded."""
        self._books.held_bytes -= job.held_bytes
        job.frame, job.picture = replace(job.frame, data=b""), picture
        job.width, job.height = picture.width, picture.height
        self._books.held_bytes += job.held_bytes

    def notify(self, notice: DrainNotice | RateNotice) -> None:
        self.notices.append(notice)
        self._on_ready()

    def tell_rate(self, advised_fps: float, now_ns: int) -> None:
        """An answer, or the opening, tells the client of this rate."""
        self._told_fps, self._told_ns = advised_fps, now_ns

    def notice_rate(self, advised_fps: float, now_ns: int) -> None:
        """Send the client a notice if the rate is not what it was told last, and it was told long ago."""
        if rate_notice_due(self._told_fps, self._told_ns, advised_fps, now_ns):
            self.tell_rate(advised_fps, now_ns)
            self.notify(RateNotice(advised_fps))

    def next_answer(self) -> tuple[Frame, Answer] | None:
        """The next answer in capture order, as it is handed to gRPC now; None while the next is not ready."""
        if not self._jobs or (answer := self._jobs[0].answer) is None:
            return None
        frame = self._jobs.popleft().frame
        now_ns = time.monotonic_ns()
        if answer.verdict is Verdict.OK and now_ns > frame.deadline_ns:
            self._count("late")
        return frame, answer.handed_over(frame.received_ns, now_ns)

    def abandon(self) -> list[Job]:
        """The client is gone: cancel what is not answered, and return it so that a device can let go of it."""
        self.detach()
        self.closed = True
        cancelled = [job for job in self._jobs if job.answer is None]
        for job in cancelled:
            job.cancelled = True
            self._books.held_bytes -= job.held_bytes
        self._count("cancelled", len(cancelled))
        self._count("undelivered", len(self._jobs) - len(cancelled))
        self._jobs.clear()
        return cancelled

    def _count(self, name: str, by: int = 1) -> None:
        for account in self._accounts:
            account.count(name, by)


def _nobody() -> None:
    """Nobody waits for answers."""

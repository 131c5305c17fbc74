"""One camera's stream: its frames in capture order, each answered exactly once, and the count of them all.

Belongs to the event loop's thread; nothing here blocks or locks.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, replace

from foveate.service.frame import Answer, Delivery, Frame, Grant, StreamOptions, Verdict
from foveate.service.job import DecodeCost, Job
from foveate.service.ledger import Ledger
from foveate.service.scheduler import StreamShare

__all__ = ["CameraStream", "DrainNotice", "HeldBytes"]


@dataclass(frozen=True, slots=True)
class DrainNotice:
    """The server goes away in this many milliseconds."""

    grace_ms: int


@dataclass(slots=True)
class HeldBytes:
    """Bytes of the frames that a server holds because they are not answered yet, over all its streams."""

    total: int = 0


class CameraStream:
    """The state of one stream, from its opening to its last answer, over reconnects too."""

    def __init__(
        self, stream_id: str, options: StreamOptions, window: int, resume_token: str, held: HeldBytes | None = None
    ) -> None:
        self.stream_id = stream_id
        self.options = options
        self.window = window
        self.resume_token = resume_token
        self.grant = Grant.BEST_EFFORT
        self.opened_ns = time.monotonic_ns()
        self.share = _share(options)
        self.ledger = Ledger()
        self.decode_cost = DecodeCost()
        self.notices: deque[DrainNotice] = deque()
        self._held = held or HeldBytes()
        self._jobs: deque[Job] = deque()
        self._last_sequence: int | None = None
        self._on_ready: Callable[[], None] = _nobody

    def successor(self, options: StreamOptions, window: int) -> CameraStream:
        """The stream that goes on after a lost connection: new wishes, under the same name, numbers and counts."""
        after = CameraStream(self.stream_id, options, window, self.resume_token, self._held)
        after.opened_ns, after.ledger, after.decode_cost = self.opened_ns, self.ledger, self.decode_cost
        after._last_sequence = self._last_sequence
        return after

    def attach(self, on_ready: Callable[[], None]) -> None:
        """Call `on_ready` whenever an answer or a notice can be taken, until `detach`."""
        self._on_ready = on_ready

    def detach(self) -> None:
        self._on_ready = _nobody

    @property
    def unanswered(self) -> int:
        """Frames whose answer has not been taken by the writer yet."""
        return len(self._jobs)

    def receive(self, frame: Frame) -> Job:
        """Enter a frame into the order of the answers. It may be answered at once: see ``job.answer``."""
        job = Job(self, frame)
        self.ledger.received += 1
        waiting = len(self._jobs)
        self._jobs.append(job)
        self._held.total += job.held_bytes
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
        if job.answer is not None or job.cancelled:
            return
        job.answer = answer if answer.ready_ns else replace(answer, ready_ns=time.monotonic_ns())
        self._held.total -= job.held_bytes
        job.frame = replace(job.frame, data=b"")  # the pixels are not needed any more, the answer may wait long
        self.ledger.settle(answer.verdict)
        if self._jobs and self._jobs[0].answer is not None:
            self._on_ready()

    def notify(self, notice: DrainNotice) -> None:
        self.notices.append(notice)
        self._on_ready()

    def next_answer(self) -> tuple[Frame, Answer] | None:
        """The next answer in capture order, as it is handed to gRPC now; None while the next is not ready."""
        if not self._jobs or (answer := self._jobs[0].answer) is None:
            return None
        frame = self._jobs.popleft().frame
        now_ns = time.monotonic_ns()
        if answer.verdict is Verdict.OK and now_ns > frame.deadline_ns:
            self.ledger.late += 1
        return frame, answer.handed_over(frame.received_ns, now_ns)

    def abandon(self) -> list[Job]:
        """The client is gone: cancel what is not answered, and return it so that a lane can let go of it."""
        self.detach()
        cancelled = [job for job in self._jobs if job.answer is None]
        for job in cancelled:
            job.cancelled = True
            self._held.total -= job.held_bytes
        self.ledger.cancelled += len(cancelled)
        self.ledger.undelivered += len(self._jobs) - len(cancelled)
        self._jobs.clear()
        return cancelled


def _nobody() -> None:
    """Nobody waits for answers."""


def _share(options: StreamOptions) -> StreamShare:
    depth = options.queue_depth if options.delivery is Delivery.QUEUE else None
    return StreamShare(options.priority, options.weight, depth)

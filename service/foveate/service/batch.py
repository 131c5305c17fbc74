"""A batch on its way through a slot, and the answers that its frames get."""

from __future__ import annotations

import time
from dataclasses import dataclass, replace

from foveate.engines.contract import RunTimes
from foveate.models.outputs import Output
from foveate.service.decode import Decoded
from foveate.service.frame import Answer, StageTimes, Verdict
from foveate.service.job import Job
from foveate.service.scheduler import Refusal

__all__ = ["Answered", "Batch", "Entry", "Run", "refused"]

Answered = tuple[Job, Answer]


@dataclass(frozen=True, slots=True)
class Run:
    """One run of an engine, as the frames in it have to know of it."""

    engine: str
    size: int
    started_ns: int
    times: RunTimes


@dataclass(slots=True)
class Entry:
    """A frame in a planned batch."""

    job: Job
    began_ns: int = 0
    """When its decoding began, on the monotonic clock."""
    decoded_ns: int = 0
    decoded: Decoded | None = None
    refusal: Answer | None = None
    """Its answer, once it is known that it will not run."""
    told: bool = False

    def refuse(self, verdict: Verdict, message: str) -> None:
        """It will not run, and this is why."""
        self.refusal = self._answer(verdict, message)

    def failed(self, message: str, engine: str, batch_size: int) -> Answer:
        """The answer to a frame that was run, in vain."""
        return replace(self._answer(Verdict.FAILED, message), engine=engine, batch_size=batch_size)

    def answered(self, output: Output, run: Run, predicted_end_ns: int, postprocess_began_ns: int) -> Answer:
        """The answer to a frame that was run and understood."""
        now_ns, received_ns = time.monotonic_ns(), self.job.frame.received_ns
        times = StageTimes(
            receive_queue=self.began_ns - received_ns,
            decode=self.decoded_ns - self.began_ns,
            wait=run.started_ns - self.decoded_ns,
            copy_in=run.times.copy_in_ns,
            infer=run.times.infer_ns,
            copy_out=run.times.copy_out_ns,
            postprocess=now_ns - postprocess_began_ns,
            predicted=predicted_end_ns - received_ns,
        )
        width, height = (self.decoded.width, self.decoded.height) if self.decoded else (self.job.width, self.job.height)
        return Answer(Verdict.OK, "", output, width, height, times, run.size, run.engine, now_ns)

    def _answer(self, verdict: Verdict, message: str) -> Answer:
        job, now_ns = self.job, time.monotonic_ns()
        began_ns = self.began_ns or now_ns
        times = StageTimes(
            receive_queue=began_ns - job.frame.received_ns, decode=(self.decoded_ns or now_ns) - began_ns
        )
        return Answer(verdict, message, None, job.width, job.height, times, ready_ns=now_ns)


@dataclass(frozen=True, slots=True)
class Batch:
    """Frames that were planned to run together."""

    turn: int
    ends_ns: int
    """Predicted end of its run, on the monotonic clock."""
    entries: tuple[Entry, ...]

    def ready(self) -> list[Entry]:
        """Those that run, in the order of their rows."""
        return [entry for entry in self.entries if entry.refusal is None]

    def refusals(self) -> list[Answered]:
        """Those that do not, each told once: what was answered before is not answered again."""
        answers = []
        for entry in self.entries:
            if entry.refusal is not None and not entry.told:
                entry.told = True
                answers.append((entry.job, entry.refusal))
        return answers


def refused(refusal: Refusal[Job]) -> Answered:
    """The answer to a frame that the scheduler does not start."""
    job, now_ns = refusal.frame, time.monotonic_ns()
    times = StageTimes(receive_queue=now_ns - job.frame.received_ns)
    return job, Answer(refusal.verdict, refusal.message, None, job.width, job.height, times, ready_ns=now_ns)

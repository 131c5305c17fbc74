"""A lane: one engine, its slots, and the threads that carry batches through them.

Each slot has one thread, which takes its batch all the way: plan, decode into the slot, wait for its turn on the
engine, run, turn outputs into answers. While one thread runs its batch the next one plans and decodes, and the
one before makes its answers, so the stages of neighbouring batches overlap and a frame changes threads twice:
into the lane and out of it.
"""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from foveate.engines.contract import Engine, Slot
from foveate.engines.errors import EngineError, FrameError
from foveate.models.package import PreparedModel
from foveate.service.batch import Answered, Batch, Entry, Run, refused
from foveate.service.decode import decode_into
from foveate.service.frame import Answer, SharedMemoryRef, Verdict
from foveate.service.job import Job
from foveate.service.prediction import LatencyModel
from foveate.service.scheduler import Scheduler, StreamShare, Waiting
from foveate.service.shared_memory import shared_pixels
from foveate.service.throughput import Throughput
from foveate.service.turns import Turns

__all__ = ["Lane", "LaneStatistics"]

_log = logging.getLogger(__name__)

_TICK_S = 0.001
"""Beyond a moment that is waited for, so that it has passed for certain."""


@dataclass(frozen=True, slots=True)
class LaneStatistics:
    """What a lane has done and how it stands; a snapshot."""

    waiting: int
    """Frames that wait to be planned."""
    batches: int
    """Run since the start."""
    frames: int
    """Inferred since the start."""
    busy_share: float
    """Of the last five seconds, the share in which the engine ran; 0..1."""
    batch_cap: int
    """The largest batch that the scheduler forms now."""


class Lane:
    """Runs frames of many streams on one engine. Thread-safe.

    `on_answers` is called from the lane's threads, with the answers of a batch together, and while the lane is
    locked: it must only hand them on.
    """

    def __init__(
        self,
        engine: Engine,
        model: PreparedModel,
        latency: LatencyModel,
        on_answers: Callable[[Sequence[Answered]], None],
        *,
        slots: int = 3,
        decoders: int = 0,
    ) -> None:
        info = engine.info
        decoders = decoders or len(os.sched_getaffinity(0))
        self.latency = latency
        self.engine_name = f"{info.name}/{info.backend}/{info.precision}/{info.device}"
        self._engine = engine
        self._model = model
        self._on_answers = on_answers
        self._input = info.inputs[0].name
        self._decoders = ThreadPoolExecutor(decoders, f"{info.name}-decode")
        self._scheduler: Scheduler[Job] = Scheduler(latency, info.max_batch, decoders)
        self._planner = threading.Lock()  # one thread plans at a time; the others wait for their turn to plan
        self._lock = threading.Lock()  # guards all that follows, and the scheduler and its latency model
        self._arrived = threading.Condition(self._lock)
        self._turns = Turns(self._lock, info.max_in_flight)
        self._throughput = Throughput()
        self._closing = False
        self._threads = [
            threading.Thread(target=self._serve, args=(engine.new_slot(),), name=f"{info.name}-slot{index}")
            for index in range(slots)
        ]
        for thread in self._threads:
            thread.daemon = True
            thread.start()

    def submit(self, job: Job) -> list[Answered]:
        """Let an admitted frame wait for a batch. Returns the frames that this answers at once, if any."""
        now_ns = time.monotonic_ns()
        prepare_ns = job.stream.decode_cost.predict_ns(job.width * job.height, now_ns)
        waiting = Waiting(job, job.stream.share, job.frame.deadline_ns, prepare_ns)
        with self._lock:
            refusals = self._scheduler.arrive(waiting, now_ns, self._turns.free_ns(now_ns))
            self._arrived.notify()
            self._turns.wake()  # no thread may be free to plan: those that wait to run see to its deadline
        return [refused(refusal) for refusal in refusals]

    def withdraw(self, share: StreamShare) -> None:
        """Let go of a stream's waiting frames; nobody is told."""
        with self._lock:
            self._scheduler.withdraw(share)

    def observe_reply(self, took_ns: int) -> None:
        """Learn how long an answer took from the end of its run until gRPC had it."""
        with self._lock:
            self.latency.observe_reply(took_ns)

    def statistics(self) -> LaneStatistics:
        """What the lane has done and how it stands."""
        with self._lock:
            return LaneStatistics(
                waiting=len(self._scheduler),
                batches=self._throughput.batches,
                frames=self._throughput.frames,
                busy_share=self._throughput.busy_share(time.monotonic_ns()),
                batch_cap=self._scheduler.batch_cap,
            )

    def close(self) -> None:
        """Answer what waits, then release the engine. Blocks for as long as that takes."""
        with self._lock:
            self._closing = True
            self._arrived.notify_all()
        for thread in self._threads:
            thread.join()
        self._decoders.shutdown()
        self._engine.close()

    def _serve(self, slot: Slot) -> None:
        while (batch := self._next_batch()) is not None:
            try:
                answers = self._carry(slot, batch)
            except Exception as error:  # noqa: BLE001 - the outer edge of the thread: the lane must serve on
                _log.exception("a batch on %s was lost between its stages", self.engine_name)
                self._leave(batch)
                message = f"the service failed: {type(error).__name__}"
                answers = [(entry.job, entry.failed(message, self.engine_name, 0)) for entry in batch.entries]
            self._on_answers(answers)

    def _next_batch(self) -> Batch | None:
        """Wait until the scheduler forms a batch; None when the lane closes and nothing waits."""
        with self._planner, self._lock:
            while True:
                now_ns = time.monotonic_ns()
                plan = self._scheduler.plan(now_ns, self._turns.free_ns(now_ns))
                if plan.refused:
                    self._on_answers([refused(refusal) for refusal in plan.refused])
                if plan.batch:
                    turn = self._turns.take(plan.ends_ns - plan.starts_ns, plan.ends_ns)
                    return Batch(turn, plan.ends_ns, tuple(Entry(job) for job in plan.batch))
                if self._closing and not len(self._scheduler):
                    return None
                if self._turns.overrun(now_ns):
                    self._arrived.wait(_seconds_until(self._scheduler.next_expiry_ns(), now_ns))
                else:
                    self._arrived.wait(None if plan.wake_at_ns is None else (plan.wake_at_ns - now_ns) / 1e9)

    def _carry(self, slot: Slot, batch: Batch) -> list[Answered]:
        """Decode, run, and turn the outputs into answers: one for every frame of the batch."""
        self._decode_all(slot, batch.entries)
        if not self._begin(slot, batch):
            return batch.refusals()
        ready = batch.ready()
        try:
            run = self._run(slot, len(ready))
        except EngineError as error:
            _log.error("a batch of %d failed on %s: %s", len(ready), self.engine_name, error)
            failed = [(entry.job, entry.failed(str(error), self.engine_name, len(ready))) for entry in ready]
            return batch.refusals() + failed
        answers = [(entry.job, self._answer(slot, row, entry, run, batch)) for row, entry in enumerate(ready)]
        return batch.refusals() + answers

    def _decode_all(self, slot: Slot, entries: Sequence[Entry]) -> None:
        pixels = slot.inputs[self._input]
        others = [
            self._decoders.submit(self._decode, entry, pixels[row]) for row, entry in enumerate(entries[1:], start=1)
        ]
        self._decode(entries[0], pixels[0])
        for other in others:
            other.result()

    def _decode(self, entry: Entry, row: NDArray[np.uint8]) -> None:
        job = entry.job
        entry.began_ns = time.monotonic_ns()
        try:
            entry.decoded = decode_into(row, _pixels(job), job.format, (job.width, job.height), self._model)
        except FrameError as error:
            entry.refuse(Verdict.BAD_FRAME, str(error))
        except Exception as error:  # noqa: BLE001 - a decoder's fault must not take the batch's other frames along
            _log.exception("decoding a %s frame failed", job.format.name)
            entry.refuse(Verdict.FAILED, f"the decoder failed: {type(error).__name__}")
        entry.decoded_ns = time.monotonic_ns()
        job.stream.decode_cost.observe(job.width * job.height, entry.decoded_ns - entry.began_ns, entry.decoded_ns)

    def _begin(self, slot: Slot, batch: Batch) -> bool:
        """Wait for the batch's turn and enter its run; False if none of its frames can be run any more.

        Frames that come to be late meanwhile, in the batch or waiting, are answered at once: the engine ahead
        may be stuck, and no other thread may be free to plan.
        """
        with self._lock:
            self._turns.ready(batch.turn)
            while True:
                now_ns = time.monotonic_ns()
                self._expire(batch, now_ns)
                if not batch.ready():
                    self._turns.pass_on(batch.turn)
                    self._arrived.notify()  # the engine is free earlier than was planned for
                    return False
                if self._turns.is_up(batch.turn):
                    break
                self._turns.wait(_seconds_until(self._next_expiry_ns(batch), now_ns))
            self._turns.begin(batch.turn, self.latency.latency_ns(len(batch.ready())), now_ns)
        pixels = slot.inputs[self._input]
        for to, row in enumerate(row for row, entry in enumerate(batch.entries) if entry.refusal is None):
            if to != row:  # a frame before it has fallen out: close the gap
                pixels[to] = pixels[row]
        return True

    def _expire(self, batch: Batch, now_ns: int) -> None:
        waiting = self._scheduler.expire(now_ns, self._turns.free_ns(now_ns))
        needed_ns = self._needed_ns(batch)
        for entry in batch.ready():
            if now_ns + needed_ns > entry.job.frame.deadline_ns:
                entry.refuse(Verdict.EXPIRED, "its decoding, or the batch before it, took longer than predicted")
        if answers := [refused(refusal) for refusal in waiting] + batch.refusals():
            self._on_answers(answers)

    def _next_expiry_ns(self, batch: Batch) -> int | None:
        needed_ns = self._needed_ns(batch)
        ends = [entry.job.frame.deadline_ns - needed_ns for entry in batch.ready()]
        if (waiting_ns := self._scheduler.next_expiry_ns()) is not None:
            ends.append(waiting_ns)
        return min(ends, default=None)

    def _needed_ns(self, batch: Batch) -> int:
        """From the start of a decoded batch until its answers are out."""
        ready = batch.ready()
        return self.latency.latency_ns(len(ready)) + self.latency.reply_ns if ready else 0

    def _run(self, slot: Slot, size: int) -> Run:
        """Run the batch whose turn it is, and learn from it."""
        started_ns = time.monotonic_ns()
        try:
            times = self._engine.run(slot, size)
            with self._lock:
                ended_ns = time.monotonic_ns()
                self.latency.observe_run(size, ended_ns - started_ns, ended_ns)
                self._throughput.count(size, started_ns, ended_ns)
        finally:
            with self._lock:
                self._turns.end()
                self._arrived.notify()
        return Run(self.engine_name, size, started_ns, times)

    def _leave(self, batch: Batch) -> None:
        """Give up the batch's turn, if it has not had it."""
        with self._lock:
            if self._turns.is_planned(batch.turn):
                self._turns.pass_on(batch.turn)
            self._arrived.notify()

    def _answer(self, slot: Slot, row: int, entry: Entry, run: Run, batch: Batch) -> Answer:
        began_ns = time.monotonic_ns()
        try:
            if entry.decoded is None:
                raise AssertionError("a frame ran without being decoded")
            outputs = {name: values[row] for name, values in slot.outputs.items()}
            output = self._model.decode(outputs, entry.decoded.placement, entry.job.stream.options.view)
        except Exception as error:  # noqa: BLE001 - one frame's fault must not take the batch's other frames along
            _log.exception("the outputs of %s could not be understood", self.engine_name)
            return entry.failed(f"post-processing failed: {type(error).__name__}", self.engine_name, run.size)
        return entry.answered(output, run, batch.ends_ns, began_ns)


def _seconds_until(moment_ns: int | None, now_ns: int) -> float | None:
    return None if moment_ns is None else max(0.0, (moment_ns - now_ns) / 1e9) + _TICK_S


def _pixels(job: Job) -> bytes:
    data = job.frame.data
    return shared_pixels(data) if isinstance(data, SharedMemoryRef) else data

"""A lane: one engine, its slots, and the threads that carry batches through them. Lanes of a device share its time.

There is a thread for each slot. It takes a batch all the way: plan, have it decoded into the slot, wait for its turn on
the engine, run, hand over the outputs. While one thread runs its batch the next one plans and has it decoded, so the
stages of neighbouring batches overlap. Where another batch waits when a run ends, their threads swap: the one that is
awake runs the next batch at once, the one that waited hands over the outputs. Otherwise the engine would stand still
for as long as a thread takes to wake up.
"""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from foveate.engines.contract import Engine, RunTimes
from foveate.engines.errors import DeviceLost, EngineError
from foveate.service.arbiter import Beside, Bid
from foveate.service.batch import Batch, BatchSlot, Entry, by_ingest
from foveate.service.boundary import Encoded, LaneStatus, Refused, Row
from foveate.service.device_time import DeviceTime
from foveate.service.frame import Ran, Verdict
from foveate.service.metrics_tables import LaneMeter
from foveate.service.placing import Placing
from foveate.service.prediction import LatencyModel
from foveate.service.scheduler import Plan, Refusal, Scheduler, StreamShare, Waiting
from foveate.service.throughput import Throughput

__all__ = ["Lane"]

_log = logging.getLogger(__name__)

_TICK_S = 0.001
"""Beyond a moment that is waited for, so that it has passed for certain."""


Told = list[tuple[Entry, Refused]]


@dataclass(slots=True, eq=False)
class _Carried:
    """What a thread of the lane is busy with."""

    slot: int
    batch: Batch
    ran: tuple[int, int, RunTimes] | None = None
    """It has run, from when until when; all that is left to do is to hand it over."""


class Lane:
    """Runs frames of many streams, and of many ingests, on one engine. Thread-safe."""

    def __init__(
        self,
        pipeline: str,
        engine: Engine,
        latency: LatencyModel,
        slots: Sequence[BatchSlot],
        *,
        decoders: int = 0,
        hold_ns: int = 0,
        device_time: DeviceTime | None = None,
        placing: Placing | None = None,
    ) -> None:
        """Serve on an engine that is loaded.

        `decoders` is how many frames the ingests decode side by side; 0: as many as there are cores. `hold_ns` is the
        scheduler's. Lanes whose engines are on one device have its `device_time` in common; None: it is this one's own.
        `placing` has rows filled on the device; None: the ingests fill all.
        """
        info = engine.info
        self.pipeline = pipeline
        self.latency = latency
        self.slots = slots
        self._engine = engine
        self._input = info.inputs[0].name
        self._placing = placing
        self._new_scheduler: Callable[[], Scheduler[Entry]] = partial(
            Scheduler, latency, info.max_batch, decoders or len(os.sched_getaffinity(0)), hold_ns
        )
        self._scheduler: Scheduler[Entry] = self._new_scheduler()
        self._waiting: dict[Entry, None] = {}
        """What the scheduler has: a book of the lane's own, so that a fault of the scheduler loses no frame."""
        self._planner = threading.Lock()  # one thread plans at a time; the others wait for their turn to plan
        self.device_time = device_time = device_time or DeviceTime()
        self._lock = device_time.lock  # guards all that follows, and the scheduler and its latency model
        self._arrived = threading.Condition(self._lock)
        self._turns, self._arbiter = device_time.turns, device_time.arbiter
        self._carried = 0  # batches that threads are busy with
        self._decoded: list[_Carried] = []  # of these, the ones that wait for their turn
        self._held_until_ns = 0
        self._throughput = Throughput()
        self._closing = False
        self._lost = ""
        self._told_of_loss = False
        self.when_lost: Callable[[str], object] | None = None
        """Told once, from a thread of the lane, why it can run nothing more in this process."""
        self.meter: LaneMeter | None = None
        """Told of every run."""
        self._pid = os.getpid()
        self._threads = [
            threading.Thread(target=self._serve, args=(index,), name=f"{info.name}-slot{index}", daemon=True)
            for index in range(len(slots))
        ]
        with self._lock:
            self._arbiter.join(self)
        for thread in self._threads:
            thread.start()

    def submit(self, entry: Entry, share: StreamShare, prepare_ns: int) -> None:
        """Let an admitted frame wait for a batch. It, or the frame that it replaces, may be refused at once."""
        now_ns = time.monotonic_ns()
        waiting, told = Waiting(entry, share, entry.deadline_ns, prepare_ns), Told()
        with self._lock, self._deciding():
            if lost := self._lost:
                told = _failed([entry], lost)
            else:
                self._waiting[entry] = None
                told = self._refused(self._scheduler.arrive(waiting, now_ns, self._turns.free_ns(now_ns)))
                self._arrived.notify()
                if self._carried == len(self.slots):
                    self._turns.wake()  # no thread is free to plan: those that wait to run see to its deadline
        _tell(told)

    def withdraw(self, share: StreamShare) -> None:
        """Let go of a stream's waiting frames; nobody is told."""
        with self._lock, self._deciding():
            self._let_go(self._scheduler.withdraw(share))
            self._arbiter.wake()

    def bid(self, now_ns: int, free_ns: int) -> Bid | None:
        """See `arbiter.Bidder`."""
        with self._deciding():
            can_plan = self._carried < len(self.slots) and now_ns >= self._held_until_ns
            return self._scheduler.bid(now_ns, free_ns) if can_plan else None
        return None

    def beside(self, now_ns: int) -> Beside:
        """See `arbiter.Bidder`."""
        with self._deciding():
            return self._scheduler.beside(now_ns)
        return Beside()

    def wake(self) -> None:
        """See `arbiter.Bidder`."""
        self._arrived.notify()

    def observe_reply(self, took_ns: int) -> None:
        """Learn how long an answer took from the end of its run until gRPC had it."""
        with self._lock:
            self.latency.observe_reply(took_ns)

    @property
    def device(self) -> str:
        """The device of its engine."""
        return self._engine.info.device

    @property
    def batch_cap(self) -> int:
        """The largest batch that the scheduler forms now."""
        with self._lock:
            return self._scheduler.batch_cap

    @property
    def lost(self) -> str:
        """Why the lane can run nothing more in this process; "" while it can."""
        return self._lost

    @property
    def overdue_ns(self) -> int:
        """For how long a run on the lane's device has been expected to end."""
        with self._lock:
            return self._turns.overdue_ns(time.monotonic_ns())

    def status(self) -> LaneStatus:
        """What the lane has done and how it stands."""
        with self._lock:
            latency = self.latency
            return LaneStatus(
                pipeline=self.pipeline,
                engine=self._engine.info,
                profile=tuple((batch, latency.latency_ns(batch)) for batch in latency.profile.buckets),
                smallest_budget_ns=latency.smallest_budget_ns,
                margin_ns=latency.margin_ns,
                waiting=len(self._waiting),
                batches=self._throughput.batches,
                frames=self._throughput.frames,
                busy_share=self._throughput.busy_share(time.monotonic_ns()),
                batch_cap=self._scheduler.batch_cap,
            )

    @property
    def takes_held(self) -> bool:
        """Whether its engine takes pictures that its device holds."""
        return self._placing is not None and self._placing.held

    @property
    def inputs(self) -> list[NDArray[np.uint8]]:
        """Where chosen frames go, by slot."""
        return [slot.pixels for slot in self.slots]

    def close(self) -> None:
        """Run what waits, then release the engine. Blocks for as long as that takes."""
        with self._lock:
            self._closing = True
            self._arrived.notify_all()
        for thread in self._threads:
            thread.join()
        self._engine.close()

    def _serve(self, slot: int) -> None:
        """All that a thread of the lane does."""
        try:
            self._carry_batches(slot)
        except Exception as error:  # noqa: BLE001 - the outer edge of the thread: nobody may wait for it in vain
            with self._lock:
                self._break(error)
        if self._lost:
            self._settle_loss()

    def _carry_batches(self, slot: int) -> None:
        while (batch := self._next_batch()) is not None:
            carried = _Carried(slot, batch)
            try:
                self._carry(carried)
            except Exception as error:  # noqa: BLE001 - one batch's fault: the lane must serve on
                _log.exception("a batch of %s was lost between its stages", self.pipeline)
                with self._lock:
                    self._leave(carried)
                _tell(_failed(carried.batch.ready(), f"the service failed: {type(error).__name__}"))
            slot = carried.slot
            carried.batch.on_device.clear()  # the pictures are the next ones' memory, and the thread may wait long
            with self._lock:
                self._carried -= 1

    def _next_batch(self) -> Batch | None:
        """Wait until the scheduler forms a batch; None when the lane is lost, or closes and nothing waits."""
        with self._planner:
            while True:
                batch, told, done = None, Told(), False
                with self._lock, self._deciding():
                    if self._lost:
                        return None
                    now_ns = time.monotonic_ns()
                    plan = self._plan(now_ns, self._turns.free_ns(now_ns))
                    batch = self._take_turn(plan) if plan.batch else None
                    told = self._refused(plan.refused)
                    done = self._closing and not self._waiting
                    if not (batch or done or told):
                        self._wait_for_frames(plan.wake_at_ns, now_ns)
                _tell(told)
                if self._lost or batch or done:
                    return batch

    def _plan(self, now_ns: int, free_ns: int) -> Plan[Entry]:
        """What this lane does next on the device; nothing while another one goes first."""
        if len(self._scheduler) and not self._arbiter.is_first(self, now_ns, free_ns):
            refused = tuple(self._scheduler.expire(now_ns, free_ns))
            return Plan((), refused, wake_at_ns=self._scheduler.next_expiry_ns())
        weight = 1.0
        if not self._arbiter.alone:
            self._scheduler.share(self._arbiter.beside(self, now_ns))
            weight = self._scheduler.weight(now_ns)
        plan = self._scheduler.plan(now_ns, free_ns)
        if plan.batch:
            self._arbiter.has_planned(self, plan.ends_ns - plan.starts_ns, weight)
        held_until_ns = plan.wake_at_ns or 0
        if held_until_ns > free_ns and held_until_ns != self._held_until_ns:  # it waits to be filled: others may go
            self._held_until_ns = held_until_ns
            self._arbiter.wake(but=self)
        elif plan.refused:
            self._arbiter.wake(but=self)
        return plan

    def _take_turn(self, plan: Plan[Entry]) -> Batch:
        most = self._engine.info.max_in_flight
        turn = self._turns.take(plan.ends_ns - plan.starts_ns, plan.ends_ns, self, most)
        batch = Batch(turn, plan.ends_ns, plan.batch)
        self._carried += 1
        self._let_go(batch.entries)
        return batch

    def _wait_for_frames(self, wake_at_ns: int | None, now_ns: int) -> None:
        if self._turns.overrun(now_ns):
            self._arrived.wait(_seconds_until(self._scheduler.next_expiry_ns(), now_ns))
        else:
            self._arrived.wait(None if wake_at_ns is None else (wake_at_ns - now_ns) / 1e9)

    def _carry(self, carried: _Carried) -> None:
        """Have the batch decoded, run it, and hand over what came out: every frame comes back once."""
        self._prepare(carried.slot, carried.batch)
        runs = self._begin(carried)
        while runs:
            try:
                self._run(carried)
            finally:
                runs = self._end(carried)
        if carried.ran:
            self._deliver(carried)

    def _prepare(self, slot: int, batch: Batch) -> None:
        placing = self._placing
        self._have_decoded(slot, batch, batch.entries, placing)
        if placing and (left := placing.place(slot, batch)):
            batch.decode_again(left)
            self._have_decoded(slot, batch, left)

    def _have_decoded(self, slot: int, batch: Batch, entries: Sequence[Entry], placing: Placing | None = None) -> None:
        """Have the ingests write frames into their rows; what `placing` takes they may leave to it."""
        encoded, held = (placing.jpegs, placing.held) if placing else (False, False)
        rows = {entry: row for row, entry in enumerate(batch.entries)}
        for ingest, theirs in by_ingest(entries).items():
            by_frame = {entry.frame: entry for entry in theirs}

            def done(
                frame: int, succeeded: bool, left: Encoded | None = None, by_frame: dict[int, Entry] = by_frame
            ) -> None:
                batch.decoded(by_frame[frame], succeeded, left)

            ingest.prepare(
                self.pipeline, slot, [Row(entry.frame, rows[entry], encoded, held) for entry in theirs], done
            )
        batch.wait_for_pixels()

    def _begin(self, carried: _Carried) -> bool:
        """Wait for the batch's turn and enter its run.

        False if it is not this thread's to run any more: none of its frames is left, or another one has swapped. One
        of a lane that is lost is not begun.
        Frames that come to be late meanwhile, in the batch or waiting, are answered at once: the engine ahead
        may be stuck, and no other thread may be free to plan.
        """
        begun: bool | None = None
        batch = carried.batch
        with self._lock:
            self._turns.ready(batch.turn)
            self._decoded.append(carried)
        while begun is None:
            late = Told()
            with self._lock, self._deciding():
                now_ns = time.monotonic_ns()
                if carried.ran:  # another thread has swapped
                    begun = False
                elif self._lost:
                    begun, late = False, _failed(batch.ready(), self._lost)
                    self._leave(carried)
                else:
                    late = self._expire(batch, now_ns)
                    begun = self._enter_if_up(carried, now_ns)
                    if begun is None and not late:
                        self._turns.wait(_seconds_until(self._next_expiry_ns(batch), now_ns))
            _tell(late)
        return begun

    def _enter_if_up(self, carried: _Carried, now_ns: int) -> bool | None:
        """Whether the batch runs from now on; None: its turn is still to come."""
        if not carried.batch.ready():
            self._leave(carried)  # the device is free earlier than was planned for
            return False
        if not self._turns.is_up(carried.batch.turn):
            return None
        self._enter(carried, now_ns)
        return True

    def _enter(self, carried: _Carried, now_ns: int) -> None:
        """The batch, whose turn is up, runs from now on."""
        self._decoded.remove(carried)
        self._turns.begin(carried.batch.turn, self.latency.latency_ns(len(carried.batch.ready())), now_ns)

    def _expire(self, batch: Batch, now_ns: int) -> Told:
        needed_ns = self._needed_ns(batch)
        waiting = self._scheduler.expire(now_ns, self._turns.free_ns(now_ns))
        return [*self._refused(waiting), *batch.expire(now_ns, needed_ns)]

    def _next_expiry_ns(self, batch: Batch) -> int | None:
        needed_ns = self._needed_ns(batch)
        ends = [entry.deadline_ns - needed_ns for entry in batch.ready()]
        if (waiting_ns := self._scheduler.next_expiry_ns()) is not None:
            ends.append(waiting_ns)
        return min(ends, default=None)

    def _needed_ns(self, batch: Batch) -> int:
        """From the start of a decoded batch until its answers are out."""
        ready = batch.ready()
        return self.latency.latency_ns(len(ready)) + self.latency.reply_ns if ready else 0

    def _run(self, carried: _Carried) -> None:
        """Run the batch whose turn it is. Frames of a run that fails are told so."""
        slot, batch, ready = self.slots[carried.slot], carried.batch, carried.batch.ready()
        target = slot.slot.inputs[self._input]
        for to, (row, entry) in enumerate((row, entry) for row, entry in enumerate(batch.entries) if not entry.out):
            # A frame before it may have fallen out: close the gap.
            if entry not in batch.on_device and (to != row or target is not slot.pixels):
                target[to] = slot.pixels[row]
        try:
            if self._placing:
                self._placing.close_gaps(carried.slot, batch)
            started_ns = time.monotonic_ns()
            times = self._engine.run(slot.slot, len(ready))
            carried.ran = (started_ns, time.monotonic_ns(), times)
        except EngineError as error:
            _log.error("a batch of %d failed in %s: %s", len(ready), self.pipeline, error)
            _tell(_failed(ready, str(error), len(ready)))
            if isinstance(error, DeviceLost):
                with self._lock:
                    self._lose(str(error))

    def _end(self, carried: _Carried) -> bool:
        """Leave the run. True if another batch has been swapped for this one, and is to be run now."""
        with self._lock:
            self._turns.end()
            self._arbiter.wake()
            now_ns = time.monotonic_ns()
            waits = next((each for each in self._decoded if self._turns.is_up(each.batch.turn)), None)
            if waits is None or not carried.ran or not self._is_whole(waits.batch, now_ns):
                return False
            self._enter(waits, now_ns)
            waits.slot, carried.slot = carried.slot, waits.slot
            waits.batch, carried.batch = carried.batch, waits.batch
            waits.ran, carried.ran = carried.ran, None
            return True

    def _is_whole(self, batch: Batch, now_ns: int) -> bool:
        """Whether a decoded batch can begin as it is: some frame of it is left, and none is late."""
        return bool(batch.ready()) and not batch.late(now_ns, self._needed_ns(batch))

    def _leave(self, carried: _Carried) -> None:
        """Give up the batch's turn, if it has not had it. The lane must be locked."""
        if self._turns.is_planned(carried.batch.turn):
            self._turns.pass_on(carried.batch.turn)
        if carried in self._decoded:
            self._decoded.remove(carried)
        self._arbiter.wake()

    def _refused(self, refusals: Iterable[Refusal[Entry]]) -> Told:
        """What the ingests are to be told of frames that do not wait any more."""
        told = [(each.frame, Refused(each.frame.frame, each.verdict, each.message)) for each in refusals]
        self._let_go(entry for entry, _ in told)
        return told

    def _let_go(self, entries: Iterable[Entry]) -> None:
        for entry in entries:
            self._waiting.pop(entry, None)

    @contextmanager
    def _deciding(self) -> Iterator[None]:
        """Around all that asks the scheduler. After a fault in there nothing that it says could be relied on."""
        try:
            yield
        except Exception as error:  # noqa: BLE001 - whoever asks, perhaps for another lane, goes on without it
            self._break(error)

    def _break(self, error: Exception) -> None:
        """A fault that is not one batch's alone: it ends the lane, as a lost device does. The lane must be locked."""
        if not self._lost:
            _log.critical("the lane of %s cannot go on", self.pipeline, exc_info=error)
            self._lose(f"the lane failed: {type(error).__name__}")

    def _lose(self, reason: str) -> None:
        """The lane can do nothing more in this process: its threads end, and see to what waits. It must be locked."""
        if not self._lost:
            self._lost, self._scheduler = reason, self._new_scheduler()  # other lanes of the device still ask for bids
            self._arrived.notify_all()
            self._turns.wake()
            self._arbiter.wake()

    def _settle_loss(self) -> None:
        """Fail what waits in a lane that is lost, and tell why it is: once, whichever thread comes first."""
        with self._lock:
            left, self._waiting = list(self._waiting), {}
            told, self._told_of_loss = self._told_of_loss, True
        _tell(_failed(left, self._lost))
        if self.when_lost and not told:
            self.when_lost(self._lost)

    def _deliver(self, carried: _Carried) -> None:
        """Learn from the run, and hand over what came out."""
        assert carried.ran is not None
        batch, (started_ns, ended_ns, times) = carried.batch, carried.ran
        ready = batch.ready()
        size = len(ready)
        with self._lock:
            self.latency.observe_run(size, ended_ns - started_ns, ended_ns)
            self._throughput.count(size, started_ns, ended_ns)
            if self.meter:
                self.meter.ran(size, ended_ns - started_ns, ended_ns - batch.ends_ns)
        ran = Ran(
            size,
            started_ns,
            ended_ns,
            times.copy_in_ns,
            times.infer_ns,
            times.copy_out_ns,
            batch.ends_ns,
            batch.turn,
            carried.slot,
            self._pid,
            batch.placed_ns,
        )
        outputs = self.slots[carried.slot].slot.outputs
        rows = {entry: row for row, entry in enumerate(ready)}
        for ingest, entries in by_ingest(ready).items():
            ingest.deliver(self.pipeline, ran, [(entry.frame, _row(outputs, rows[entry])) for entry in entries])


def _row(outputs: Mapping[str, NDArray[Any]], row: int) -> dict[str, NDArray[Any]]:
    """A copy of one row: the slot is run again while its frames are being answered."""
    return {name: values[row].copy() for name, values in outputs.items()}


def _failed(entries: Iterable[Entry], message: str, batch_size: int = 0) -> Told:
    return [(entry, Refused(entry.frame, Verdict.FAILED, message, batch_size)) for entry in entries]


def _tell(told: Told) -> None:
    """Tell each ingest of its own frames. The lane must not be locked: an ingest may be slow to listen."""
    if told:
        words = dict(told)
        for ingest, entries in by_ingest(words).items():
            ingest.refuse([words[entry] for entry in entries])


def _seconds_until(moment_ns: int | None, now_ns: int) -> float | None:
    return None if moment_ns is None else max(0.0, (moment_ns - now_ns) / 1e9) + _TICK_S

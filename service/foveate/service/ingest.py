"""An ingest's side of the boundary: what it has at a device, decoded once it is chosen, answered once it has run.

That is frames, and crops of frames that a cascade looks at. All is handed over, and answered, in the event loop's
thread; only decoding runs on threads of its own.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from foveate.engines.errors import EngineError, FrameError
from foveate.models.package import PreparedModel
from foveate.service.boundary import DevicePort, Encoded, FrameTicket, Prepared, Refused, Row
from foveate.service.cascade import Timer
from foveate.service.cascade_time import CascadeTime
from foveate.service.frame import Ran, Verdict
from foveate.service.job import Job
from foveate.service.pipeline import Pipeline
from foveate.service.stream import CameraStream
from foveate.service.stream_cascade import StreamCascade
from foveate.service.way_out import WayOut
from foveate.service.whole_frame import WholeFrame

__all__ = ["AtDevice", "Ingest", "Later", "Post"]

_log = logging.getLogger(__name__)

_TURN_NS = 1_000_000
"""A large batch is answered in parts that take about so long: answers that are ready are written between them, and
cascades whose time is over are ended."""

Pixels = NDArray[np.uint8]


class Post(Protocol):
    """Has a call made in the event loop's thread, soon; `loop.call_soon_threadsafe` is one."""

    def __call__(self, call: Callable[[], None], /) -> object: ...


class Later(Protocol):
    """Has a call made in the event loop's thread, after so many seconds; `loop.call_later` is one."""

    def __call__(self, delay_s: float, call: Callable[[], None], /) -> Timer: ...


class AtDevice(Protocol):
    """What the device has under one number: a frame, or a crop of one."""

    @property
    def stream(self) -> CameraStream:
        """Whose frame it is, or is of."""

    @property
    def over(self) -> bool:
        """Whether nobody waits for it any more."""

    @property
    def prepare_ns(self) -> int:
        """What writing it into a row is predicted to take."""

    def fill(self, pixels: Pixels, model: PreparedModel, row: Row) -> Encoded | None:
        """Write it into the pixels of a row, or where it may be, leave it to the device: what comes back says where.

        From any thread. Raises: FrameError.
        """

    def ran(self, pipeline: Pipeline, ran: Ran, rows: Mapping[str, NDArray[Any]]) -> None:
        """Learn what the engine said of it."""

    def refused(self, refusal: Refused, engine: str) -> None:
        """Learn that it was not run, or in vain; `engine` is the one that did, if any."""

    def failed(self, message: str) -> None:
        """Be answered, if it is not yet: what was to be learnt of it could not be."""


@dataclass(frozen=True, slots=True)
class _Served:
    """A pipeline at the device."""

    pipeline: Pipeline
    slots: Sequence[Pixels]
    """The input of each of the lane's slots."""
    cascade_time: CascadeTime
    """Of all its streams here."""


def _loop_later(delay_s: float, call: Callable[[], None]) -> Timer:
    return asyncio.get_running_loop().call_later(delay_s, call)


class Ingest:
    """The frames of one ingest that one device has: `boundary.IngestPort`, and the way to the device's own port."""

    def __init__(self, post: Post, decoders: Executor, later: Later = _loop_later) -> None:
        """`later` is, unless given, that of the loop which runs in this thread."""
        self.later = later
        self.way_out = WayOut()
        self._post = post
        self._decoders = decoders
        self._numbers = itertools.count(1)
        self._held: dict[int, AtDevice] = {}
        self._numbers_of: dict[CameraStream, set[int]] = {}
        """Which of these are a stream's, so that its end costs no more than what it has here."""
        self._ran: deque[Callable[[], None]] = deque()
        """What is still to be done about frames and crops that have run."""
        self._cascades: dict[CameraStream, StreamCascade] = {}
        self._served: dict[str, _Served] = {}

    def serve(self, pipeline: Pipeline, slots: Sequence[Pixels]) -> None:
        """Learn of a pipeline of the device, and where the inputs of its slots lie."""
        expected_ns = sum(stage.expected_ns for stage in pipeline.cascade)
        self._served[pipeline.name] = _Served(pipeline, slots, CascadeTime(expected_ns))

    def pipeline(self, name: str) -> Pipeline:
        """A pipeline of the device."""
        return self._served[name].pipeline

    @property
    def in_flight(self) -> int:
        """Frames, and crops of them, that the device has."""
        return len(self._held)

    def submit(self, job: Job, device: DevicePort) -> None:
        """Hand a frame to the device: it is answered later, exactly once."""
        cascade = self._cascade_of(job.stream, device)
        frame = WholeFrame(job, cascade, cascade.reserve_ns(job) if cascade else 0)
        self.hand_over(frame, device, job.stream.number, job.frame.deadline_ns - frame.reserve_ns)

    def hand_over(
        self, held: AtDevice, device: DevicePort, stream: int, deadline_ns: int, *, again: bool = False
    ) -> int:
        """Let the device have a frame or a crop; what becomes of it, it is told itself. Returns its number."""
        number = next(self._numbers)
        self._held[number] = held
        self._numbers_of.setdefault(held.stream, set()).add(number)
        device.submit(FrameTicket(number, stream, deadline_ns, held.prepare_ns, again))
        return number

    def take_back(self, number: int) -> None:
        """Nobody waits for it any more; what the device still says of it is ignored."""
        self._let_go(number)

    def observe_loop(self) -> None:
        """Learn how long the event loop takes to come round now."""
        asked_ns = time.monotonic_ns()
        self._post(partial(self._observe_turn, asked_ns))

    def _observe_turn(self, asked_ns: int) -> None:
        now_ns = time.monotonic_ns()
        self.way_out.observe_turn(now_ns - asked_ns, now_ns)

    def forget(self, stream: CameraStream) -> None:
        """A stream is over: let go of all that is its own; what the device still says of it is ignored."""
        for number in self._numbers_of.pop(stream, ()):
            del self._held[number]
        if cascade := self._cascades.pop(stream, None):
            cascade.close()

    def fail_all(self, message: str) -> None:
        """The device is gone, with all that it had."""
        self.settle_refused([Refused(number, Verdict.FAILED, message) for number in self._held])

    def prepare(self, pipeline: str, slot: int, rows: Sequence[Row], done: Prepared) -> None:
        """See `IngestPort`. The first frame is decoded by the caller, which waits for it anyway."""
        first, *others = rows
        self.start_decoding(pipeline, slot, others, done)
        served = self._served[pipeline]
        self._decode(first, served.slots[slot][first.row], served.pipeline.model, done)

    def refuse(self, refused: Sequence[Refused]) -> None:
        """See `IngestPort`."""
        self._post(partial(self.settle_refused, refused))

    def deliver(self, pipeline: str, ran: Ran, outputs: Sequence[tuple[int, Mapping[str, NDArray[Any]]]]) -> None:
        """See `IngestPort`."""
        self._post(partial(self.settle_run, pipeline, ran, outputs))

    def start_decoding(self, pipeline: str, slot: int, rows: Sequence[Row], done: Prepared) -> None:
        """As `prepare`, without blocking."""
        served = self._served[pipeline]
        pixels = served.slots[slot]
        for row in rows:
            try:
                self._decoders.submit(self._decode, row, pixels[row.row], served.pipeline.model, done)
            except RuntimeError as error:  # no thread can be had, or all is over: a lane waits for this row
                done(row.frame, False)
                self.refuse([Refused(row.frame, Verdict.FAILED, f"the frame could not be decoded: {error}")])

    def settle_refused(self, refused: Sequence[Refused]) -> None:
        """As `refuse`, in the event loop's thread."""
        for refusal in refused:
            if held := self._let_go(refusal.frame):
                self._settle(held, partial(held.refused, refusal, self._engine_name(held, refusal)))

    def settle_run(self, pipeline: str, ran: Ran, outputs: Sequence[tuple[int, Mapping[str, NDArray[Any]]]]) -> None:
        """As `deliver`, in the event loop's thread: at once as far as that takes no longer than `_TURN_NS`."""
        idle, served = not self._ran, self._served[pipeline].pipeline
        for number, rows in outputs:
            if held := self._let_go(number):
                self._ran.append(partial(self._settle, held, partial(held.ran, served, ran, rows)))
        if idle:
            self._settle_ran()

    def _settle_ran(self) -> None:
        until_ns = time.monotonic_ns() + _TURN_NS
        while self._ran:
            self._ran.popleft()()
            if time.monotonic_ns() > until_ns:
                break
        if self._ran:
            self._post(self._settle_ran)

    def _let_go(self, number: int) -> AtDevice | None:
        """What had the number, which nobody asks about any more; None: it has been let go of before."""
        held = self._held.pop(number, None)
        if held is not None:
            numbers = self._numbers_of[held.stream]
            numbers.discard(number)
            if not numbers:
                del self._numbers_of[held.stream]
        return held

    def _settle(self, held: AtDevice, tell: Callable[[], None]) -> None:
        """Tell a frame, or a crop, what became of it. A fault is its own alone, and it is answered all the same."""
        try:
            tell()
        except Exception as error:  # noqa: BLE001 - those that came along with it wait for their answers too
            _log.exception("an answer of stream %s failed", held.stream.stream_id)
            held.failed(f"the service failed: {type(error).__name__}")

    def _decode(self, row: Row, pixels: Pixels, model: PreparedModel, done: Prepared) -> None:
        number, held = row.frame, self._held.get(row.frame)
        if held is None or held.over:
            done(number, False)
            return
        encoded = refusal = None
        try:
            encoded = held.fill(pixels, model, row)
        except FrameError as error:
            refusal = Refused(number, Verdict.BAD_FRAME, str(error))
        except EngineError as error:  # the device has lost the frame's picture
            refusal = Refused(number, Verdict.FAILED, str(error))
        except Exception as error:  # noqa: BLE001 - a decoder's fault must not take the batch's other frames along
            _log.exception("decoding a frame of stream %s failed", held.stream.stream_id)
            refusal = Refused(number, Verdict.FAILED, f"the decoder failed: {type(error).__name__}")
        done(number, refusal is None, encoded)
        if refusal:
            self.refuse([refusal])

    def _cascade_of(self, stream: CameraStream, device: DevicePort) -> StreamCascade | None:
        """What follows detection in a stream; None where nothing does."""
        if stream in self._cascades:
            return self._cascades[stream]
        served = self._served.get(stream.options.pipeline)
        if served is None or not StreamCascade.is_for(served.pipeline):
            return None
        cascade = StreamCascade(stream, served.pipeline, served.cascade_time, device, self)
        self._cascades[stream] = cascade
        return cascade

    def _engine_name(self, held: AtDevice, refusal: Refused) -> str:
        return self._served[held.stream.options.pipeline].pipeline.engine_name if refusal.batch_size else ""

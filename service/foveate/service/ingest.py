"""An ingest's side of the boundary: its frames at a device, decoded once they are chosen, answered once they have run.

Frames are handed over, and their answers given, in the event loop's thread; only decoding runs on threads of its own.
"""

from __future__ import annotations

import itertools
import logging
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from foveate.engines.errors import FrameError
from foveate.models.package import PreparedModel
from foveate.service.boundary import DevicePort, Encoded, FrameTicket, Prepared, Refused, Row
from foveate.service.decode import Decoded, decode_into, leave_encoded
from foveate.service.frame import Answer, Ran, SharedMemoryRef, StageTimes, Verdict
from foveate.service.job import Job
from foveate.service.pipeline import Pipeline
from foveate.service.shared_memory import shared_pixels
from foveate.service.stream import CameraStream

__all__ = ["Ingest", "Post"]

_log = logging.getLogger(__name__)

Pixels = NDArray[np.uint8]


class Post(Protocol):
    """Has a call made in the event loop's thread, soon; `loop.call_soon_threadsafe` is one."""

    def __call__(self, call: Callable[[], None], /) -> object: ...


@dataclass(slots=True, eq=False)
class _AtDevice:
    """A frame that the device has."""

    job: Job
    began_ns: int = 0
    """When its decoding began, on the monotonic clock."""
    decoded_ns: int = 0
    decoded: Decoded | None = None
    encoded: Encoded | None = None
    """It is left to the device to decode."""

    def fill(self, row: Pixels, model: PreparedModel, *, may_leave: bool) -> None:
        """Have a row hold it, decoded or, where it may be, not. Raises: FrameError."""
        job = self.job
        data, size = _pixels(job), (job.width, job.height)
        self.encoded = None
        if may_leave and (left := leave_encoded(row, data, job.format, size, model)):
            self.decoded, self.encoded = left
        else:
            self.decoded = decode_into(row, data, job.format, size, model)

    def observe_decoded(self) -> None:
        """Learn how long decoding it took."""
        pixels = self.job.width * self.job.height
        self.job.stream.decode_cost.observe(pixels, self.decoded_ns - self.began_ns, self.decoded_ns)


@dataclass(frozen=True, slots=True)
class _Served:
    """A pipeline at the device."""

    pipeline: Pipeline
    slots: Sequence[Pixels]
    """The input of each of the lane's slots."""


class Ingest:
    """The frames of one ingest that one device has: `boundary.IngestPort`, and the way to the device's own port."""

    def __init__(self, post: Post, decoders: Executor) -> None:
        self._post = post
        self._decoders = decoders
        self._numbers = itertools.count(1)
        self._frames: dict[int, _AtDevice] = {}
        self._served: dict[str, _Served] = {}

    def serve(self, pipeline: Pipeline, slots: Sequence[Pixels]) -> None:
        """Learn of a pipeline of the device, and where the inputs of its slots lie."""
        self._served[pipeline.name] = _Served(pipeline, slots)

    def pipeline(self, name: str) -> Pipeline:
        """A pipeline of the device."""
        return self._served[name].pipeline

    @property
    def in_flight(self) -> int:
        """Frames that the device has."""
        return len(self._frames)

    def submit(self, job: Job, device: DevicePort) -> None:
        """Hand a frame to the device: it is answered later, exactly once."""
        number, stream = next(self._numbers), job.stream
        self._frames[number] = _AtDevice(job)
        prepare_ns = stream.decode_cost.predict_ns(job.width * job.height, time.monotonic_ns())
        device.submit(FrameTicket(number, stream.number, job.frame.deadline_ns, prepare_ns))

    def forget(self, stream: CameraStream) -> None:
        """Let go of a stream's frames; what the device still says of them is ignored."""
        for number in [number for number, frame in self._frames.items() if frame.job.stream is stream]:
            del self._frames[number]

    def fail_all(self, message: str) -> None:
        """The device is gone, with all frames that it had."""
        self.settle_refused([Refused(number, Verdict.FAILED, message) for number in self._frames])

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
            self._decoders.submit(self._decode, row, pixels[row.row], served.pipeline.model, done)

    def settle_refused(self, refused: Sequence[Refused]) -> None:
        """As `refuse`, in the event loop's thread."""
        for refusal in refused:
            if frame := self._frames.pop(refusal.frame, None):
                frame.job.stream.settle(frame.job, _refusal_answer(frame, refusal, self._engine_name(frame, refusal)))

    def settle_run(self, pipeline: str, ran: Ran, outputs: Sequence[tuple[int, Mapping[str, NDArray[Any]]]]) -> None:
        """As `deliver`, in the event loop's thread."""
        served = self._served[pipeline]
        for number, rows in outputs:
            if frame := self._frames.pop(number, None):
                if frame.encoded:
                    frame.decoded_ns = ran.placed_ns
                    frame.observe_decoded()
                frame.job.stream.settle(frame.job, _run_answer(frame, rows, ran, served))

    def _decode(self, row: Row, pixels: Pixels, model: PreparedModel, done: Prepared) -> None:
        number, frame = row.frame, self._frames.get(row.frame)
        if frame is None or frame.job.over:
            done(number, False)
            return
        job, refusal = frame.job, None
        frame.began_ns = frame.began_ns or time.monotonic_ns()  # a device may have tried before
        try:
            frame.fill(pixels, model, may_leave=row.encoded)
        except FrameError as error:
            refusal = Refused(number, Verdict.BAD_FRAME, str(error))
        except Exception as error:  # noqa: BLE001 - a decoder's fault must not take the batch's other frames along
            _log.exception("decoding a %s frame failed", job.format.name)
            refusal = Refused(number, Verdict.FAILED, f"the decoder failed: {type(error).__name__}")
        frame.decoded_ns = time.monotonic_ns()
        if frame.encoded is None:
            frame.observe_decoded()
        done(number, refusal is None, frame.encoded)
        if refusal:
            self.refuse([refusal])

    def _engine_name(self, frame: _AtDevice, refusal: Refused) -> str:
        return self._served[frame.job.stream.options.pipeline].pipeline.engine_name if refusal.batch_size else ""


def _pixels(job: Job) -> bytes:
    data = job.frame.data
    return shared_pixels(data) if isinstance(data, SharedMemoryRef) else data


def _run_answer(frame: _AtDevice, rows: Mapping[str, NDArray[Any]], ran: Ran, served: _Served) -> Answer:
    """The answer to a frame that was run."""
    job, began_ns = frame.job, time.monotonic_ns()
    try:
        if frame.decoded is None:
            raise AssertionError("a frame ran without being decoded")
        output = served.pipeline.model.decode(rows, frame.decoded.placement, job.stream.options.view)
    except Exception as error:  # noqa: BLE001 - one frame's fault must not take the batch's other frames along
        _log.exception("the outputs of %s could not be understood", served.pipeline.engine_name)
        failed = Refused(0, Verdict.FAILED, f"post-processing failed: {type(error).__name__}", ran.size)
        return _refusal_answer(frame, failed, served.pipeline.engine_name)
    now_ns, received_ns = time.monotonic_ns(), job.frame.received_ns
    times = StageTimes(
        receive_queue=frame.began_ns - received_ns,
        decode=frame.decoded_ns - frame.began_ns,
        wait=ran.started_ns - frame.decoded_ns,
        copy_in=ran.copy_in_ns,
        infer=ran.infer_ns,
        copy_out=ran.copy_out_ns,
        postprocess=now_ns - began_ns,
        predicted=ran.predicted_end_ns - received_ns,
    )
    decoded = frame.decoded
    return Answer(
        Verdict.OK,
        "",
        output,
        decoded.width,
        decoded.height,
        times,
        ran.size,
        served.pipeline.engine_name,
        ready_ns=now_ns,
        run=ran,
    )


def _refusal_answer(frame: _AtDevice, refused: Refused, engine: str) -> Answer:
    """The answer to a frame that was not run, or in vain."""
    job, now_ns = frame.job, time.monotonic_ns()
    began_ns = frame.began_ns or now_ns
    times = StageTimes(receive_queue=began_ns - job.frame.received_ns, decode=(frame.decoded_ns or now_ns) - began_ns)
    return Answer(
        refused.verdict,
        refused.message,
        None,
        job.width,
        job.height,
        times,
        refused.batch_size,
        engine,
        ready_ns=now_ns,
    )

"""A whole frame at a device: decoded once it is chosen, answered once it has run, or at least been seen to."""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from foveate.models.package import PreparedModel
from foveate.service.boundary import Encoded, Refused, Row
from foveate.service.decode import Decoded, decode_into, leave_encoded, leave_held, picture_into
from foveate.service.device_codec import DevicePicture
from foveate.service.frame import Answer, Ran, SharedMemoryRef, StageTimes, Verdict
from foveate.service.job import Job
from foveate.service.pipeline import Pipeline
from foveate.service.shared_memory import shared_pixels
from foveate.service.stream import CameraStream

__all__ = ["Afterwards", "WholeFrame"]

_log = logging.getLogger(__name__)

Pixels = NDArray[np.uint8]


class Afterwards(Protocol):
    """What is done about a frame after its run, before it is answered."""

    def detected(self, frame: WholeFrame, answer: Answer) -> None:
        """Answer it in the end, going on from this answer, whatever goes wrong."""

    def asked_again(self, frame: WholeFrame, refusal: Refused) -> bool:
        """Whether a frame that was refused is on its way to the device once more."""


class WholeFrame:
    """See `ingest.AtDevice`."""

    def __init__(self, job: Job, afterwards: Afterwards | None = None, reserve_ns: int = 0) -> None:
        """`reserve_ns` is what its deadline at the device is earlier than its own, for `afterwards`."""
        self.job = job
        self.afterwards = afterwards
        self.reserve_ns = reserve_ns
        self._began_ns = 0
        """When its decoding began, on the monotonic clock."""
        self._decoded_ns = 0
        self._decoded: Decoded | None = None
        self._encoded: Encoded | None = None
        """It is left to the device."""

    @property
    def stream(self) -> CameraStream:
        return self.job.stream

    @property
    def over(self) -> bool:
        return self.job.over

    @property
    def prepare_ns(self) -> int:
        """What decoding it is predicted to take."""
        return self.stream.decode_cost.predict_ns(self.job.width * self.job.height, time.monotonic_ns())

    def fill(self, pixels: Pixels, model: PreparedModel, row: Row) -> Encoded | None:
        """See `AtDevice`."""
        self._began_ns = self._began_ns or time.monotonic_ns()  # a device may have tried before
        self._encoded = None
        try:
            self._fill(pixels, model, row)
        finally:
            self._decoded_ns = time.monotonic_ns()
            if self._encoded is None:
                self._observe_decoded()
        return self._encoded

    def ran(self, pipeline: Pipeline, ran: Ran, rows: Mapping[str, NDArray[Any]]) -> None:
        """See `AtDevice`."""
        if self._encoded:
            self._decoded_ns = ran.placed_ns
            self._observe_decoded()
        answer = self._run_answer(pipeline, ran, rows)
        if self.afterwards and answer.verdict is Verdict.OK and not self.over:
            self.afterwards.detected(self, answer)
        else:
            self.stream.settle(self.job, answer)

    def refused(self, refusal: Refused, engine: str) -> None:
        """See `AtDevice`."""
        if self.over or (self.afterwards and self.afterwards.asked_again(self, refusal)):
            return
        self.stream.settle(self.job, self._refusal_answer(refusal, engine))

    def failed(self, message: str) -> None:
        """See `AtDevice`."""
        self.stream.settle(self.job, Answer(Verdict.FAILED, message))

    def _fill(self, pixels: Pixels, model: PreparedModel, row: Row) -> None:
        job = self.job
        if (picture := job.picture) is not None:  # read once: it goes when the frame is answered
            if row.held and isinstance(picture, DevicePicture):
                self._decoded, self._encoded = leave_held(picture, model)
            else:
                self._decoded = picture_into(pixels, picture, model)
            return
        data, size = job.frame.data, (job.width, job.height)
        if isinstance(data, SharedMemoryRef):
            data = shared_pixels(data)
        if row.encoded and (left := leave_encoded(pixels, data, job.format, size, model)):
            self._decoded, self._encoded = left
        else:
            self._decoded = decode_into(pixels, data, job.format, size, model)

    def _observe_decoded(self) -> None:
        """Learn how long decoding it took."""
        pixels = self.job.width * self.job.height
        self.stream.decode_cost.observe(pixels, self._decoded_ns - self._began_ns, self._decoded_ns)

    def _before_run_ns(self, began_ns: int, decoded_ns: int) -> tuple[int, int]:
        """How long it waited to be decoded, and how long that took; of video the access unit's part is first."""
        job = self.job
        queued_ns = (job.unit_began_ns or began_ns) - job.frame.received_ns
        return queued_ns, job.unit_decode_ns + decoded_ns - began_ns

    def _run_answer(self, pipeline: Pipeline, ran: Ran, rows: Mapping[str, NDArray[Any]]) -> Answer:
        """The answer to a frame that was run."""
        began_ns, decoded = time.monotonic_ns(), self._decoded
        try:
            if decoded is None:
                raise AssertionError("a frame ran without being decoded")
            output = pipeline.model.decode(rows, decoded.placement, self.stream.options.view)
        except Exception as error:  # noqa: BLE001 - one frame's fault must not take the batch's other frames along
            _log.exception("the outputs of %s could not be understood", pipeline.engine_name)
            failed = Refused(0, Verdict.FAILED, f"post-processing failed: {type(error).__name__}", ran.size)
            return self._refusal_answer(failed, pipeline.engine_name)
        now_ns, received_ns = time.monotonic_ns(), self.job.frame.received_ns
        queued_ns, decode_ns = self._before_run_ns(self._began_ns, self._decoded_ns)
        times = StageTimes(
            receive_queue=queued_ns,
            decode=decode_ns,
            wait=ran.started_ns - received_ns - queued_ns - decode_ns,
            copy_in=ran.copy_in_ns,
            infer=ran.infer_ns,
            copy_out=ran.copy_out_ns,
            postprocess=now_ns - began_ns,
            predicted=ran.predicted_end_ns - received_ns + self.reserve_ns,
        )
        return Answer(
            Verdict.OK,
            "",
            output,
            decoded.width,
            decoded.height,
            times,
            ran.size,
            pipeline.engine_name,
            ready_ns=now_ns,
            run=ran,
        )

    def _refusal_answer(self, refused: Refused, engine: str) -> Answer:
        """The answer to a frame that was not run, or in vain."""
        job, now_ns = self.job, time.monotonic_ns()
        queued_ns, decode_ns = self._before_run_ns(self._began_ns or now_ns, self._decoded_ns or now_ns)
        times = StageTimes(receive_queue=queued_ns, decode=decode_ns)
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

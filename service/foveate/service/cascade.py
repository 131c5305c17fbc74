"""A frame's cascade: crops of what was detected, on their way to other lanes and back.

The frame is answered once all of its crops are back, or when its time ends: a detection whose crop is not back by then
goes without the attribute, and the answer says so.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from foveate.models.geometry import Rect
from foveate.models.outputs import Classes, DecodeOptions, Embedding, Output
from foveate.models.package import PreparedModel
from foveate.service.boundary import Refused, Row
from foveate.service.frame import Attribute, Ran, Verdict
from foveate.service.frame_crops import FrameCrops
from foveate.service.job import Job
from foveate.service.pipeline import CascadeStage, Pipeline
from foveate.service.stream import CameraStream

__all__ = ["NO_TIME", "Cascade", "Crop", "Look", "Seen", "Timer", "missing_message"]

_log = logging.getLogger(__name__)

NO_TIME = "the budget ran out"
_WHY = {
    Verdict.EXPIRED: NO_TIME,
    Verdict.INFEASIBLE: NO_TIME,
    Verdict.REJECTED: "too many crops of the stream wait already",
}
_BEST_CLASS = DecodeOptions(min_score=0.0, max_detections=1)


class Timer(Protocol):
    """A call to come."""

    def cancel(self) -> None:
        """It is not wanted any more."""


class Seen(NamedTuple):
    """A stage, and the index of a detection that it was to look at."""

    stage: str
    detection: int


class Crop:
    """A part of a frame that one stage looks at; see `ingest.AtDevice`."""

    def __init__(self, cascade: Cascade, index: int, look: Look) -> None:
        self.cascade = cascade
        self.index = index
        """Among the crops of the frame."""
        self.stage = look.stage
        self.detection = look.detection
        self.rect = look.rect
        self.number: int | None = None
        """Its number at the device."""

    @property
    def stream(self) -> CameraStream:
        return self.cascade.job.stream

    @property
    def over(self) -> bool:
        return self.cascade.over

    @property
    def prepare_ns(self) -> int:
        """See `AtDevice`."""
        return self.cascade.pixels.prepare_ns(self.index)

    def fill(self, pixels: NDArray[np.uint8], model: PreparedModel, row: Row) -> None:
        """See `AtDevice`. A crop is never left to the device."""
        self.cascade.pixels.write(self.index, pixels)

    def ran(self, pipeline: Pipeline, ran: Ran, rows: Mapping[str, NDArray[Any]]) -> None:
        """See `AtDevice`."""
        try:
            placement = pipeline.model.place(self.rect.width, self.rect.height)
            output = pipeline.model.decode(rows, placement, _BEST_CLASS)
        except Exception as error:  # noqa: BLE001 - one crop's fault must not take the batch's others along
            _log.exception("the outputs of %s could not be understood", pipeline.engine_name)
            self.cascade.miss(self, f"post-processing failed: {type(error).__name__}")
            return
        self.cascade.say(self, _attribute(self.stage.name, output, pipeline.model.labels), ran)

    def refused(self, refusal: Refused, engine: str) -> None:
        """See `AtDevice`."""
        self.cascade.miss(self, _WHY.get(refusal.verdict, refusal.message))

    def failed(self, message: str) -> None:
        """See `AtDevice`."""
        self.cascade.miss(self, message)


class Look(NamedTuple):
    """A detection that a stage is to look at."""

    stage: CascadeStage
    detection: int
    rect: Rect


class Cascade:
    """One frame from its detections to the end of its last crop. Belongs to the event loop's thread."""

    def __init__(
        self,
        job: Job,
        looks: Sequence[Look],
        pixels: FrameCrops,
        when_over: Callable[[Cascade], None],
    ) -> None:
        """`pixels` are those of the looks, in the same order. `when_over` is told once, unless it is abandoned."""
        self.job = job
        self.pixels = pixels
        self.crops = [Crop(self, index, look) for index, look in enumerate(looks)]
        self.timer: Timer | None = None
        """Ends it where nothing else does."""
        self._when_over = when_over
        self.said: dict[Seen, Attribute] = {}
        """What came back."""
        self.missed: dict[Seen, str] = {}
        """What did not, and why."""
        self.last: tuple[CascadeStage, Ran] | None = None
        """The run that it waited for, unless it waited in vain."""
        self.engine_ns = 0
        """What its crops took of their engines' time."""
        self._waiting = dict.fromkeys(self.crops)
        self._over = False

    @property
    def over(self) -> bool:
        """Whether nobody waits for its crops any more."""
        return self._over or self.job.over

    @property
    def waiting(self) -> list[Crop]:
        """Those that are not back."""
        return list(self._waiting)

    def say(self, crop: Crop, attribute: Attribute | None, ran: Ran) -> None:
        """A crop is back; None: its classifier knows no class."""
        if attribute is not None:
            self.said[Seen(crop.stage.name, crop.detection)] = attribute
        self.last = (crop.stage, ran)
        self.engine_ns += ran.share_ns
        self._is_back(crop)

    def miss(self, crop: Crop, why: str) -> None:
        """A crop was not run, or in vain."""
        self.missed[Seen(crop.stage.name, crop.detection)] = why
        self.last = None
        self._is_back(crop)

    def give_up(self) -> None:
        """The time is over: what is not back is missing."""
        for crop in self.waiting:
            self.miss(crop, NO_TIME)

    def abandon(self) -> None:
        """The stream is over: nobody is told."""
        self._over = True
        self.pixels.let_go()
        if self.timer:
            self.timer.cancel()

    def _is_back(self, crop: Crop) -> None:
        self._waiting.pop(crop, None)
        if not self._waiting and not self._over:
            self.abandon()
            self._when_over(self)


def missing_message(missed: Mapping[Seen, str], asked: Iterable[Seen]) -> str:
    """What is missing of what was asked, and why, for people; "" where nothing is."""
    of = Counter(stage for stage, _ in asked)
    return "; ".join(
        f"{count} of {of[stage]} detections {'has' if count == 1 else 'have'} no `{stage}`: {why}"
        for (stage, why), count in Counter((seen.stage, why) for seen, why in missed.items()).items()
    )


def _attribute(name: str, output: Output, labels: Sequence[str]) -> Attribute | None:
    if isinstance(output, Embedding):
        return Attribute(name, 0, "", 0.0, output.vector)
    if isinstance(output, Classes) and len(output.class_ids):
        best = int(output.class_ids[0])
        label = labels[best] if best < len(labels) else str(best)
        return Attribute(name, best, label, float(output.scores[0]))
    return None

"""What comes back: the fate of a frame, what was seen in it, and where its time went."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

import numpy as np
from numpy.typing import NDArray

__all__ = ["Attribute", "ClassScore", "Detections", "Result", "StageTimes", "Verdict"]


class Verdict(StrEnum):
    """The fate of a frame. Every frame that is given to a stream gets exactly one."""

    OK = "ok"
    """Inferred; the result is there."""
    SUPERSEDED = "superseded"
    """A newer frame of the stream replaced it while it waited on the server."""
    INFEASIBLE = "infeasible"
    """Predicted late on arrival, so it was not started."""
    EXPIRED = "expired"
    """Predicted late while it waited, so it was not started."""
    BAD_FRAME = "bad_frame"
    """Its bytes are not a picture of the stream's format."""
    REJECTED = "rejected"
    """Over one of the server's limits, or, said by the client, larger than a message may be."""
    FAILED = "failed"
    """The server failed on it."""
    DRAINING = "draining"
    """The server is going away."""
    DROPPED = "dropped"
    """Said by the client: a newer frame of a live source replaced it before it was sent."""
    LOST = "lost"
    """Said by the client: the connection ended before its answer came, or before it could be sent."""
    UNKNOWN = "unknown"
    """A verdict that this client has no word for: the server is newer than the client."""


@dataclass(frozen=True, slots=True)
class ClassScore:
    """One class of the whole frame."""

    id: int
    label: str
    score: float


@dataclass(frozen=True, slots=True)
class Attribute:
    """One classifier's word about one detection."""

    name: str
    """The cascade stage that said it."""
    id: int
    label: str
    score: float
    embedding: tuple[float, ...] = ()
    """Instead of a class, from a stage that gives a feature vector."""


@dataclass(frozen=True, slots=True, eq=False)
class Detections:
    """Boxes, best score first.

    Shapes: boxes (N, 4) float32 as x1, y1, x2, y2 in pixels of the frame; scores (N,) float32; class_ids
    (N,) int64; track_ids (N,) int64, 0 where not tracked; keypoints (N, K, 3) float32 as x, y, score in
    pixels of the frame (NaN where a detection has fewer than the others), or None where the model gives
    none.
    """

    boxes: NDArray[np.float32]
    scores: NDArray[np.float32]
    class_ids: NDArray[np.int64]
    labels: tuple[str, ...]
    track_ids: NDArray[np.int64]
    keypoints: NDArray[np.float32] | None
    attributes: tuple[tuple[Attribute, ...], ...]

    def __len__(self) -> int:
        return len(self.scores)


def no_detections() -> Detections:
    """Nothing seen."""
    return Detections(
        boxes=np.zeros((0, 4), np.float32),
        scores=np.zeros(0, np.float32),
        class_ids=np.zeros(0, np.int64),
        labels=(),
        track_ids=np.zeros(0, np.int64),
        keypoints=None,
        attributes=(),
    )


@dataclass(frozen=True, slots=True)
class StageTimes:
    """Where a frame's time on the server went, in milliseconds; zeros from the stage on that it did not
    reach."""

    receive_queue_ms: float = 0.0
    """Received until its decoding began."""
    decode_ms: float = 0.0
    """Decoding and resizing to the model's input."""
    wait_ms: float = 0.0
    """Decoded until its batch started."""
    copy_in_ms: float = 0.0
    """Batch to the device."""
    infer_ms: float = 0.0
    """The engine's run of the batch."""
    copy_out_ms: float = 0.0
    """Results from the device."""
    postprocess_ms: float = 0.0
    """Outputs to detections."""
    cascade_ms: float = 0.0
    """Classifiers on crops of the detections."""
    reply_queue_ms: float = 0.0
    """Answer ready until handed to gRPC."""
    total_ms: float = 0.0
    """Received until handed to gRPC."""
    predicted_ms: float = 0.0
    """Received until answered, as the scheduler foresaw it when it took the frame."""


@dataclass(frozen=True, slots=True, eq=False)
class Result:
    """The answer to one frame."""

    sequence: int
    """Which frame: the first one that a stream took from its source is 1, and no number is left out."""
    verdict: Verdict
    message: str
    """Why, for every verdict but OK; with OK, what of the cascade is missing and why."""
    budget_ms: float
    """What held for this frame; 0 where the server never said."""
    age_ms: float
    """How old the frame was when it was sent."""
    round_trip_ms: float | None
    """Sent until its answer was here; None if the server never answered."""
    detections: Detections
    classes: tuple[ClassScore, ...] = ()
    """Best score first."""
    embedding: NDArray[np.float32] | None = None
    """Shapes: (D,) float32, or None where the model gives none."""
    frame_width: int = 0
    """Pixels; 0 where the picture's header was not understood."""
    frame_height: int = 0
    """Pixels."""
    times: StageTimes = StageTimes()
    batch_size: int = 0
    """Frames in the batch that it ran in; 0: it was not started."""
    engine: str = ""
    """The engine that ran it, as name/backend/precision/device."""
    advised_fps: float = 0.0
    """Frames per second that this stream may expect to be answered OK."""
    attributes_missing: int = 0
    """Detections that the cascade was to look at and, for lack of time, did not."""

    @property
    def on_time(self) -> bool:
        """Whether it was answered OK within its budget, counted from capture to the server's answer."""
        return self.verdict is Verdict.OK and self.age_ms + self.times.total_ms <= self.budget_ms


def unsent_result(sequence: int, verdict: Verdict, message: str) -> Result:
    """The client's own word about a frame that the server never saw."""
    return Result(sequence, verdict, message, 0.0, 0.0, None, no_detections())

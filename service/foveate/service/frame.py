"""The service's own words: a frame, its stream, its answer. Protobuf stays outside, in `convert`."""

from __future__ import annotations

import enum
from dataclasses import dataclass, field, replace
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from foveate.models.outputs import DecodeOptions, Output

__all__ = [
    "Answer",
    "Attribute",
    "Delivery",
    "Frame",
    "Grant",
    "PixelFormat",
    "Ran",
    "SharedMemoryRef",
    "StageTimes",
    "StreamOptions",
    "Verdict",
]


class Verdict(enum.Enum):
    """The fate of a frame; every frame received gets exactly one."""

    OK = "ok"
    SUPERSEDED = "superseded"
    INFEASIBLE = "infeasible"
    EXPIRED = "expired"
    BAD_FRAME = "bad_frame"
    REJECTED = "rejected"
    FAILED = "failed"
    DRAINING = "draining"


class PixelFormat(enum.Enum):
    """How a frame's pixels are encoded. AUTO tells the picture formats apart by their first bytes."""

    AUTO = "auto"
    JPEG = "jpeg"
    PNG = "png"
    WEBP = "webp"
    H264 = "h264"
    H265 = "h265"
    RAW_RGB = "raw_rgb"
    RAW_BGR = "raw_bgr"
    RAW_NV12 = "raw_nv12"

    @property
    def raw(self) -> bool:
        return self in (PixelFormat.RAW_RGB, PixelFormat.RAW_BGR, PixelFormat.RAW_NV12)

    @property
    def video(self) -> bool:
        """Whether a frame is an access unit, which can be decoded only after those before it."""
        return self in (PixelFormat.H264, PixelFormat.H265)


class Delivery(enum.Enum):
    """Which frames of a stream wait: only the newest, or a bounded queue of all."""

    LATEST = "latest"
    QUEUE = "queue"


class Grant(enum.Enum):
    """What the server promises a stream."""

    GUARANTEED = "guaranteed"
    BEST_EFFORT = "best_effort"


@dataclass(frozen=True, slots=True)
class SharedMemoryRef:
    """Where a frame lies in a file below /dev/shm. Units: bytes."""

    name: str
    offset: int
    size: int


@dataclass(frozen=True, slots=True)
class StreamOptions:
    """What a stream asked for when it opened, with the server's defaults filled in."""

    pipeline: str
    budget_ns: int
    fps: float = 0.0
    """Frames per second that the camera will send; 0: unknown."""
    priority: int = 0
    weight: float = 1.0
    delivery: Delivery = Delivery.LATEST
    queue_depth: int = 8
    format: PixelFormat = PixelFormat.AUTO
    width: int = 0
    """Pixels; only with the raw formats."""
    height: int = 0
    view: DecodeOptions = field(default_factory=lambda: DecodeOptions(0.0, 100))
    crops_of: str = ""
    """The pipeline of which its frames are crops, as many as are detected there: what they cost is measured. "": of
    none, they are whole."""

    @property
    def crops(self) -> bool:
        """Whether its frames are crops of another stream's."""
        return bool(self.crops_of)


@dataclass(frozen=True, slots=True)
class Frame:
    """One picture of a stream as it was received. Times are on the server's monotonic clock."""

    sequence: int
    received_ns: int
    deadline_ns: int
    """received + budget - the age that the client declared."""
    data: bytes | SharedMemoryRef


@dataclass(frozen=True, slots=True)
class StageTimes:
    """Where a frame's time went, in nanoseconds; the fields are those of the wire's `StageTimes`."""

    receive_queue: int = 0
    decode: int = 0
    wait: int = 0
    copy_in: int = 0
    infer: int = 0
    copy_out: int = 0
    postprocess: int = 0
    cascade: int = 0
    reply_queue: int = 0
    total: int = 0
    predicted: int = 0


class Ran(NamedTuple):
    """One run of an engine, as the frames in it have to know of it. Units: nanoseconds on the host's clock."""

    size: int
    started_ns: int
    ended_ns: int
    copy_in_ns: int
    infer_ns: int
    copy_out_ns: int
    predicted_end_ns: int
    """As it was foreseen when the batch was planned."""
    batch: int
    """The device's number for it."""
    slot: int
    pid: int
    """The process that it ran in."""
    placed_ns: int = 0
    """When the device had decoded those of its frames that were left to it; 0: none were."""

    @property
    def share_ns(self) -> int:
        """What each of its frames took of the engine's time."""
        return (self.ended_ns - self.started_ns) // self.size


class Attribute(NamedTuple):
    """One cascade stage's word about one detection."""

    name: str
    """The stage that said it."""
    class_id: int
    label: str
    score: float
    embedding: NDArray[np.float32] | None = None
    """Shapes: (D,) float32, from a stage that gives a feature vector instead of a class."""


@dataclass(frozen=True, slots=True)
class Answer:
    """The one answer to a frame."""

    verdict: Verdict
    message: str = ""
    output: Output | None = None
    frame_width: int = 0
    frame_height: int = 0
    times: StageTimes = StageTimes()
    batch_size: int = 0
    engine: str = ""
    ready_ns: int = 0
    """When the answer came to be; the time until it is handed to gRPC is its `reply_queue`."""
    run: Ran | None = None
    """The run that it comes from."""
    track_ids: tuple[int, ...] = ()
    """By detection, 0 where one is not tracked; empty: the pipeline does not track."""
    attributes: tuple[tuple[Attribute, ...], ...] = ()
    """By detection; empty: the pipeline has no cascade."""
    attributes_missing: int = 0
    """Detections that the cascade was to look at and, for lack of time, did not."""
    crops_ns: int = 0
    """What its crops took of their engines' time."""

    def handed_over(self, received_ns: int, now_ns: int) -> Answer:
        """This answer with its last two times filled in, at the moment when gRPC takes it."""
        times = replace(self.times, reply_queue=max(0, now_ns - self.ready_ns), total=now_ns - received_ns)
        return replace(self, times=times)

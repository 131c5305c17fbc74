"""What a server says about itself and about a stream that it has opened."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

__all__ = [
    "CascadeStage",
    "EngineDescription",
    "EngineStatus",
    "Grant",
    "Ledger",
    "PipelineInfo",
    "ServerStatus",
    "StreamInfo",
    "StreamStatus",
]


class Grant(StrEnum):
    """What the server promises a stream."""

    UNSPECIFIED = "unspecified"
    GUARANTEED = "guaranteed"
    """Its declared frame rate fits beside the streams already open."""
    BEST_EFFORT = "best_effort"
    """It gets what is left over."""


@dataclass(frozen=True, slots=True)
class EngineDescription:
    """A compiled, runnable form of a model."""

    name: str
    """The model that it runs."""
    backend: str
    precision: str
    device: str

    def __str__(self) -> str:
        return f"{self.name}/{self.backend}/{self.precision}/{self.device}"


@dataclass(frozen=True, slots=True)
class StreamInfo:
    """What the server said when it opened a stream, or when that changed."""

    stream_id: str
    grant: Grant
    advised_fps: float
    """Frames per second that this stream may expect to be answered OK."""
    window: int
    """Frames that may be unanswered at once."""
    smallest_budget_ms: float
    budget_ms: int
    """The budget of frames without one of their own."""
    engine: EngineDescription
    labels: tuple[str, ...]
    """Class names by class id."""
    input_width: int
    """Pixels of the model's input: sending much more than this buys nothing."""
    input_height: int
    resume_token: str


@dataclass(frozen=True, slots=True)
class CascadeStage:
    """A model that looks at what a pipeline has detected, and says an attribute of it."""

    name: str
    """As in `Attribute.name`."""
    pipeline: str
    """Whose engine runs it."""
    model: str
    task: str
    """classify or embed."""
    labels: tuple[str, ...]
    """Class names by class id; empty where it embeds."""
    classes: tuple[str, ...]
    """Labels of the detections that it looks at; empty: all of them."""


@dataclass(frozen=True, slots=True)
class PipelineInfo:
    """One pipeline of a server."""

    name: str
    is_default: bool
    ready: bool
    message: str
    """Why it is not ready, and what to do."""
    model: str
    task: str
    """detect, classify or embed."""
    engine: EngineDescription
    labels: tuple[str, ...]
    input_width: int
    """Pixels."""
    input_height: int
    """Pixels."""
    smallest_budget_ms: float
    licence: str
    """Of the weights, as an SPDX expression."""
    cascade: tuple[CascadeStage, ...] = ()
    """What looks closer at its detections."""


@dataclass(frozen=True, slots=True)
class Ledger:
    """Where every received frame went: received is the sum of the verdicts, cancelled and in_flight."""

    received: int
    ok: int
    superseded: int
    infeasible: int
    expired: int
    bad_frame: int
    rejected: int
    failed: int
    draining: int
    in_flight: int
    """Received and not answered yet."""
    late: int
    """Of the ok: answered after their deadline."""
    cancelled: int
    """Withdrawn unanswered: the client was gone before they were started."""
    undelivered: int
    """Of the answered: the client was gone before it could be told."""


@dataclass(frozen=True, slots=True)
class EngineStatus:
    """One engine, now."""

    pipeline: str
    engine: EngineDescription
    latency_ms_by_batch: dict[int, float]
    """Latency of one run by batch size, as tracked now."""
    busy_share: float
    """0..1 of the last seconds that the engine ran."""
    margin_ms: float
    """Kept free before each deadline."""
    waiting: int
    """Frames that wait now."""
    batches: int
    """Run since the start."""
    frames: int
    """Inferred since the start."""
    batch_cap: int
    """The largest batch that is formed now."""


@dataclass(frozen=True, slots=True)
class StreamStatus:
    """One open stream, now."""

    stream_id: str
    pipeline: str
    grant: Grant
    budget_ms: int
    priority: int
    advised_fps: float
    open_s: float
    """Seconds since it was opened."""
    ledger: Ledger


@dataclass(frozen=True, slots=True)
class ServerStatus:
    """A whole server, now."""

    version: str
    uptime_s: float
    draining: bool
    engines: tuple[EngineStatus, ...]
    streams: tuple[StreamStatus, ...]
    ledger: Ledger
    """Over all streams and single pictures since the start."""

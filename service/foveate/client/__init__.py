"""The streaming client: `Client` for plain programs, `AsyncClient` for those with an event loop.

with Client("127.0.0.1:50051") as client:
    for result in client.stream(frames, pipeline="faces", budget_ms=100):
        print(result.sequence, result.verdict, result.detections.boxes)
"""

from foveate.client.aio import AsyncClient
from foveate.client.blocking import Client, Stream
from foveate.client.errors import (
    BudgetTooSmall,
    ClientError,
    InvalidRequest,
    NoSuchPipeline,
    Overloaded,
    Refused,
    StreamBroken,
    Unreachable,
)
from foveate.client.frame import Frame, FrameLike
from foveate.client.reconnect import Reconnect
from foveate.client.result import Attribute, ClassScore, Detections, Result, StageTimes, Verdict
from foveate.client.server_info import (
    CascadeStage,
    EngineDescription,
    EngineStatus,
    Grant,
    Ledger,
    PipelineInfo,
    ServerStatus,
    StreamInfo,
    StreamStatus,
)
from foveate.client.settings import Connection, Delivery, PictureSettings, PixelFormat, StreamSettings
from foveate.client.source import Frames
from foveate.client.stream import AsyncStream, EventKind, StreamEvent

__all__ = [
    "AsyncClient",
    "AsyncStream",
    "Attribute",
    "BudgetTooSmall",
    "CascadeStage",
    "ClassScore",
    "Client",
    "ClientError",
    "Connection",
    "Delivery",
    "Detections",
    "EngineDescription",
    "EngineStatus",
    "EventKind",
    "Frame",
    "FrameLike",
    "Frames",
    "Grant",
    "InvalidRequest",
    "Ledger",
    "NoSuchPipeline",
    "Overloaded",
    "PictureSettings",
    "PipelineInfo",
    "PixelFormat",
    "Reconnect",
    "Refused",
    "Result",
    "ServerStatus",
    "StageTimes",
    "Stream",
    "StreamBroken",
    "StreamEvent",
    "StreamInfo",
    "StreamSettings",
    "StreamStatus",
    "Unreachable",
    "Verdict",
]

"""What an ingest asks of the service as a whole: the names of streams, and how everything stands."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol

from foveate.service.boundary import LaneStatus
from foveate.service.device import Device
from foveate.service.directory import Claim, Holder, StreamDirectory
from foveate.service.frame import Grant
from foveate.service.ledger import Ledger
from foveate.service.stream import StreamRecord

__all__ = ["IngestReport", "OneProcess", "ServicePort", "ServiceStatus", "StreamStatus"]


@dataclass(frozen=True, slots=True)
class StreamStatus:
    """How a stream stands."""

    stream_id: str
    pipeline: str
    grant: Grant
    budget_ns: int
    priority: int
    advised_fps: float
    open_s: float
    ledger: Ledger


@dataclass(frozen=True, slots=True)
class ServiceStatus:
    """How the whole service stands, over all its processes."""

    lanes: Sequence[LaneStatus] = ()
    streams: Sequence[StreamStatus] = ()
    ledger: Ledger = field(default_factory=Ledger)


class IngestReport(Holder, Protocol):
    """An ingest, as the service knows it."""

    def streams(self) -> list[StreamStatus]:
        """Its open streams."""


class ServicePort(Protocol):
    """The service as one ingest sees it."""

    def attach(self, ingest: IngestReport) -> None:
        """The ingest that asks."""

    async def claim(self, stream_id: str, resume_token: str) -> Claim:
        """The right to open a stream. Raises: Overloaded, StreamTaken, EngineUnavailable."""

    def release(self, record: StreamRecord, *, resumable: bool) -> None:
        """Give a stream back, to be taken up again for a while if it is `resumable`."""

    async def status(self) -> ServiceStatus:
        """How everything stands now."""


class OneProcess:
    """The service where all of it runs in this process: `ServicePort` without messages."""

    def __init__(self, directory: StreamDirectory, device: Device, ledger: Ledger) -> None:
        self._directory = directory
        self._device = device
        self._ledger = ledger
        self._ingest: IngestReport | None = None

    def attach(self, ingest: IngestReport) -> None:
        """See `ServicePort`."""
        self._ingest = ingest

    async def claim(self, stream_id: str, resume_token: str) -> Claim:
        """See `ServicePort`."""
        return await self._directory.claim(self._attached, stream_id, resume_token)

    def release(self, record: StreamRecord, *, resumable: bool) -> None:
        """See `ServicePort`."""
        self._directory.release(self._attached, record, resumable=resumable)

    async def status(self) -> ServiceStatus:
        """See `ServicePort`."""
        return ServiceStatus(self._device.status(), self._attached.streams(), self._ledger)

    @property
    def _attached(self) -> IngestReport:
        if self._ingest is None:
            raise AssertionError("asked before the ingest was attached")
        return self._ingest

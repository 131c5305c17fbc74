"""What an ingest asks of the service as a whole: the names of streams, and how everything stands."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Protocol

from foveate.service.boundary import LaneStatus
from foveate.service.device import Device
from foveate.service.directory import Claim, Holder, StreamDirectory
from foveate.service.frame import Grant
from foveate.service.ledger import Ledger
from foveate.service.metrics import IngestStanding, LaneTotals, ProcessLife, ServiceCounts, ServiceMetrics
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

    def standing(self) -> IngestStanding:
        """How its frames and streams stand."""


class ServicePort(Protocol):
    """The service as one ingest sees it."""

    def attach(self, ingest: IngestReport) -> None:
        """The ingest that asks."""

    async def claim(self, stream_id: str, resume_token: str, pipeline: str) -> Claim:
        """The right to open a stream. Raises: Overloaded, StreamTaken, EngineUnavailable."""

    def release(self, record: StreamRecord, *, resumable: bool) -> None:
        """Give a stream back, to be taken up again for a while if it is `resumable`."""

    async def status(self) -> ServiceStatus:
        """How everything stands now."""


class OneProcess:
    """The service where all of it runs in this process: `ServicePort` without messages."""

    def __init__(
        self, directory: StreamDirectory, device: Device, counts: ServiceCounts, lane_totals: LaneTotals
    ) -> None:
        self._directory = directory
        self._device = device
        self._counts = counts
        self._lane_totals = lane_totals
        self._ingest: IngestReport | None = None

    def attach(self, ingest: IngestReport) -> None:
        """See `ServicePort`."""
        self._ingest = ingest

    async def claim(self, stream_id: str, resume_token: str, pipeline: str) -> Claim:
        """See `ServicePort`."""
        claim = await self._directory.claim(self._attached, stream_id, resume_token, pipeline)
        series = self._counts.series(claim.record.stream_id, pipeline, named=bool(stream_id))
        return replace(claim, series=series)

    def release(self, record: StreamRecord, *, resumable: bool) -> None:
        """See `ServicePort`."""
        self._directory.release(self._attached, record, resumable=resumable)

    async def status(self) -> ServiceStatus:
        """See `ServicePort`."""
        return ServiceStatus(self._device.status(), self._attached.streams(), self._counts.ledger())

    def metrics(self) -> ServiceMetrics:
        """All that the service tells about itself, now."""
        alone = ProcessLife("service", os.getpid(), 1)
        running = [lane for lane in self._device.status() if not self._device.lane(lane.pipeline).lost]
        return self._counts.metrics(self._lane_totals, running, self._attached.standing(), [alone])

    @property
    def _attached(self) -> IngestReport:
        if self._ingest is None:
            raise AssertionError("asked before the ingest was attached")
        return self._ingest

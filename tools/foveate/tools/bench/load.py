"""Streams sent to a server as their plans say, in this process's event loop."""

from __future__ import annotations

import asyncio
import gc
import itertools
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from foveate.client import AsyncClient, ClientError, StreamInfo
from foveate.client.schedule import Outcome, ScheduledFrame
from foveate.client.settings import StreamSettings

__all__ = ["StreamLog", "StreamPlan", "run_load"]

_LEAD_S = 0.25
"""From the moment that all streams are open until the first frame is due."""
_STREAMS_PER_CONNECTION = 64
"""Fewer than the 100 that gRPC servers commonly allow on one connection."""


@dataclass(frozen=True, slots=True, eq=False)
class StreamPlan:
    """What one stream is to send."""

    name: str
    settings: StreamSettings
    due_s: Sequence[float]
    """When each frame is due, in seconds from the start."""
    pictures: Sequence[bytes]
    """Sent in turn."""
    abusive: bool = False
    """Whether it sends more than it declares: it is no part of the fairness figures."""


@dataclass(slots=True, eq=False)
class StreamLog:
    """What became of a stream's frames."""

    plan: StreamPlan
    info: StreamInfo | None = None
    """What the server said when it opened the stream; None if it refused."""
    refusal: str = ""
    outcomes: list[Outcome] = field(default_factory=list)


async def run_load(target: str, plans: Sequence[StreamPlan]) -> list[StreamLog]:
    """Open all streams, send their frames when they are due, and wait for the answers. A refused stream is logged."""
    logs = [StreamLog(plan) for plan in plans]
    connections = -(-len(plans) // _STREAMS_PER_CONNECTION)
    clients = [AsyncClient(target) for _ in range(connections)]
    start = _CommonStart(len(plans))
    gc.collect()
    gc.freeze()  # a collection over the load's own pictures and plans would be counted as the server's latency
    try:
        await asyncio.gather(
            *(_run_stream(clients[number % connections], log, start) for number, log in enumerate(logs))
        )
    finally:
        gc.unfreeze()
        for client in clients:
            await client.close()
    return logs


class _CommonStart:
    """The moment from which all streams count, known once the last of them is open or refused."""

    def __init__(self, streams: int) -> None:
        self._missing = streams
        self._moment: asyncio.Future[float] = asyncio.get_running_loop().create_future()

    @property
    def at(self) -> float:
        return self._moment.result()

    def arrived(self) -> None:
        self._missing -= 1
        if self._missing == 0:
            self._moment.set_result(time.monotonic() + _LEAD_S)

    async def wait(self) -> None:
        await self._moment


async def _run_stream(client: AsyncClient, log: StreamLog, start: _CommonStart) -> None:
    plan = log.plan

    def opened(info: StreamInfo) -> asyncio.Task[None]:
        log.info = info
        start.arrived()
        return asyncio.ensure_future(start.wait())

    def frames() -> Iterator[ScheduledFrame]:
        for due_s, picture in zip(plan.due_s, itertools.cycle(plan.pictures), strict=False):
            yield ScheduledFrame(start.at + due_s, picture)

    try:
        await client.open_loop(frames(), opened, log.outcomes.append, **plan.settings)
    except ClientError as error:
        log.refusal = str(error)
        if log.info is None:
            start.arrived()

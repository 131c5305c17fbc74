"""The names and tokens of all streams of a service, whichever of its ingests holds them."""

from __future__ import annotations

import asyncio
import secrets
import time
from collections import Counter
from collections.abc import Collection, Hashable
from dataclasses import dataclass, field
from typing import Protocol

from foveate.engines.errors import EngineUnavailable, Overloaded, StreamTaken
from foveate.service.stream import StreamRecord
from foveate.service.tracking import first_id_after_loss

__all__ = ["Claim", "Holder", "StreamDirectory"]

_EVICTED_WITHIN_S = 2.0


@dataclass(frozen=True, slots=True)
class Claim:
    """A stream that may be opened."""

    record: StreamRecord
    device: int
    """Index of the device that serves it."""
    resumed: bool
    series: int = 0
    """Of the metrics of single streams; 0: it has none of its own."""


class Holder(Hashable, Protocol):
    """An ingest, as the directory knows it."""

    def evict(self, stream_id: str) -> None:
        """Let go of a stream whose client has come back elsewhere; its release follows."""


@dataclass(slots=True)
class _Open:
    holder: Holder
    token: str
    device: int
    released: asyncio.Event = field(default_factory=asyncio.Event)


@dataclass(frozen=True, slots=True)
class _Parked:
    record: StreamRecord
    until_ns: int


class StreamDirectory:
    """Who is connected where. Belongs to one event loop's thread."""

    def __init__(self, max_streams: int, resume_s: float) -> None:
        self.serving: dict[int, Collection[str]] = {}
        """The devices that new streams may go to, each with the pipelines that it serves."""
        self._max_streams = max_streams
        self._resume_ns = int(resume_s * 1e9)
        self._open: dict[str, _Open] = {}
        self._parked: dict[str, _Parked] = {}

    def __len__(self) -> int:
        return len(self._open)

    def is_open(self, stream_id: str) -> bool:
        """Whether a stream of that name is connected now."""
        return stream_id in self._open

    async def claim(self, holder: Holder, stream_id: str, resume_token: str, pipeline: str) -> Claim:
        """Enter a stream for `holder`, as a new one or as the one that a token takes up again.

        A stream whose connection only looks alive is let go of first: the client knows better.
        Raises: Overloaded if the server is full, StreamTaken if its name is, EngineUnavailable if no device serves
        the pipeline.
        """
        earlier = await self._resumable(resume_token) if resume_token else None
        name = earlier.stream_id if earlier else stream_id or f"stream-{secrets.token_hex(4)}"
        if len(self._open) >= self._max_streams:
            raise Overloaded(
                f"{len(self._open)} streams are open, which is this server's limit: try again later or elsewhere"
            )
        if name in self._open:
            raise StreamTaken(
                f"stream {name!r} is open already: close it, leave stream_id empty, "
                "or take it over with its resume_token"
            )
        device = self._least_loaded(pipeline)
        record = earlier or StreamRecord(name, secrets.token_urlsafe(16))
        self._parked.pop(record.resume_token, None)
        self._open[name] = _Open(holder, record.resume_token, device)
        return Claim(record, device, earlier is not None)

    def release(self, holder: Holder, record: StreamRecord, *, resumable: bool) -> None:
        """A stream's connection is over; its token takes it up again for a while.

        One that ended well is kept like one that broke: a connection that is cut can look like either.
        """
        found = self._open.get(record.stream_id)
        if found and found.holder is holder:
            self._let_go(record, found, resumable=resumable)
        self._forget_parked()

    def lose(self, holder: Holder) -> None:
        """An ingest has died: its streams can be taken up again by name, with nothing remembered."""
        for stream_id, found in list(self._open.items()):
            if found.holder is holder:
                self._let_go(_unknown(stream_id, found.token), found, resumable=True)

    async def _resumable(self, token: str) -> StreamRecord | None:
        self._forget_parked()
        if not self._resume_ns:
            return None
        for stream_id, found in list(self._open.items()):
            if secrets.compare_digest(found.token.encode(), token.encode()):
                await self._evict(stream_id, found)
        parked = self._parked.get(token)
        return parked.record if parked else None

    async def _evict(self, stream_id: str, found: _Open) -> None:
        found.holder.evict(stream_id)
        try:
            async with asyncio.timeout(_EVICTED_WITHIN_S):
                await found.released.wait()
        except TimeoutError:  # its ingest hangs: go on without what it knows
            if self._open.get(stream_id) is found:
                self._let_go(_unknown(stream_id, found.token), found, resumable=True)

    def _let_go(self, record: StreamRecord, found: _Open, *, resumable: bool) -> None:
        del self._open[record.stream_id]
        if resumable and self._resume_ns:
            self._parked[record.resume_token] = _Parked(record, time.monotonic_ns() + self._resume_ns)
        found.released.set()

    def _least_loaded(self, pipeline: str) -> int:
        able = [device for device, pipelines in sorted(self.serving.items()) if pipeline in pipelines]
        if not able:
            raise EngineUnavailable(
                f"no engine serves pipeline {pipeline!r} now: it is being started again, try again in some seconds"
            )
        load = Counter(found.device for found in self._open.values())
        return min(able, key=lambda device: load[device])

    def _forget_parked(self) -> None:
        now_ns = time.monotonic_ns()
        for token, parked in list(self._parked.items()):
            if parked.until_ns <= now_ns:
                del self._parked[token]


def _unknown(stream_id: str, token: str) -> StreamRecord:
    """Of a stream whose ingest has taken along what was known of it."""
    return StreamRecord(stream_id, token, next_track_id=first_id_after_loss(time.monotonic_ns()))

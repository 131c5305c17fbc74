"""The client for programs without an event loop: the asynchronous one, driven by a thread of its own."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Coroutine, Iterator
from types import TracebackType
from typing import Any, Self, TypeVar, Unpack

import grpc

from foveate.client.aio import AsyncClient
from foveate.client.frame import FrameLike
from foveate.client.reconnect import Reconnect
from foveate.client.result import Result
from foveate.client.server_info import PipelineInfo, ServerStatus, StreamInfo
from foveate.client.settings import Connection, PictureSettings, StreamSettings
from foveate.client.source import Frames
from foveate.client.stream import AsyncStream, OnEvent

__all__ = ["Client", "Stream"]

_T = TypeVar("_T")


class Client:
    """A connection to one server, for streams and single pictures. Safe to use from several threads."""

    def __init__(
        self,
        target: str,
        *,
        credentials: grpc.ChannelCredentials | None = None,
        connection: Connection | None = None,
        reconnect: Reconnect | None = None,
        on_event: OnEvent | None = None,
    ) -> None:
        """As `AsyncClient`; `on_event` is called in the client's own thread and may not call the client."""

        async def connect() -> AsyncClient:
            return AsyncClient(
                target,
                credentials=credentials,
                connection=connection,
                reconnect=reconnect,
                on_event=on_event,
            )

        self._loop = _LoopThread()
        self._client = self._loop.run(connect())

    def infer(self, frame: FrameLike, **settings: Unpack[PictureSettings]) -> Result:
        """As `AsyncClient.infer`."""
        return self._loop.run(self._client.infer(frame, **settings))

    def stream(
        self, frames: Frames, *, live: bool = False, paced: bool | None = None, **settings: Unpack[StreamSettings]
    ) -> Stream:
        """As `AsyncClient.stream`."""
        return Stream(self._client.stream(frames, live=live, paced=paced, **settings), self._loop)

    def list_pipelines(self) -> tuple[PipelineInfo, ...]:
        """As `AsyncClient.list_pipelines`."""
        return self._loop.run(self._client.list_pipelines())

    def status(self) -> ServerStatus:
        """As `AsyncClient.status`."""
        return self._loop.run(self._client.status())

    def close(self) -> None:
        """End all streams, the connection and the thread. Idempotent."""
        if self._loop.running:
            self._loop.run(self._client.close())
            self._loop.stop()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class Stream:
    """An iterable over one result per frame, in frame order; the blocking twin of `AsyncStream`."""

    def __init__(self, stream: AsyncStream, loop: _LoopThread) -> None:
        self._stream = stream
        self._loop = loop

    @property
    def info(self) -> StreamInfo | None:
        """As `AsyncStream.info`."""
        return self._stream.info

    @property
    def dropped(self) -> int:
        """As `AsyncStream.dropped`."""
        return self._stream.dropped

    @property
    def unexpected(self) -> int:
        """As `AsyncStream.unexpected`."""
        return self._stream.unexpected

    def opened(self) -> StreamInfo:
        """As `AsyncStream.opened`."""
        return self._loop.run(self._stream.opened())

    def next(self) -> Result | None:
        """As `AsyncStream.next`."""
        return self._loop.run(self._stream.next())

    def __iter__(self) -> Iterator[Result]:
        try:
            while (result := self.next()) is not None:
                yield result
        finally:
            self.close()

    def close(self) -> None:
        """As `AsyncStream.aclose`."""
        if self._loop.running:  # the client closes its streams with itself
            self._loop.run(self._stream.aclose())

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class _LoopThread:
    """An event loop in a daemon thread of its own."""

    def __init__(self) -> None:
        started = threading.Event()
        self._thread = threading.Thread(
            target=lambda: asyncio.run(self._serve(started)), name="foveate-client", daemon=True
        )
        self._thread.start()
        started.wait()

    @property
    def running(self) -> bool:
        return not self._stop.is_set()

    def run(self, coroutine: Coroutine[Any, Any, _T]) -> _T:
        """The coroutine's result; an interrupt of the caller cancels it. Raises: RuntimeError after
        `stop`."""
        if not self.running:
            coroutine.close()
            raise RuntimeError("this client is closed: make a new one")
        future = asyncio.run_coroutine_threadsafe(coroutine, self._loop)
        try:
            return future.result()
        finally:
            future.cancel()  # does nothing to one that is done

    def stop(self) -> None:
        """End the loop, cancelling what still runs in it, and the thread."""
        self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join()

    async def _serve(self, started: threading.Event) -> None:
        self._loop = asyncio.get_running_loop()
        self._stop = asyncio.Event()
        started.set()
        await self._stop.wait()

"""The client for programs that run an event loop."""

from __future__ import annotations

import time
import weakref
from collections.abc import Awaitable, Callable, Iterable
from types import TracebackType
from typing import Any, Self, Unpack

import grpc
import grpc.aio

from foveate.client.access_unit import VIDEO_FORMATS
from foveate.client.convert import (
    infer_message,
    pipeline_from_message,
    result_from_message,
    status_from_message,
)
from foveate.client.errors import Unreachable, refused_from_status
from foveate.client.frame import FrameLike, oversize, payload_from_frame, sized_for
from foveate.client.frame_flow import sent_now
from foveate.client.open_loop import open_loop
from foveate.client.reconnect import Reconnect
from foveate.client.result import Result, Verdict, unsent_result
from foveate.client.schedule import Outcome, ScheduledFrame
from foveate.client.server_info import PipelineInfo, ServerStatus, StreamInfo
from foveate.client.settings import Connection, PictureSettings, StreamSettings
from foveate.client.source import Frames
from foveate.client.stream import AsyncStream, OnEvent
from foveate.proto import vision_pb2, vision_pb2_grpc

__all__ = ["AsyncClient"]

_UNREACHABLE_CODES = {
    grpc.StatusCode.UNAVAILABLE,
    grpc.StatusCode.DEADLINE_EXCEEDED,
    grpc.StatusCode.CANCELLED,  # by a server that stops: a cancellation of our own never arrives as a status
}


class AsyncClient:
    """A connection to one server, for streams and single pictures. Make and use it inside one running event
    loop."""

    def __init__(
        self,
        target: str,
        *,
        credentials: grpc.ChannelCredentials | None = None,
        connection: Connection | None = None,
        reconnect: Reconnect | None = None,
        on_event: OnEvent | None = None,
    ) -> None:
        """Connects with the first request.

        `target` is HOST:PORT or any gRPC name; `credentials` switch TLS on; `on_event` is called inside the
        loop with what happens to streams between their results.
        """
        connection = connection or Connection()
        self._reconnect = reconnect or Reconnect()
        options = _channel_options(connection, self._reconnect)
        self._channel: grpc.aio.Channel = (
            grpc.aio.insecure_channel(target, options)
            if credentials is None
            else grpc.aio.secure_channel(target, credentials, options)
        )
        self._stub = vision_pb2_grpc.VisionStub(self._channel)  # type: ignore[no-untyped-call]
        self._target = target
        self._timeout_s = connection.timeout_s
        self._max_message_bytes = connection.max_message_bytes
        self._on_event = on_event
        self._streams: weakref.WeakSet[AsyncStream] = weakref.WeakSet()

    async def infer(self, frame: FrameLike, **settings: Unpack[PictureSettings]) -> Result:
        """The answer to one picture; REJECTED, without asking the server, if it is too large for a message.

        Raises: Refused, Unreachable; ValueError for an array that does not fit its format.
        """
        settings = sized_for(frame, settings)
        payload = payload_from_frame(frame, settings)
        if why := oversize(payload, self._max_message_bytes):
            return unsent_result(1, Verdict.REJECTED, why)
        sent = sent_now(1, payload, time.monotonic())
        budget_ms = payload.budget_ms or settings.get("budget_ms", 0)
        reply: vision_pb2.FrameResult = await self._ask(self._stub.Infer, infer_message(sent, settings))
        return result_from_message(reply, sent, time.monotonic(), budget_ms)

    def stream(
        self, frames: Frames, *, live: bool = False, paced: bool | None = None, **settings: Unpack[StreamSettings]
    ) -> AsyncStream:
        """One result per frame, in frame order, while frames are read and sent.

        A plain iterable of frames is read in a thread of its own. While the server takes no more, the
        source has to wait; that of a camera cannot: say ``live=True``, and the newest frame replaces the
        one that waits to be sent, whose verdict is DROPPED. Lost connections are taken up again; frames
        that were on their way are LOST.

        A `paced` stream sends no faster than the server advises, which is what it can expect to be answered
        OK: sending more costs bandwidth and gains no answers. None: live sources are paced, others are not,
        since a file's frames may as well arrive as fast as the window lets them.

        With ``format=PixelFormat.H264`` or ``H265`` a frame is an access unit, as bytes, and builds on those before
        it. So a live video is not paced, some of its units may wait, and where one has to be left out, all up to the
        next key frame are DROPPED.
        """
        stream = AsyncStream(
            self._target,
            self._stub.Stream,
            frames,
            settings,
            live=live,
            paced=live and settings.get("format") not in VIDEO_FORMATS if paced is None else paced,
            max_message_bytes=self._max_message_bytes,
            reconnect=self._reconnect,
            on_event=self._on_event,
        )
        self._streams.add(stream)
        return stream

    async def open_loop(
        self,
        frames: Iterable[ScheduledFrame],
        on_opened: Callable[[StreamInfo], Awaitable[None] | None],
        on_outcome: Callable[[Outcome], None],
        **settings: Unpack[StreamSettings],
    ) -> None:
        """Send frames when they are due, whatever the answers do, over one RPC: for load tools, see `open_loop`."""
        await open_loop(self._stub.Stream(), settings, frames, on_opened, on_outcome)

    async def list_pipelines(self) -> tuple[PipelineInfo, ...]:
        """What the server serves. Raises: Refused, Unreachable."""
        reply: vision_pb2.ListPipelinesReply = await self._ask(
            self._stub.ListPipelines, vision_pb2.ListPipelinesRequest()
        )
        return tuple(pipeline_from_message(pipeline) for pipeline in reply.pipelines)

    async def status(self) -> ServerStatus:
        """Engines, streams, ledger and load of the server, now. Raises: Refused, Unreachable."""
        reply: vision_pb2.GetStatusReply = await self._ask(self._stub.GetStatus, vision_pb2.GetStatusRequest())
        return status_from_message(reply)

    async def close(self) -> None:
        """End all streams and the connection. Idempotent."""
        for stream in list(self._streams):
            await stream.aclose()
        await self._channel.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def _ask(self, method: Any, request: Any) -> Any:
        try:
            return await method(request, timeout=self._timeout_s)
        except grpc.aio.AioRpcError as error:
            if error.code() in _UNREACHABLE_CODES:
                message = f"no answer from {self._target}: {error.code().name}: {error.details()}"
                raise Unreachable(message) from error
            raise refused_from_status(error.code(), error.details() or "") from error


def _channel_options(connection: Connection, reconnect: Reconnect) -> list[tuple[str, Any]]:
    return [
        ("grpc.max_send_message_length", connection.max_message_bytes),
        ("grpc.max_receive_message_length", connection.max_message_bytes),
        ("grpc.keepalive_time_ms", int(connection.keepalive_s * 1000)),
        ("grpc.keepalive_timeout_ms", int(connection.keepalive_timeout_s * 1000)),
        # gRPC backs off by itself below our own back-off: it must not wait longer than we do.
        ("grpc.initial_reconnect_backoff_ms", 100),
        ("grpc.max_reconnect_backoff_ms", max(100, int(reconnect.longest_delay_s * 1000))),
    ]

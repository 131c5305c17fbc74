"""One stream of frames to a server, kept up across lost connections."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, replace
from enum import StrEnum
from types import TracebackType
from typing import Any, Self

import grpc

from foveate.client.access_unit import VIDEO_FORMATS, is_key_frame
from foveate.client.call import StreamCall
from foveate.client.convert import open_message, stream_info_from_message
from foveate.client.errors import StreamBroken, Unreachable, refused_from_status
from foveate.client.frame import FrameLike, oversize, payload_from_frame
from foveate.client.frame_flow import FrameFlow
from foveate.client.pace import Pace
from foveate.client.reconnect import Outage, Reconnect
from foveate.client.result import Result
from foveate.client.server_info import StreamInfo
from foveate.client.settings import PixelFormat, StreamSettings
from foveate.client.source import Frames, read_frames
from foveate.client.wakeup import Wakeup
from foveate.proto import vision_pb2

__all__ = ["AsyncStream", "EventKind", "OnEvent", "StreamEvent"]

_ALWAYS_PASSING_CODES = {grpc.StatusCode.OK, grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.CANCELLED}
"""CANCELLED comes from a server that stops; a cancellation of our own never arrives as a status."""
_PASSING_CODES = {
    grpc.StatusCode.ABORTED,
    grpc.StatusCode.ALREADY_EXISTS,
    grpc.StatusCode.INTERNAL,
    grpc.StatusCode.RESOURCE_EXHAUSTED,
    grpc.StatusCode.UNKNOWN,
}
"""What a stream that was open once may try to outlive; on its first attempt these are final. ALREADY_EXISTS: its
own former connection, of whose loss the server has not heard yet."""


class EventKind(StrEnum):
    """What happened to a stream between its results."""

    OPENED = "opened"
    """A server has taken it: at first, and again after each lost connection."""
    DRAIN = "drain"
    """The server goes away; the stream will be opened again."""
    INTERRUPTED = "interrupted"
    """The connection is gone; another attempt follows."""
    CHANGED = "changed"
    """`AsyncStream.info` has changed: the advised frame rate, the labels, the engine or the limits."""


@dataclass(frozen=True, slots=True)
class StreamEvent:
    """Something that happened to a stream between its results, for logs."""

    kind: EventKind
    message: str


OnEvent = Callable[[StreamEvent], None]


class AsyncStream:
    """An async iterable over one result per frame, in frame order. It can be iterated once.

    It starts with the first `opened`, `next` or iteration. Iterating to the end, `aclose`, or leaving its
    ``async with`` block ends the RPC and frees what it held.
    """

    def __init__(
        self,
        target: str,
        new_call: Callable[[], Any],
        frames: Frames,
        settings: StreamSettings,
        *,
        live: bool,
        paced: bool,
        max_message_bytes: int,
        reconnect: Reconnect,
        on_event: OnEvent | None,
    ) -> None:
        open_message(settings, "")  # a misspelt setting fails here, at the caller's own line
        self._target = target
        self._new_call = new_call
        self._frames = frames
        self._settings = settings
        self._live = live
        self._max_message_bytes = max_message_bytes
        self._outage = Outage(reconnect, random.Random())
        self._steady_s = reconnect.longest_delay_s
        self._on_event = on_event
        wanted = PixelFormat(settings.get("format", PixelFormat.AUTO))
        self._video = wanted if wanted in VIDEO_FORMATS else None
        if self._video and paced:
            raise ValueError(f"a {self._video} stream cannot be paced: each of its access units has to be sent")
        self._flow = FrameFlow(newest_wins=live, video=self._video is not None)
        self._pace = Pace() if paced else None
        self._wakeup = Wakeup()
        self._task: asyncio.Task[None] | None = None
        self._info: StreamInfo | None = None
        self._failure: Exception | None = None
        self._ended = False
        self._closed = False

    @property
    def info(self) -> StreamInfo | None:
        """What the server said when it opened the stream last; None until then."""
        return self._info

    @property
    def dropped(self) -> int:
        """Frames of a live source that were left out before they were sent: a newer one replaced them, or of a video,
        the next key frame had to be waited for."""
        return self._flow.dropped

    @property
    def unexpected(self) -> int:
        """Answers that were ignored: duplicates, and those to frames that were never sent."""
        return self._flow.unexpected

    async def opened(self) -> StreamInfo:
        """What the server said of the stream, once it has opened it.

        Raises: Refused or Unreachable if no server opens it, StreamBroken if it ends before.
        """
        self._start()
        await self._wakeup.wait_for(lambda: self._info is not None or self._ended)
        if self._info is None:
            raise self._failure or StreamBroken("the stream ended before a server had opened it")
        return self._info

    async def next(self) -> Result | None:
        """The next result, or None after the last one.

        Raises: ClientError if the stream could not go on, or whatever the source of frames raised; both
        only after the results of all frames that were taken until then.
        """
        self._start()
        await self._wakeup.wait_for(lambda: self._flow.has_result or self._ended)
        result = None if self._closed else self._flow.next_result()
        if result is not None:
            self._wakeup.notify()  # there is room for one more frame
        elif self._failure is not None:
            raise self._failure
        return result

    async def __aiter__(self) -> AsyncIterator[Result]:
        try:
            while (result := await self.next()) is not None:
                yield result
        finally:
            await self.aclose()

    async def aclose(self) -> None:
        """End the stream now; results that were not read are gone. Idempotent."""
        self._closed = self._ended = True
        self._wakeup.notify()
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait({self._task})

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.aclose()

    def _start(self) -> None:
        if self._task is None and not self._closed:
            self._task = asyncio.get_running_loop().create_task(self._run())

    async def _run(self) -> None:
        reader = asyncio.create_task(self._read_source())
        try:
            await self._keep_connected()
        except Exception as error:  # noqa: BLE001 - the task's outer edge: `next` raises it to the caller
            self._failure = error
        finally:
            self._flow.lose_all(f"the stream ended: {self._failure or 'closed'}")
            self._ended = True
            self._wakeup.notify()
            reader.cancel()
            await asyncio.wait({reader})

    async def _read_source(self) -> None:
        try:
            await read_frames(self._frames, self._offer)
        except Exception as error:  # noqa: BLE001 - the caller's own code: `next` raises it to the caller
            self._failure = error
        finally:
            self._flow.source_ended = True
            self._wakeup.notify()

    async def _offer(self, item: FrameLike) -> bool:
        payload = payload_from_frame(item, self._settings, live=self._live)
        await self._wakeup.wait_for(lambda: self._flow.has_room or self._ended)
        if self._ended:
            return False
        if why := oversize(payload, self._max_message_bytes):
            self._flow.reject(why)
        else:
            self._flow.offer(payload, key=self._video is None or is_key_frame(payload.data, self._video))
        self._wakeup.notify()
        return True

    async def _keep_connected(self) -> None:
        while True:
            why = await self._one_call()
            self._flow.lose_sent(why)
            self._wakeup.notify()
            if self._flow.all_sent:
                return
            delay_s = self._outage.next_delay_s(time.monotonic())
            if delay_s is None:
                raise Unreachable(f"gave up on {self._target}: {why}")
            self._emit(EventKind.INTERRUPTED, f"{why}; trying again in {delay_s:.1f} s")
            await asyncio.sleep(delay_s)

    async def _one_call(self) -> str:
        """Serve the stream for as long as one RPC lasts; the reason why it ended. Raises: Refused, StreamBroken."""
        call = StreamCall(self._new_call(), self._flow, self._wakeup, self._on_opened, self._on_notice, self._pace)
        end = await call.run(open_message(self._settings, self._info.resume_token if self._info else ""))
        if not self._may_pass(end.code):
            raise refused_from_status(end.code, end.details)
        if self._is_progress(call):
            self._outage.over()
        return f"{self._target}: {end.code.name}: {end.details}"

    def _may_pass(self, code: grpc.StatusCode) -> bool:
        opened_before = self._info is not None
        return code in _ALWAYS_PASSING_CODES or (opened_before and code in _PASSING_CODES)

    def _is_progress(self, call: StreamCall) -> bool:
        """Whether the server served the stream, not merely opened it: one that fails on every frame does
        not."""
        lasted_s = 0.0 if call.opened_at is None else time.monotonic() - call.opened_at
        return call.answers > 0 or lasted_s > self._steady_s

    def _on_opened(self, opened: vision_pb2.StreamOpened) -> None:
        self._info = info = stream_info_from_message(opened)
        self._emit(EventKind.OPENED, f"{info.stream_id} on {self._target}, {info.engine}, {info.grant}")

    def _on_notice(self, notice: vision_pb2.Notice) -> None:
        if notice.kind == vision_pb2.Notice.KIND_DRAIN:
            self._emit(EventKind.DRAIN, f"{self._target} goes away within {notice.grace_ms} ms")
        elif notice.kind == vision_pb2.Notice.KIND_ADVISED_RATE and self._info is not None:
            self._info = replace(self._info, advised_fps=notice.advised_fps)
            self._emit(EventKind.CHANGED, f"advised frame rate: {notice.advised_fps:.1f} fps")
        elif notice.kind == vision_pb2.Notice.KIND_CONFIG_CHANGED and notice.HasField("opened"):
            self._info = stream_info_from_message(notice.opened)
            self._emit(EventKind.CHANGED, f"labels, engine or limits have changed: {self._info.engine}")

    def _emit(self, kind: EventKind, message: str) -> None:
        if self._on_event is not None:
            self._on_event(StreamEvent(kind, message))

"""One RPC of a stream: opens it, sends what the book lets go, and enters the answers."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import grpc
import grpc.aio

from foveate.client.convert import frame_message, result_from_message
from foveate.client.errors import StreamBroken
from foveate.client.frame_flow import FrameFlow
from foveate.client.pace import Pace
from foveate.client.wakeup import Wakeup
from foveate.proto import vision_pb2

__all__ = ["CallEnd", "StreamCall"]

_WRITE_FAILED = "Internal error from Core"
"""What gRPC's asyncio calls put in the place of the server's status when the RPC ends during a write."""


@dataclass(frozen=True, slots=True)
class CallEnd:
    """The status that an RPC ended with; OK is the server's end in good order."""

    code: grpc.StatusCode
    details: str


class StreamCall:
    """From `OpenStream` until the server ends the RPC. What it could not get answered stays with the book."""

    def __init__(
        self,
        call: Any,
        flow: FrameFlow,
        wakeup: Wakeup,
        on_opened: Callable[[vision_pb2.StreamOpened], None],
        on_notice: Callable[[vision_pb2.Notice], None],
        pace: Pace | None = None,
    ) -> None:
        """`pace` hears what the server advises, and frames leave by it; None: as soon as the window lets them."""
        self._call = call
        self._pace = pace
        self._flow = flow
        self._wakeup = wakeup
        self._on_opened = on_opened
        self._on_notice = on_notice
        self._budget_ms = 0.0
        self._draining = False
        self.opened_at: float | None = None
        """`time.monotonic()` when the server had opened it; None until then."""
        self.answers = 0
        """Frames answered on this RPC."""

    async def run(self, request: vision_pb2.StreamRequest) -> CallEnd:
        """Serve the stream until the RPC ends; cancelling ends it.

        Raises: StreamBroken if the server does not begin with `opened`.
        """
        sender: asyncio.Task[None] | None = None
        try:
            await self._open(request)
            sender = asyncio.create_task(self._send())
            while (reply := await self._call.read()) is not grpc.aio.EOF:
                self._take(reply)
            return CallEnd(grpc.StatusCode.OK, "the server ended the stream")
        except grpc.aio.AioRpcError as error:
            return _end_from_error(error)
        finally:
            self._call.cancel()  # does nothing to an RPC that has ended
            if sender is not None:
                sender.cancel()
                await asyncio.wait({sender})

    async def _open(self, request: vision_pb2.StreamRequest) -> None:
        with suppress(asyncio.InvalidStateError):  # the RPC has ended already: reading tells why
            await self._call.write(request)
        reply = await self._call.read()
        if reply is grpc.aio.EOF or reply.WhichOneof("message") != "opened":
            got = "the end of the stream" if reply is grpc.aio.EOF else reply.WhichOneof("message") or "nothing"
            raise StreamBroken(f"expected `opened` as the server's first message, got {got}")
        self.opened_at = time.monotonic()
        self._adopt(reply.opened)
        self._on_opened(reply.opened)

    def _adopt(self, opened: vision_pb2.StreamOpened) -> None:
        self._budget_ms = float(opened.budget_ms)
        self._flow.window = max(1, opened.window)  # a window of 0 could never be kept
        self._advise(opened.advised_fps)
        self._wakeup.notify()

    async def _send(self) -> None:
        try:
            while await self._may_send():
                sent = self._flow.send(time.monotonic())
                if self._pace is not None:
                    self._pace.sent(sent.sent_at)
                self._wakeup.notify()  # the source may hand over the next frame
                await self._call.write(frame_message(sent))
            await self._call.done_writing()
        except (grpc.aio.AioRpcError, asyncio.InvalidStateError):
            return  # the RPC has ended: reading tells why

    async def _may_send(self) -> bool:
        """Wait for a frame that may leave; False if none will on this RPC."""
        await self._wakeup.wait_for(lambda: self._draining or self._flow.can_send or self._flow.all_sent)
        while not self._draining and self._flow.can_send and (wait_s := self._wait_s()) > 0:
            with suppress(TimeoutError):
                async with asyncio.timeout(wait_s):
                    await self._wakeup.wait_for(lambda: self._draining or self._wait_s() <= 0)
        return not self._draining and self._flow.can_send

    def _wait_s(self) -> float:
        return 0.0 if self._pace is None else self._pace.wait_s(time.monotonic())

    def _advise(self, fps: float) -> None:
        if self._pace is not None:
            self._pace.advise(fps, time.monotonic())
            self._wakeup.notify()

    def _take(self, reply: vision_pb2.StreamReply) -> None:
        match reply.WhichOneof("message"):
            case "result":
                self._answer(reply.result)
            case "notice":
                self._notice(reply.notice)
            case _:
                pass  # a second `opened`, or a message of a newer server

    def _answer(self, message: vision_pb2.FrameResult) -> None:
        sent = self._flow.answered(message.sequence)
        if sent is None:
            return
        self.answers += 1
        self._advise(message.advised_fps)
        self._flow.settle(result_from_message(message, sent, time.monotonic(), self._budget_ms))
        self._wakeup.notify()

    def _notice(self, notice: vision_pb2.Notice) -> None:
        if notice.kind == vision_pb2.Notice.KIND_DRAIN:
            self._draining = True
            self._wakeup.notify()
        elif notice.kind == vision_pb2.Notice.KIND_CONFIG_CHANGED and notice.HasField("opened"):
            self._adopt(notice.opened)
        elif notice.kind == vision_pb2.Notice.KIND_ADVISED_RATE:
            self._advise(notice.advised_fps)
        self._on_notice(notice)


def _end_from_error(error: grpc.aio.AioRpcError) -> CallEnd:
    if error.details() == _WRITE_FAILED:
        return CallEnd(grpc.StatusCode.UNAVAILABLE, "the connection ended while a frame was being sent")
    return CallEnd(error.code(), error.details() or "")

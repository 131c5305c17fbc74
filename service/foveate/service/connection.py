"""One RPC that carries a stream: a task that reads frames, and the RPC's own that writes answers."""

from __future__ import annotations

import asyncio
import logging
import time
from typing import Any

import grpc.aio
from google.protobuf.message import DecodeError

from foveate.engines.errors import FoveateError, ProtocolError, StreamTaken
from foveate.proto import vision_pb2 as pb
from foveate.service.convert import (
    frame_from_message,
    notice_message,
    opened_message,
    options_from_open,
    result_message,
)
from foveate.service.frame import Answer, Frame
from foveate.service.reception import OpenedStream, Reception

__all__ = ["Connection", "Context"]

_log = logging.getLogger(__name__)

Context = grpc.aio.ServicerContext[Any, Any]
_OPEN_WITHIN_S = 10.0
_READ_AHEAD_WINDOWS = 2
"""A client that sends and never reads is not read from any more once this many windows are unanswered."""


class Connection:
    """A stream's connection, for as long as the RPC lasts."""

    def __init__(self, reception: Reception, context: Context) -> None:
        self._reception = reception
        self._context = context
        self._wake = asyncio.Event()
        self._room = asyncio.Event()
        self._half_closed = False
        self._failure: FoveateError | None = None
        self._opened: OpenedStream | None = None

    def fail(self, error: FoveateError) -> None:
        """End the RPC with this error, once the answers that are ready have been written."""
        self._failure = error
        self._wake.set()

    async def serve(self) -> None:
        """Carry the stream until it ends. Raises: FoveateError if it ends badly."""
        self._reception.refuse_while_draining()
        try:
            await self._carry(await self._opening())
        finally:
            if self._opened is not None:  # perhaps at the very moment when its client went
                self._reception.close(self._opened)

    @property
    def opened(self) -> bool:
        """Whether its client has said what it wants."""
        return self._opened is not None

    async def _carry(self, opened: OpenedStream) -> None:
        opened.stream.attach(self._wake.set)
        reader = asyncio.create_task(self._read(opened))
        try:
            message = opened_message(opened.stream, opened.pipeline, self._advised_fps(opened))
            await self._context.write(pb.StreamReply(opened=message))
            await self._write(opened)
        finally:
            reader.cancel()

    async def _opening(self) -> OpenedStream:
        """Wait for `OpenStream`, but not for ever, and not beyond `fail`."""
        opening, failing = asyncio.create_task(self._open()), asyncio.create_task(self._wake.wait())
        try:
            await asyncio.wait((opening, failing), timeout=_OPEN_WITHIN_S, return_when=asyncio.FIRST_COMPLETED)
            if not opening.done():
                raise self._failure or ProtocolError(f"no OpenStream came within {_OPEN_WITHIN_S:g} s: send it first")
            return await opening
        finally:
            opening.cancel()
            failing.cancel()

    async def _open(self) -> OpenedStream:
        first = await self._context.read()
        if first is grpc.aio.EOF or first.WhichOneof("message") != "open":
            came = "nothing" if first is grpc.aio.EOF else (first.WhichOneof("message") or "an empty message")
            raise ProtocolError(f"the first message of a stream must be `open`, got {came}: send OpenStream first")
        wanted, config = first.open, self._reception.config
        pipeline = self._reception.pipelines.get(wanted.pipeline)
        self._opened = await self._reception.open(
            pipeline,
            options_from_open(wanted, pipeline, config.default_budget_ms, config.limits),
            stream_id=wanted.stream_id,
            resume_token=wanted.resume_token,
            disconnect=self._disconnect,
        )
        return self._opened

    def _disconnect(self) -> None:
        """Its client has come back over another connection."""
        self.fail(StreamTaken("the stream was taken up again over another connection"))

    async def _read(self, opened: OpenedStream) -> None:
        stream, most = opened.stream, _READ_AHEAD_WINDOWS * opened.stream.window
        try:
            while (message := await self._context.read()) is not grpc.aio.EOF:
                if message.WhichOneof("message") != "frame":
                    raise ProtocolError("after its first message a stream carries frames only: open another stream")
                self._reception.take(opened, frame_from_message(message.frame, stream.options, time.monotonic_ns()))
                while stream.unanswered >= most:
                    self._room.clear()
                    await self._room.wait()
            self._half_closed = True
            self._wake.set()
        except FoveateError as error:
            self.fail(error)
        except DecodeError:
            self.fail(ProtocolError("a message is no protobuf of this service"))
        except Exception:  # noqa: BLE001 - the outer edge of this task: the client must hear of it
            _log.exception("reading stream %s failed", stream.stream_id)
            self.fail(FoveateError("internal error while reading the stream"))

    async def _write(self, opened: OpenedStream) -> None:
        stream = opened.stream
        while True:
            self._wake.clear()  # before looking: what comes while a write is under way must wake it again
            while stream.notices:
                await self._context.write(pb.StreamReply(notice=notice_message(stream.notices.popleft())))
            caught_up = True
            while (taken := stream.next_answer()) is not None:
                await self._context.write(self._result(opened, *taken, caught_up=caught_up))
                self._room.set()
                caught_up = False
            if self._failure is not None:
                raise self._failure
            if self._half_closed and not stream.unanswered:
                return
            await self._wake.wait()

    def _result(self, opened: OpenedStream, frame: Frame, answer: Answer, *, caught_up: bool) -> pb.StreamReply:
        self._reception.tell(opened, frame, answer, caught_up=caught_up)
        labels = opened.pipeline.model.labels
        return pb.StreamReply(result=result_message(frame, answer, labels, self._advised_fps(opened)))

    def _advised_fps(self, opened: OpenedStream) -> float:
        advised_fps = opened.station.device.advised_fps(opened.stream.number)
        opened.stream.tell_rate(advised_fps, time.monotonic_ns())
        return advised_fps

"""A stream that sends each frame when it is due, whatever the answers do: for load tools.

`AsyncStream` holds frames back while the server is behind, as a camera's client should. A load tool must not: what it
does not send in time is not measured.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import grpc
import grpc.aio

from foveate.client.convert import open_message, outcome_from_message, scheduled_frame_message, stream_info_from_message
from foveate.client.errors import StreamBroken, refused_from_status
from foveate.client.result import Verdict
from foveate.client.schedule import Outcome, ScheduledFrame
from foveate.client.server_info import StreamInfo
from foveate.client.settings import StreamSettings

__all__ = ["open_loop"]


@dataclass(slots=True)
class _Sent:
    due_at: float
    sent_at: float
    budget_ms: float


async def open_loop(
    call: Any,
    settings: StreamSettings,
    frames: Iterable[ScheduledFrame],
    on_opened: Callable[[StreamInfo], Awaitable[None] | None],
    on_outcome: Callable[[Outcome], None],
) -> None:
    """Send frames in the order of their due times over one RPC, and tell of each frame's outcome once.

    Nothing is sent until what `on_opened` returns, if anything, has been awaited; so streams can start together.
    Frames without an answer when the RPC ends are LOST; there is no second attempt.
    Raises: ClientError if the server does not open the stream.
    """
    waiting: dict[int, _Sent] = {}
    left = iter(frames)
    info = await _opened(call, settings)
    if (all_open := on_opened(info)) is not None:
        await all_open
    sender = asyncio.create_task(_send(call, left, waiting, info.budget_ms))
    try:
        while (reply := await call.read()) is not grpc.aio.EOF:
            if reply.WhichOneof("message") == "result" and (sent := waiting.pop(reply.result.sequence, None)):
                on_outcome(outcome_from_message(reply.result, sent.due_at, sent.sent_at, sent.budget_ms))
    except grpc.aio.AioRpcError:
        pass  # what is not answered is lost, and told below
    finally:
        sender.cancel()
        await asyncio.wait({sender})
        call.cancel()
        never_sent = (_Sent(frame.due_at, 0.0, frame.budget_ms or info.budget_ms) for frame in left)
        for sent in (*waiting.values(), *never_sent):
            on_outcome(Outcome(sent.due_at, sent.sent_at, 0.0, Verdict.LOST, 0.0, 0.0, 0.0, 0, sent.budget_ms))


async def _opened(call: Any, settings: StreamSettings) -> StreamInfo:
    try:
        with suppress(asyncio.InvalidStateError):  # the RPC has ended already: reading tells why
            await call.write(open_message(settings, ""))
        reply = await call.read()
    except grpc.aio.AioRpcError as error:
        raise refused_from_status(error.code(), error.details() or "") from error
    if reply is grpc.aio.EOF or reply.WhichOneof("message") != "opened":
        raise StreamBroken("the stream ended before the server had opened it")
    return stream_info_from_message(reply.opened)


async def _send(
    call: Any, frames: Iterable[ScheduledFrame], waiting: dict[int, _Sent], stream_budget_ms: float
) -> None:
    with suppress(grpc.aio.AioRpcError, asyncio.InvalidStateError):  # the RPC has ended: the reader sees to it
        for sequence, frame in enumerate(frames, start=1):
            waiting[sequence] = sent = _Sent(frame.due_at, 0.0, frame.budget_ms or stream_budget_ms)
            if (early_s := frame.due_at - time.monotonic()) > 0:
                await asyncio.sleep(early_s)
            sent.sent_at = time.monotonic()
            age_us = round(max(0.0, sent.sent_at - frame.due_at) * 1e6)
            await call.write(scheduled_frame_message(sequence, age_us, frame.budget_ms, frame.data))
        await call.done_writing()

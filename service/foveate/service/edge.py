"""The gRPC edge: messages in, messages out, errors as status codes. It decides nothing about frames."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from functools import cache
from importlib.metadata import version

import grpc
import grpc.aio
from google.protobuf.message import DecodeError

from foveate.engines.errors import FoveateError, ShuttingDown
from foveate.proto import vision_pb2 as pb
from foveate.proto import vision_pb2_grpc as pb_grpc
from foveate.service.connection import Connection, Context
from foveate.service.convert import (
    engine_status_message,
    frame_from_message,
    ledger_message,
    options_from_infer,
    pipeline_message,
    result_message,
    stream_status_message,
)
from foveate.service.reception import OpenedStream, Reception
from foveate.service.status import status_code

__all__ = ["VisionEdge"]

_log = logging.getLogger(__name__)


_GOING_AWAY = ShuttingDown("the server is going away: open the stream elsewhere")


class VisionEdge(pb_grpc.VisionServicer):
    """`foveate.v1.Vision` over a reception."""

    def __init__(self, reception: Reception) -> None:
        self._reception = reception
        self._connections: set[Connection] = set()
        self._left = asyncio.Event()
        self._started_ns = time.monotonic_ns()

    async def Stream(self, request_iterator: object, context: Context) -> None:  # noqa: N802
        """One camera's stream, from its `OpenStream` to its end."""
        connection = Connection(self._reception, context)
        self._connections.add(connection)
        try:
            async with _errors_to_status(context):
                await connection.serve()
        finally:
            self._connections.discard(connection)
            self._left.set()

    async def Infer(self, request: pb.InferRequest, context: Context) -> pb.FrameResult:  # noqa: N802
        """One picture: a stream of one frame."""
        async with _errors_to_status(context):
            pipeline = self._reception.pipelines.get(request.pipeline)
            options = options_from_infer(request, pipeline, self._reception.config.default_budget_ms)
            opened = self._reception.open_single(pipeline, options)
            return await self._infer(opened, request.frame)
        raise AssertionError("an error ends the call")

    async def ListPipelines(  # noqa: N802
        self, request: pb.ListPipelinesRequest, context: Context
    ) -> pb.ListPipelinesReply:
        """What this server serves, and what it is configured to and cannot."""
        pipelines = self._reception.pipelines
        status = await self._reception.service.status()
        smallest_ns = {lane.pipeline: lane.smallest_budget_ns for lane in status.lanes}
        return pb.ListPipelinesReply(
            pipelines=[
                pipeline_message(each, pipelines, smallest_ns.get(each.name, 0)) for each in pipelines.all.values()
            ]
        )

    async def GetStatus(self, request: pb.GetStatusRequest, context: Context) -> pb.GetStatusReply:  # noqa: N802
        """Engines, streams, ledger and load, now."""
        status = await self._reception.service.status()
        return pb.GetStatusReply(
            version=_version(),
            uptime_s=(time.monotonic_ns() - self._started_ns) / 1e9,
            draining=self._reception.draining,
            engines=[engine_status_message(lane) for lane in status.lanes],
            streams=[stream_status_message(stream) for stream in status.streams],
            ledger=ledger_message(status.ledger),
        )

    async def drained(self, timeout_s: float) -> None:
        """Wait for streams and pictures to end by themselves, then end the streams that have not."""
        for connection in self._connections:
            if not connection.opened:
                connection.fail(_GOING_AWAY)
        await self._all_gone(timeout_s)
        for connection in self._connections:
            connection.fail(_GOING_AWAY)
        await self._all_gone(1.0)

    async def _all_gone(self, timeout_s: float) -> None:
        with suppress(TimeoutError):
            async with asyncio.timeout(timeout_s):
                while self._connections or self._reception.single_pictures:
                    self._left.clear()
                    await self._left.wait()

    async def _infer(self, opened: OpenedStream, message: pb.Frame) -> pb.FrameResult:
        answered = asyncio.Event()
        opened.stream.attach(answered.set)
        try:
            frame = frame_from_message(message, opened.stream.options, time.monotonic_ns())
            self._reception.take(opened, frame)
            await answered.wait()
            taken = opened.stream.next_answer()
            if taken is None:
                raise AssertionError("woken without an answer")
            self._reception.tell(opened, *taken)
        finally:
            self._reception.close_single(opened)
            self._left.set()
        return result_message(*taken, opened.pipeline.model.labels, 0.0)


@asynccontextmanager
async def _errors_to_status(context: Context) -> AsyncIterator[None]:
    """End the RPC with the status code and the message of what was raised."""
    try:
        yield
    except FoveateError as error:
        await context.abort(status_code(error), str(error))
    except DecodeError:
        await context.abort(grpc.StatusCode.INVALID_ARGUMENT, "the message is no protobuf of this service")
    except grpc.aio.AbortError:
        raise
    except Exception:  # noqa: BLE001 - the outer edge of the RPC
        _log.exception("an RPC failed")
        await context.abort(grpc.StatusCode.INTERNAL, "internal error: see the server's log")


@cache
def _version() -> str:
    return version("foveate")

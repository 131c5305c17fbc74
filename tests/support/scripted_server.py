"""A real gRPC server on loopback whose streams do, step by step, what a test says."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Any

import grpc
import grpc.aio

from foveate.proto import vision_pb2, vision_pb2_grpc

__all__ = ["Script", "ScriptedCall", "ScriptedServer", "answer_all", "server_in_thread", "serving"]


class ScriptedCall:
    """One `Stream` RPC as the server sees it."""

    def __init__(self, server: ScriptedServer, context: Any) -> None:
        self._server = server
        self._context = context
        self.open: vision_pb2.OpenStream = vision_pb2.OpenStream()

    async def accept(self, window: int = 4, **fields: Any) -> None:
        """Read `open` and answer it."""
        await self._read_open()
        token = fields.pop("resume_token", f"token-{len(self._server.calls)}")
        opened = vision_pb2.StreamOpened(window=window, resume_token=token, **({"budget_ms": 100} | fields))
        await self._context.write(vision_pb2.StreamReply(opened=opened))

    async def refuse(self, code: grpc.StatusCode, message: str) -> None:
        """Read `open` and end the RPC with an error."""
        await self._read_open()
        await self.abort(code, message)

    async def frame(self) -> vision_pb2.Frame | None:
        """The next frame; None after the client's half-close."""
        request = await self._context.read()
        return None if request is grpc.aio.EOF else request.frame

    async def answer(self, sequence: int, **fields: Any) -> None:
        """Answer a frame, with verdict OK unless said otherwise."""
        fields = {"verdict": vision_pb2.VERDICT_OK, **fields}
        result = vision_pb2.FrameResult(sequence=sequence, **fields)
        await self._context.write(vision_pb2.StreamReply(result=result))

    async def notice(self, **fields: Any) -> None:
        await self._context.write(vision_pb2.StreamReply(notice=vision_pb2.Notice(**fields)))

    async def reply(self, reply: vision_pb2.StreamReply) -> None:
        await self._context.write(reply)

    async def abort(self, code: grpc.StatusCode, message: str) -> None:
        await self._context.abort(code, message)

    async def until_gone(self) -> None:
        """Wait for the end of the RPC; gRPC cancels a script when the client is gone, not when it half-closes."""
        self._server.waiting_for_end.set()
        await asyncio.get_running_loop().create_future()

    async def _read_open(self) -> None:
        first = await self._context.read()
        assert first.WhichOneof("message") == "open"
        self.open = first.open


Script = Callable[[ScriptedCall], Awaitable[None]]


class ScriptedServer(vision_pb2_grpc.VisionServicer):
    """Plays one script per `Stream` RPC, in order; the last one for all further ones."""

    def __init__(self, *scripts: Script) -> None:
        self._scripts = scripts
        self.target = ""
        self.port = 0
        self.calls: list[ScriptedCall] = []
        self.failures: list[BaseException] = []
        """What scripts raised, assertions above all; leaving `serving` raises the first of them."""
        self.ended = asyncio.Semaphore(0)
        """Released for each RPC that has ended, however it did."""
        self.waiting_for_end = asyncio.Event()
        self.infer: Callable[[vision_pb2.InferRequest, Any], Awaitable[vision_pb2.FrameResult]] | None = None
        self.pipelines = vision_pb2.ListPipelinesReply()
        self.status = vision_pb2.GetStatusReply()

    async def Stream(self, _requests: Any, context: Any) -> None:
        call = ScriptedCall(self, context)
        script = self._scripts[min(len(self.calls), len(self._scripts) - 1)]
        self.calls.append(call)
        try:
            await script(call)
        except (AssertionError, AttributeError, TypeError) as failure:
            self.failures.append(failure)
            raise
        finally:
            self.ended.release()

    async def Infer(self, request: vision_pb2.InferRequest, context: Any) -> vision_pb2.FrameResult:
        assert self.infer is not None
        return await self.infer(request, context)

    async def ListPipelines(self, _request: Any, _context: Any) -> vision_pb2.ListPipelinesReply:
        return self.pipelines

    async def GetStatus(self, _request: Any, _context: Any) -> vision_pb2.GetStatusReply:
        return self.status


@asynccontextmanager
async def serving(*scripts: Script, port: int = 0) -> AsyncIterator[ScriptedServer]:
    """The server in the running event loop on loopback, at a free port unless one is named."""
    servicer = ScriptedServer(*scripts)
    server = grpc.aio.server()
    vision_pb2_grpc.add_VisionServicer_to_server(servicer, server)  # type: ignore[no-untyped-call]
    servicer.port = server.add_insecure_port(f"127.0.0.1:{port}")
    servicer.target = f"127.0.0.1:{servicer.port}"
    await server.start()
    try:
        yield servicer
    finally:
        await server.stop(grace=None)
    for failure in servicer.failures:
        raise failure


@contextmanager
def server_in_thread(*scripts: Script) -> Iterator[ScriptedServer]:
    """The server in an event loop and thread of its own, for code that blocks."""
    started = threading.Event()
    served: list[ScriptedServer] = []
    ends: list[Callable[[], object]] = []

    async def serve() -> None:
        loop, stop = asyncio.get_running_loop(), asyncio.Event()
        ends.append(lambda: loop.call_soon_threadsafe(stop.set))
        async with serving(*scripts) as server:
            served.append(server)
            started.set()
            await stop.wait()

    failures: list[BaseException] = []

    def run() -> None:
        try:
            asyncio.run(serve())
        except BaseException as failure:  # noqa: BLE001 - raised again in the test's own thread
            failures.append(failure)
            started.set()

    thread = threading.Thread(target=run, name="scripted-server", daemon=True)
    thread.start()
    started.wait()
    try:
        yield served[0]
    finally:
        ends[0]()
        thread.join()
    for failure in failures:
        raise failure


async def answer_all(call: ScriptedCall) -> None:
    """A script: open the stream, answer every frame OK, end with the client's half-close."""
    await call.accept()
    while (frame := await call.frame()) is not None:
        await call.answer(frame.sequence)

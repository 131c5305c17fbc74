"""A stream spoken message by message, without the client library, so that a test can also say what is wrong."""

from __future__ import annotations

import queue
from collections.abc import Iterator
from types import TracebackType
from typing import Any, Self

import grpc

from foveate.proto import vision_pb2 as pb

__all__ = ["RawStream", "verdicts"]


class RawStream:
    """One `Stream` RPC: messages go out as the test says, replies come in as the server sends them."""

    def __init__(self, stub: Any, timeout_s: float = 50.0) -> None:
        self._outgoing: queue.SimpleQueue[pb.StreamRequest | None] = queue.SimpleQueue()
        self.call = stub.Stream(self._requests(), timeout=timeout_s)

    def open(self, **fields: Any) -> pb.StreamOpened:
        """Send `OpenStream` and return what the server made of it."""
        self.send(pb.StreamRequest(open=pb.OpenStream(**fields)))
        reply: pb.StreamReply = next(self.call)
        assert reply.WhichOneof("message") == "opened"
        return reply.opened

    def send(self, message: pb.StreamRequest) -> None:
        self._outgoing.put(message)

    def frame(self, sequence: int, data: bytes, **fields: Any) -> None:
        self.send(pb.StreamRequest(frame=pb.Frame(sequence=sequence, data=data, **fields)))

    def half_close(self) -> None:
        self._outgoing.put(None)

    def reply(self) -> pb.StreamReply:
        """The next reply that is no word about the frame rate: those come whenever the load changes."""
        reply: pb.StreamReply = next(self.call)
        while reply.notice.kind == pb.Notice.KIND_ADVISED_RATE:
            reply = next(self.call)
        return reply

    def advised_rate(self) -> float:
        """The next reply, which must tell of a new frame rate."""
        reply: pb.StreamReply = next(self.call)
        assert reply.notice.kind == pb.Notice.KIND_ADVISED_RATE, reply
        return reply.notice.advised_fps

    def result(self) -> pb.FrameResult:
        """The next reply, which must be a result."""
        reply = self.reply()
        assert reply.WhichOneof("message") == "result", reply
        return reply.result

    def results(self, count: int) -> list[pb.FrameResult]:
        return [self.result() for _ in range(count)]

    def rest(self) -> list[pb.FrameResult]:
        """Half-close, and take all results up to the end of the RPC, which must be OK."""
        self.half_close()
        return [reply.result for reply in self.call if reply.WhichOneof("message") == "result"]

    def error(self) -> grpc.RpcError:
        """Take replies until the RPC fails, and return how it failed."""
        try:
            for _ in self.call:
                pass
        except grpc.RpcError as error:
            return error
        raise AssertionError("the RPC ended OK")

    def cancel(self) -> None:
        self.call.cancel()
        self.half_close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.cancel()

    def _requests(self) -> Iterator[pb.StreamRequest]:
        while (message := self._outgoing.get()) is not None:
            yield message


def verdicts(results: list[pb.FrameResult]) -> list[str]:
    """The names of the results' verdicts, without their prefix."""
    return [pb.Verdict.Name(result.verdict).removeprefix("VERDICT_") for result in results]

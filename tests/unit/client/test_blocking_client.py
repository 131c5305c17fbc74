"""The blocking client: the same streams, driven from plain threads."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from typing import Any

import grpc
import numpy as np
import pytest

from foveate.client import Client, Connection, NoSuchPipeline, PixelFormat, Unreachable, Verdict
from foveate.client.reconnect import Reconnect
from foveate.proto import vision_pb2
from support.scripted_server import ScriptedCall, answer_all, server_in_thread


def client_threads() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name.startswith("foveate-")]


def test_a_stream_is_a_plain_loop() -> None:
    with server_in_thread(answer_all) as server, Client(server.target) as client:
        stream = client.stream([b"a", b"b", b"c"], pipeline="faces", budget_ms=80)
        assert stream.opened().window == 4
        assert [(r.sequence, r.verdict) for r in stream] == [(n, Verdict.OK) for n in (1, 2, 3)]
        assert (server.calls[0].open.pipeline, server.calls[0].open.budget_ms) == ("faces", 80)
        assert (stream.dropped, stream.unexpected) == (0, 0)


def test_leaving_the_loop_early_frees_the_source_and_its_thread() -> None:
    closed = threading.Event()

    def camera() -> Iterator[bytes]:
        try:
            while True:
                yield b"picture"
        finally:
            closed.set()

    with server_in_thread(answer_all) as server:
        with Client(server.target) as client:
            for result in client.stream(camera()):
                assert result.sequence == 1
                break
            assert closed.wait(10)
        for thread in client_threads():
            thread.join(10)
        assert client_threads() == []


def test_a_source_that_blocks_for_ever_does_not_hold_up_the_end() -> None:
    unplugged = threading.Event()

    def stuck_camera() -> Iterator[bytes]:
        yield b"picture"
        unplugged.wait(30)

    with server_in_thread(answer_all) as server:
        with Client(server.target) as client:
            next(iter(client.stream(stuck_camera(), live=True)))
        unplugged.set()
        for thread in client_threads():
            thread.join(10)
        assert client_threads() == []


def test_one_picture() -> None:
    asked: list[vision_pb2.InferRequest] = []

    async def infer(request: vision_pb2.InferRequest, _context: object) -> vision_pb2.FrameResult:
        asked.append(request)
        times = vision_pb2.StageTimes(total=50_000)
        return vision_pb2.FrameResult(verdict=vision_pb2.VERDICT_OK, times=times, frame_width=4)

    image = np.arange(6 * 4 * 3, dtype=np.uint8).reshape(6, 4, 3)
    with server_in_thread(answer_all) as server, Client(server.target) as client:
        server.infer = infer
        result = client.infer(image, format=PixelFormat.RAW_RGB, budget_ms=60)
        assert (result.verdict, result.frame_width, result.on_time) == (Verdict.OK, 4, True)
        assert (asked[0].width, asked[0].height, asked[0].frame.data) == (4, 6, image.tobytes())
        assert asked[0].frame.budget_ms == 60


def test_refusals_of_single_pictures_are_typed() -> None:
    async def infer(_request: vision_pb2.InferRequest, context: Any) -> vision_pb2.FrameResult:
        await context.abort(grpc.StatusCode.NOT_FOUND, "there is no 'facs'; there is faces")
        raise AssertionError

    with server_in_thread(answer_all) as server, Client(server.target) as client:
        server.infer = infer
        with pytest.raises(NoSuchPipeline, match="there is faces"):
            client.infer(b"picture", pipeline="facs")


def test_a_picture_whose_server_stops_meanwhile() -> None:
    async def infer(_request: vision_pb2.InferRequest, context: Any) -> vision_pb2.FrameResult:
        await context.abort(grpc.StatusCode.CANCELLED, "the server stops")
        raise AssertionError

    with server_in_thread(answer_all) as server, Client(server.target) as client:
        server.infer = infer
        with pytest.raises(Unreachable, match=f"no answer from {server.target}: CANCELLED: the server stops"):
            client.infer(b"picture")


def test_a_picture_too_large_for_a_message_is_rejected_unsent() -> None:
    with server_in_thread(answer_all) as server:
        with Client(server.target, connection=Connection(max_message_bytes=1000)) as client:
            result = client.infer(bytes(1001))
        assert result.verdict is Verdict.REJECTED
        assert "1001 bytes" in result.message
        assert "max_message_bytes = 1000" in result.message


def test_a_source_that_exits_does_not_hang_the_stream_nor_end_the_client() -> None:
    def exits() -> Iterator[bytes]:
        yield b"picture"
        raise SystemExit(3)

    with server_in_thread(answer_all) as server, Client(server.target) as client:
        with pytest.raises(RuntimeError, match=r"SystemExit\(3\)"):
            list(client.stream(exits()))
        assert [result.verdict for result in client.stream([b"picture"])] == [Verdict.OK]


def test_what_the_server_serves_and_how_it_does() -> None:
    with server_in_thread(answer_all) as server, Client(server.target) as client:
        server.pipelines = vision_pb2.ListPipelinesReply(
            pipelines=[vision_pb2.Pipeline(name="faces", state=vision_pb2.Pipeline.STATE_READY)]
        )
        server.status = vision_pb2.GetStatusReply(version="0.1.0")
        assert [(p.name, p.ready) for p in client.list_pipelines()] == [("faces", True)]
        assert client.status().version == "0.1.0"


def test_a_server_that_is_not_there() -> None:
    with server_in_thread(answer_all) as server:
        target = server.target
    with Client(target, reconnect=Reconnect(max_reconnect_s=0.0)) as client:
        with pytest.raises(Unreachable, match=target):
            client.list_pipelines()
        with pytest.raises(Unreachable, match=target):
            list(client.stream([b"picture"]))


def test_a_closed_client_says_so_and_closing_again_is_fine() -> None:
    client = Client("127.0.0.1:1")
    stream = client.stream([b"picture"])
    client.close()
    client.close()
    stream.close()
    with pytest.raises(RuntimeError, match="closed"):
        client.status()


def test_closing_from_another_thread_ends_the_loop() -> None:
    async def holds(call: ScriptedCall) -> None:
        await call.accept(window=1)
        await call.frame()
        await call.until_gone()

    with server_in_thread(holds) as server:
        client = Client(server.target)
        stream = client.stream([b"a", b"b"])
        results: list[object] = []
        reader = threading.Thread(target=lambda: results.extend(stream))
        stream.opened()
        reader.start()
        stream.close()
        reader.join(10)
        assert not reader.is_alive()
        assert results == []
        client.close()

"""Streams of `AsyncClient` against a real server that plays scripts."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from typing import Any

import grpc
import numpy as np
import pytest

from foveate.client import (
    AsyncClient,
    AsyncStream,
    BudgetTooSmall,
    Connection,
    Delivery,
    EventKind,
    Frame,
    InvalidRequest,
    NoSuchPipeline,
    Overloaded,
    PixelFormat,
    Reconnect,
    Refused,
    StreamBroken,
    StreamEvent,
    Unreachable,
    Verdict,
)
from foveate.client.convert import frame_message
from foveate.client.frame import Payload
from foveate.client.frame_flow import SentFrame
from foveate.proto import vision_pb2
from support.scripted_server import ScriptedCall, answer_all, serving

AT_ONCE = Reconnect(max_reconnect_s=60.0, first_delay_s=0.0, longest_delay_s=0.0)
NEVER = Reconnect(max_reconnect_s=0.0)


def run(test: Callable[[], Coroutine[Any, Any, None]]) -> None:
    asyncio.run(asyncio.wait_for(test(), 30))


def pictures(count: int) -> list[bytes]:
    return [f"picture {number}".encode() for number in range(1, count + 1)]


async def verdicts(stream: AsyncStream, seen: list[tuple[int, Verdict]] | None = None) -> list[tuple[int, Verdict]]:
    """All results of a stream, also those before an error where `seen` is given."""
    seen = [] if seen is None else seen
    async for result in stream:
        seen.append((result.sequence, result.verdict))
    return seen


def test_every_frame_gets_its_own_answer_in_frame_order() -> None:
    async def script(call: ScriptedCall) -> None:
        await call.accept()
        while (frame := await call.frame()) is not None:
            label = vision_pb2.ClassScore(label=frame.data.decode())
            await call.answer(frame.sequence, classes=[label])

    async def test() -> None:
        async with serving(script) as server, AsyncClient(server.target) as client:
            stream = client.stream(pictures(20))
            seen = [(r.sequence, r.verdict, r.classes[0].label) async for r in stream]
            assert seen == [(n, Verdict.OK, f"picture {n}") for n in range(1, 21)]
            assert (stream.dropped, stream.unexpected) == (0, 0)

    run(test)


def test_settings_reach_the_server_and_its_reply_is_the_stream_info() -> None:
    async def script(call: ScriptedCall) -> None:
        engine = vision_pb2.EngineDescription(name="m", backend="b", precision="p", device="d")
        await call.accept(
            window=7, stream_id="door", labels=["face"], engine=engine, grant=vision_pb2.GRANT_BEST_EFFORT
        )
        while await call.frame() is not None:
            pass

    async def test() -> None:
        async with serving(script) as server, AsyncClient(server.target) as client:
            stream = client.stream(
                [],
                pipeline="faces",
                budget_ms=80,
                fps=25.0,
                delivery=Delivery.QUEUE,
                queue_depth=3,
                format=PixelFormat.RAW_NV12,
                width=64,
                height=32,
                classes=["face"],
                min_score=0.5,
            )
            assert stream.info is None
            info = await stream.opened()
            assert (info.stream_id, info.window, info.labels, info.grant) == ("door", 7, ("face",), "best_effort")
            assert str(info.engine) == "m/b/p/d"
            assert stream.info == info
            await verdicts(stream)
        asked = server.calls[0].open
        assert (asked.pipeline, asked.budget_ms, asked.fps, asked.queue_depth) == ("faces", 80, 25.0, 3)
        assert asked.delivery == vision_pb2.DELIVERY_QUEUE
        assert asked.format == vision_pb2.PIXEL_FORMAT_RAW_NV12
        assert (asked.width, asked.height, list(asked.classes), asked.min_score) == (64, 32, ["face"], 0.5)

    run(test)


def test_the_window_is_never_exceeded_and_is_used() -> None:
    most_unanswered = 0

    async def script(call: ScriptedCall) -> None:
        nonlocal most_unanswered
        await call.accept(window=3)
        unanswered = [await call.frame() for _ in range(3)]  # three come without any answer
        pending = asyncio.create_task(call.frame())
        for sequence in range(1, 10):
            most_unanswered = max(most_unanswered, len(unanswered))
            first = unanswered.pop(0)
            assert first is not None
            assert first.sequence == sequence
            assert not pending.done(), "a fourth frame came before the first was answered"
            await call.answer(first.sequence)
            following = await pending
            if following is None:
                break
            unanswered.append(following)
            pending = asyncio.create_task(call.frame())
        for left in unanswered:
            assert left is not None
            await call.answer(left.sequence)

    async def test() -> None:
        async with serving(script) as server, AsyncClient(server.target) as client:
            assert len(await verdicts(client.stream(pictures(9)))) == 9

    run(test)
    assert most_unanswered == 3


def test_a_broken_connection_loses_what_was_on_its_way_and_resumes() -> None:
    async def breaks(call: ScriptedCall) -> None:
        await call.accept(window=2, stream_id="door", resume_token="take me back")
        first, _second = await call.frame(), await call.frame()
        assert first is not None
        await call.answer(first.sequence)
        await call.frame()
        await call.abort(grpc.StatusCode.INTERNAL, "it broke")

    async def test() -> None:
        events: list[StreamEvent] = []
        async with (
            serving(breaks, answer_all) as server,
            AsyncClient(server.target, reconnect=AT_ONCE, on_event=events.append) as client,
        ):
            results = [result async for result in client.stream(pictures(6), pipeline="faces")]
            assert [r.sequence for r in results] == [1, 2, 3, 4, 5, 6]
            assert [r.verdict for r in results] == [Verdict.OK, *[Verdict.LOST] * 2, *[Verdict.OK] * 3]
            assert "it broke" in results[1].message
            assert results[1].round_trip_ms is None
            assert [call.open.resume_token for call in server.calls] == ["", "take me back"]
            assert [call.open.pipeline for call in server.calls] == ["faces", "faces"]
            assert [event.kind for event in events] == ["opened", "interrupted", "opened"]

    run(test)


def test_a_drained_stream_takes_its_answers_and_opens_again() -> None:
    async def drains(call: ScriptedCall) -> None:
        await call.accept(window=4)
        first, second = await call.frame(), await call.frame()
        assert first is not None
        assert second is not None
        await call.notice(kind=vision_pb2.Notice.KIND_DRAIN, grace_ms=500)
        unanswered = [first.sequence, second.sequence]
        while (frame := await call.frame()) is not None:  # until the client half-closes
            unanswered.append(frame.sequence)
        for sequence in unanswered:
            await call.answer(sequence)

    async def test() -> None:
        events: list[StreamEvent] = []
        async with (
            serving(drains, answer_all) as server,
            AsyncClient(server.target, reconnect=AT_ONCE, on_event=events.append) as client,
        ):
            assert await verdicts(client.stream(pictures(9))) == [(n, Verdict.OK) for n in range(1, 10)]
            assert server.calls[1].open.resume_token == "token-1"
            kinds = [event.kind for event in events]
            assert kinds == [EventKind.OPENED, EventKind.DRAIN, EventKind.INTERRUPTED, EventKind.OPENED]

    run(test)


@pytest.mark.parametrize(
    ("code", "error"),
    [
        (grpc.StatusCode.INVALID_ARGUMENT, InvalidRequest),
        (grpc.StatusCode.NOT_FOUND, NoSuchPipeline),
        (grpc.StatusCode.OUT_OF_RANGE, BudgetTooSmall),
        (grpc.StatusCode.RESOURCE_EXHAUSTED, Overloaded),
        (grpc.StatusCode.UNAUTHENTICATED, Refused),
        (grpc.StatusCode.INTERNAL, Refused),
    ],
)
def test_a_refusal_is_typed_and_final_after_the_frames_results(code: grpc.StatusCode, error: type[Refused]) -> None:
    async def refuses(call: ScriptedCall) -> None:
        await call.refuse(code, "say something else")

    async def test() -> None:
        async with serving(refuses) as server, AsyncClient(server.target, reconnect=AT_ONCE) as client:
            stream = client.stream(endless())
            with pytest.raises(error, match="say something else") as refusal:
                await stream.opened()
            assert refusal.value.code == code.name
            assert type(refusal.value) is error
            seen: list[tuple[int, Verdict]] = []
            with pytest.raises(error):
                await verdicts(stream, seen)
            assert all(verdict is Verdict.LOST for _, verdict in seen)
            assert len(server.calls) == 1

    run(test)


def test_giving_up_says_which_server_and_why() -> None:
    async def test() -> None:
        async with serving(answer_all) as server:
            target = server.target
        async with AsyncClient(target, reconnect=NEVER) as client:
            with pytest.raises(Unreachable, match=f"(?s){target}.*UNAVAILABLE"):
                await client.stream(pictures(1)).opened()
            with pytest.raises(Unreachable, match=target):
                await client.status()

    run(test)


def test_a_server_that_fails_on_every_frame_is_given_up_on() -> None:
    async def breaks(call: ScriptedCall) -> None:
        await call.accept()
        await call.frame()
        await call.abort(grpc.StatusCode.UNKNOWN, "a bug")

    async def test() -> None:
        policy = Reconnect(max_reconnect_s=0.05, first_delay_s=0.0, longest_delay_s=1.0)
        async with serving(breaks) as server, AsyncClient(server.target, reconnect=policy) as client:
            with pytest.raises(Unreachable, match="gave up on"):
                await verdicts(client.stream(endless()))
            assert len(server.calls) > 1

    run(test)


def test_a_server_that_vanishes_is_found_again() -> None:
    async def holds(call: ScriptedCall) -> None:
        await call.accept(window=1)
        await call.frame()
        await call.until_gone()

    async def test() -> None:
        async with serving(holds) as first:
            client = AsyncClient(first.target, reconnect=AT_ONCE)
            results = asyncio.create_task(verdicts(client.stream(pictures(3))))
            await first.waiting_for_end.wait()
        async with serving(answer_all, port=first.port):
            assert await results == [(1, Verdict.LOST), (2, Verdict.OK), (3, Verdict.OK)]
            await client.close()

    run(test)


def test_duplicates_and_unknown_answers_are_ignored_and_counted() -> None:
    async def script(call: ScriptedCall) -> None:
        await call.accept()
        while (frame := await call.frame()) is not None:
            await call.answer(999)
            await call.answer(frame.sequence)
            await call.answer(frame.sequence, verdict=vision_pb2.VERDICT_FAILED)

    async def test() -> None:
        async with serving(script) as server, AsyncClient(server.target) as client:
            stream = client.stream(pictures(4))
            assert await verdicts(stream) == [(n, Verdict.OK) for n in range(1, 5)]
            assert stream.unexpected == 8

    run(test)


@pytest.mark.parametrize("first", [None, vision_pb2.StreamReply(result=vision_pb2.FrameResult(sequence=1))])
def test_a_server_that_does_not_open_the_stream_broke_the_protocol(
    first: vision_pb2.StreamReply | None,
) -> None:
    async def script(call: ScriptedCall) -> None:
        if first is not None:
            await call.reply(first)

    async def test() -> None:
        async with serving(script) as server, AsyncClient(server.target) as client:
            with pytest.raises(StreamBroken, match="expected `opened`"):
                await client.stream(pictures(1)).opened()

    run(test)


def test_notices_change_what_is_known_of_the_stream() -> None:
    async def script(call: ScriptedCall) -> None:
        await call.accept(advised_fps=30.0)
        await call.notice(kind=vision_pb2.Notice.KIND_ADVISED_RATE, advised_fps=12.5)
        first = await call.frame()
        assert first is not None
        await call.answer(first.sequence)
        changed = vision_pb2.StreamOpened(window=1, labels=["new"], budget_ms=70)
        await call.notice(kind=vision_pb2.Notice.KIND_CONFIG_CHANGED, opened=changed)
        second = await call.frame()
        assert second is not None
        await call.answer(second.sequence)
        assert await call.frame() is None

    async def test() -> None:
        events: list[StreamEvent] = []
        async with serving(script) as server, AsyncClient(server.target, on_event=events.append) as client:
            stream = client.stream(pictures(2))
            assert await stream.next() is not None
            assert stream.info is not None
            assert stream.info.advised_fps == 12.5
            second = await stream.next()
            assert second is not None
            assert second.budget_ms == 70
            assert await stream.next() is None
            assert stream.info.labels == ("new",)
            assert [event.kind for event in events] == ["opened", "changed", "changed"]

    run(test)


def test_a_live_source_never_waits_and_its_newest_frame_wins() -> None:
    async def script(call: ScriptedCall) -> None:
        await call.accept(window=1)
        first = await call.frame()
        assert first is not None
        await gate.wait()
        await call.answer(first.sequence)
        newest = await call.frame()
        assert newest is not None
        assert newest.data == b"picture 6"
        await call.answer(newest.sequence)
        assert await call.frame() is None

    gate = asyncio.Event()

    async def camera() -> AsyncIterator[bytes]:
        yield b"picture 1"
        await sent.wait()
        for number in range(2, 7):
            yield f"picture {number}".encode()
        gate.set()

    sent = asyncio.Event()

    async def test() -> None:
        async with serving(script) as server, AsyncClient(server.target) as client:
            stream = client.stream(camera(), live=True)
            await stream.opened()
            sent.set()
            seen = await verdicts(stream)
            dropped = [(n, Verdict.DROPPED) for n in range(2, 6)]
            assert seen == [(1, Verdict.OK), *dropped, (6, Verdict.OK)]
            assert stream.dropped == 4

    run(test)


def test_a_source_that_can_wait_is_not_read_ahead_of_the_window() -> None:
    taken: list[int] = []

    async def files() -> AsyncIterator[bytes]:
        for number in range(1, 100):
            taken.append(number)
            yield b"picture"

    async def script(call: ScriptedCall) -> None:
        await call.accept(window=2)
        for _ in range(2):
            await call.frame()
        await call.until_gone()

    async def test() -> None:
        async with serving(script) as server, AsyncClient(server.target) as client:
            async with client.stream(files()) as stream:
                await stream.opened()
                await server.waiting_for_end.wait()
            assert len(taken) <= 2 + 2  # the window, the one that waits, the one in the source's hands

    run(test)


def test_a_caller_who_does_not_read_stops_the_source() -> None:
    async def test() -> None:
        taken = 0
        idle = asyncio.Event()

        async def files() -> AsyncIterator[bytes]:
            nonlocal taken
            for _ in range(10_000):
                taken += 1
                if taken >= 250:
                    idle.set()
                yield b"picture"

        async with (
            serving(answer_all) as server,
            AsyncClient(server.target) as client,
            client.stream(files()) as stream,
        ):
            await stream.opened()
            await idle.wait()
            for _ in range(5):  # rounds of traffic that the stream could use, if it were allowed to
                await client.list_pipelines()
            assert taken <= 256 + 2
            first = await stream.next()
            assert first is not None
            assert first.sequence == 1

    run(test)


def test_leaving_the_loop_early_cancels_the_rpc_and_closes_the_source() -> None:
    closed = asyncio.Event()

    async def source() -> AsyncIterator[bytes]:
        try:
            while True:
                yield b"picture"
        finally:
            closed.set()

    async def script(call: ScriptedCall) -> None:
        await call.accept(window=1)
        frame = await call.frame()
        assert frame is not None
        await call.answer(frame.sequence)
        await call.frame()
        await call.until_gone()

    async def test() -> None:
        async with serving(script) as server, AsyncClient(server.target) as client:
            async with client.stream(source()) as stream:
                async for _ in stream:
                    break
            await server.ended.acquire()
            await closed.wait()
            assert await stream.next() is None

    run(test)


def test_cancelling_the_reader_ends_the_rpc() -> None:
    async def script(call: ScriptedCall) -> None:
        await call.accept(window=1)
        await call.frame()
        await call.until_gone()

    async def test() -> None:
        async with serving(script) as server, AsyncClient(server.target) as client:
            reader = asyncio.create_task(verdicts(client.stream(pictures(5))))
            await server.waiting_for_end.wait()
            reader.cancel()
            with pytest.raises(asyncio.CancelledError):
                await reader
            await server.ended.acquire()

    run(test)


def test_closing_the_client_ends_its_streams() -> None:
    async def script(call: ScriptedCall) -> None:
        await call.accept(window=1)
        await call.frame()
        await call.until_gone()

    async def test() -> None:
        async with serving(script) as server:
            client = AsyncClient(server.target)
            reader = asyncio.create_task(verdicts(client.stream(pictures(5))))
            await server.waiting_for_end.wait()
            await client.close()
            assert await reader == []
            await server.ended.acquire()

    run(test)


def test_a_source_that_fails_is_heard_after_its_results() -> None:
    def breaks() -> Iterator[bytes]:
        yield b"picture"
        yield b"picture"
        raise OSError("the camera was unplugged")

    async def test() -> None:
        async with serving(answer_all) as server, AsyncClient(server.target) as client:
            seen: list[tuple[int, Verdict]] = []
            with pytest.raises(OSError, match="unplugged"):
                await verdicts(client.stream(breaks()), seen)
            assert seen == [(1, Verdict.OK), (2, Verdict.OK)]

    run(test)


@pytest.mark.parametrize("error", [SystemExit(3), KeyboardInterrupt(), asyncio.CancelledError()])
def test_a_source_that_raises_no_exception_ends_the_stream_too(error: BaseException) -> None:
    def exits() -> Iterator[bytes]:
        yield b"picture"
        raise error

    async def test() -> None:
        async with serving(answer_all) as server, AsyncClient(server.target) as client:
            seen: list[tuple[int, Verdict]] = []
            with pytest.raises(RuntimeError, match=f"source of frames raised {type(error).__name__}") as raised:
                await verdicts(client.stream(exits()), seen)
            assert raised.value.__cause__ is error
            assert seen == [(1, Verdict.OK)]

    run(test)


@pytest.mark.parametrize("live", [False, True])
def test_a_frame_too_large_for_a_message_is_rejected_and_the_stream_goes_on(live: bool) -> None:
    received: list[bytes] = []

    async def script(call: ScriptedCall) -> None:
        await call.accept()
        while (frame := await call.frame()) is not None:
            received.append(frame.data)
            await call.answer(frame.sequence)

    largest = bytes(2000 - 64)
    sequence = iter([b"first", largest + b"!", largest])

    async def test() -> None:
        answered = asyncio.Event()

        async def source() -> AsyncIterator[bytes]:
            for data in sequence:
                yield data
                if live:  # or a live source would drop frames
                    await answered.wait()
                    answered.clear()

        connection = Connection(max_message_bytes=2000)
        async with serving(script) as server, AsyncClient(server.target, connection=connection) as client:
            results = []
            async for result in client.stream(source(), live=live):
                results.append(result)
                answered.set()
            assert len(server.calls) == 1
        assert [result.verdict for result in results] == [Verdict.OK, Verdict.REJECTED, Verdict.OK]
        assert "1937 bytes" in results[1].message
        assert "max_message_bytes = 2000" in results[1].message
        assert received == [b"first", largest]

    run(test)


def test_the_largest_frame_travels_with_the_largest_numbers() -> None:
    sent = SentFrame(2**64 - 1, Payload(bytes(64 << 20), None, 2**32 - 1), 0.0, age_s=1e9)
    assert len(frame_message(sent).SerializeToString()) - len(sent.payload.data) <= 64


def test_a_server_that_cancels_while_it_stops_is_a_lost_connection() -> None:
    async def stops(call: ScriptedCall) -> None:
        await call.refuse(grpc.StatusCode.CANCELLED, "the server stops")

    async def test() -> None:
        async with serving(stops, answer_all) as server, AsyncClient(server.target, reconnect=AT_ONCE) as client:
            assert await verdicts(client.stream(pictures(2))) == [(1, Verdict.OK), (2, Verdict.OK)]
            assert len(server.calls) == 2

    run(test)


def test_a_plain_iterable_is_read_in_a_thread_that_ends_with_the_stream() -> None:
    reading: list[threading.Thread] = []
    closed = threading.Event()

    def camera() -> Iterator[bytes]:
        reading.append(threading.current_thread())
        try:
            while True:
                yield b"picture"
        finally:
            closed.set()

    async def test() -> None:
        async with serving(answer_all) as server, AsyncClient(server.target) as client:
            async with client.stream(camera()) as stream:
                assert await stream.next() is not None
            await asyncio.to_thread(closed.wait)
            assert reading[0] is not threading.main_thread()
            await asyncio.to_thread(reading[0].join)

    run(test)


def test_the_age_of_a_frame_is_taken_when_it_leaves() -> None:
    ages: list[int] = []
    budgets: list[int] = []

    async def script(call: ScriptedCall) -> None:
        await call.accept()
        while (frame := await call.frame()) is not None:
            ages.append(frame.age_us)
            budgets.append(frame.budget_ms)
            await call.answer(frame.sequence, times=vision_pb2.StageTimes(total=40_000))

    async def test() -> None:
        an_hour_ago = asyncio.get_running_loop().time() - 3600.0  # asyncio's clock is time.monotonic()
        frames = [Frame(b"old", captured_at=an_hour_ago), Frame(b"new"), Frame(b"strict", budget_ms=39)]
        async with serving(script) as server, AsyncClient(server.target) as client:
            results = [result async for result in client.stream(frames)]
        assert ages[0] >= 3_600_000_000
        assert ages[1:] == [0, 0]
        assert budgets == [0, 0, 39]
        assert [result.on_time for result in results] == [False, True, False]
        assert [result.budget_ms for result in results] == [100, 100, 39]
        assert results[0].age_ms >= 3_600_000

    run(test)


def test_arrays_travel_raw_and_only_in_the_declared_shape() -> None:
    image = np.random.default_rng(1).integers(0, 256, (6, 4, 3), np.uint8)
    received: list[bytes] = []

    async def script(call: ScriptedCall) -> None:
        await call.accept()
        while (frame := await call.frame()) is not None:
            received.append(frame.data)
            await call.answer(frame.sequence)

    async def test() -> None:
        async with serving(script) as server, AsyncClient(server.target) as client:
            raw: dict[str, Any] = {"format": PixelFormat.RAW_BGR, "width": 4, "height": 6}
            await verdicts(client.stream([image, image[::-1]], **raw))
            assert received == [image.tobytes(), image[::-1].tobytes()]
            with pytest.raises(ValueError, match=r"shape \(6, 4, 3\).*got uint8 of shape \(4, 6, 3\)"):
                await verdicts(client.stream([image.transpose(1, 0, 2)], **raw))
            with pytest.raises(ValueError, match="encode it"):
                await verdicts(client.stream([image]))

    run(test)


def test_a_misspelt_setting_fails_where_it_stands() -> None:
    async def test() -> None:
        async with AsyncClient("127.0.0.1:1") as client:
            misspelt: Any = {"pipelin": "faces"}
            with pytest.raises(TypeError, match=r"no such setting: pipelin; there are .*pipeline"):
                client.stream([], **misspelt)

    run(test)


async def endless() -> AsyncIterator[bytes]:
    while True:
        yield b"picture"
        await asyncio.sleep(0)

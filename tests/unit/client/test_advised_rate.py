"""Frames leave at the rate that the server advises, where the caller wants it so."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from foveate.client import AsyncClient, Result, Verdict
from foveate.client.pace import Pace
from foveate.proto import vision_pb2
from support.scripted_server import ScriptedCall, serving

NOT_FOR_DAYS = 1e-6
"""Frames a second: two may leave, by the one interval that may be caught up on; then none does."""


def run(test: Callable[[], Coroutine[Any, Any, None]]) -> None:
    asyncio.run(asyncio.wait_for(test(), 30))


def sent_within(pace: Pace, seconds: float, offered_fps: float) -> list[float]:
    """When frames leave of a source that always has one ready."""
    moments, now = [], 0.0
    while now < seconds:
        if pace.wait_s(now) <= 0:
            pace.sent(now)
            moments.append(now)
        now += 1 / offered_fps
    return moments


def test_without_advice_no_frame_waits() -> None:
    pace = Pace()
    assert len(sent_within(pace, 1.0, 500.0)) >= 500
    pace.advise(10.0, 1.0)
    pace.advise(0.0, 1.0)
    assert pace.wait_s(1.0) <= 0.0


@given(st.floats(1.0, 100.0), st.floats(0.5, 20.0))
def test_frames_leave_at_the_advised_rate_and_no_faster(fps: float, seconds: float) -> None:
    pace = Pace()
    pace.advise(fps, 0.0)
    moments = sent_within(pace, seconds, 1000.0)
    assert len(moments) <= fps * seconds + 3
    assert len(moments) >= (fps * seconds) / (1 + 2 * fps / 1000) - 1


def test_jitter_does_not_lower_a_rate_that_is_within_the_advice() -> None:
    pace = Pace()
    pace.advise(10.0, 0.0)
    for index in range(100):
        now = index * 0.1 + (0.04 if index % 2 else 0.0)
        assert pace.wait_s(now) <= 1e-9
        pace.sent(now)


def test_better_advice_counts_at_once() -> None:
    pace = Pace()
    pace.advise(0.1, 0.0)
    pace.sent(0.0)
    pace.sent(0.0)
    assert pace.wait_s(0.0) == pytest.approx(10.0)
    pace.advise(10.0, 0.0)
    assert pace.wait_s(0.0) == pytest.approx(0.1)
    assert pace.wait_s(0.1) <= 1e-9


async def endless() -> AsyncIterator[bytes]:
    while True:
        yield b"picture"
        await asyncio.sleep(0)


@pytest.mark.parametrize(("live", "paced", "waits"), [(True, None, True), (False, None, False), (False, True, True)])
async def answering(call: ScriptedCall, told: str, came: list[int]) -> None:
    """Give the advice, in one way or another, and answer all that comes."""
    await call.accept(window=64, advised_fps=NOT_FOR_DAYS if told == "when it opened" else 0.0)
    if told == "by a notice":
        await call.notice(kind=vision_pb2.Notice.KIND_ADVISED_RATE, advised_fps=NOT_FOR_DAYS)
    while (frame := await call.frame()) is not None:
        came.append(frame.sequence)
        await call.answer(frame.sequence, advised_fps=NOT_FOR_DAYS)


@pytest.mark.parametrize("told", ["when it opened", "with an answer", "by a notice"])
@pytest.mark.parametrize("paced", [None, True])
def test_a_live_stream_holds_its_frames_back_until_it_is_told_otherwise(paced: bool | None, told: str) -> None:
    async def test() -> None:
        came: list[int] = []
        async with serving(lambda call: answering(call, told, came)) as server, AsyncClient(server.target) as client:
            stream = client.stream(endless(), live=True, paced=paced)
            answered = dropped = 0
            while not answered or dropped < 600:  # more than can wait to be read
                result = await stream.next() or missing()
                answered += result.verdict is Verdict.OK
                dropped = dropped + 1 if result.verdict is Verdict.DROPPED else 0
            if told == "when it opened":
                assert len(came) == 2
            await server.calls[0].notice(kind=vision_pb2.Notice.KIND_ADVISED_RATE, advised_fps=1e6)
            while (await stream.next() or missing()).verdict is Verdict.DROPPED:
                pass

    run(test)


def test_a_file_that_is_to_be_paced_is_read_no_faster_than_its_frames_leave() -> None:
    async def test() -> None:
        came: list[int] = []
        pulled = 0

        async def file() -> AsyncIterator[bytes]:
            nonlocal pulled
            while True:
                pulled += 1
                yield b"picture"

        async with (
            serving(lambda call: answering(call, "when it opened", came)) as server,
            AsyncClient(server.target) as client,
        ):
            stream = client.stream(file(), paced=True)
            assert [(await stream.next() or missing()).sequence for _ in range(2)] == [1, 2]
            for _ in range(200):
                await asyncio.sleep(0)
            assert len(came) == 2
            assert pulled <= 4, "one waits to be sent, one to be taken over"

    run(test)


@pytest.mark.parametrize("live", [True, False])
def test_a_stream_that_is_not_to_be_paced_sends_on(live: bool) -> None:
    async def test() -> None:
        came: list[int] = []
        async with (
            serving(lambda call: answering(call, "when it opened", came)) as server,
            AsyncClient(server.target) as client,
        ):
            stream = client.stream(endless(), live=live, paced=False if live else None)
            answered = 0
            while answered < 50:
                answered += (await stream.next() or missing()).verdict is Verdict.OK

    run(test)


def missing() -> Result:
    raise AssertionError("the stream ended")

"""Messages between processes: whole, in order, with their files, and an end that is noticed."""

from __future__ import annotations

import asyncio
import os
import socket
import struct
import threading
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from foveate.engines.errors import BudgetTooSmall, EngineUnavailable
from foveate.service.link import Calls, Link, LinkBroken


@pytest.fixture
def ends() -> Iterator[tuple[Link, Link]]:
    one, other = (Link(end) for end in Link.pair())
    yield one, other
    one.close()
    other.close()


def received(link: Link, count: int) -> list[tuple[tuple[Any, ...], list[int]]]:
    messages: list[tuple[tuple[Any, ...], list[int]]] = []
    while len(messages) < count:
        messages += link.receive()
    assert len(messages) == count
    return messages


def test_messages_of_many_threads_and_sizes_arrive_whole_and_in_the_order_of_each(ends: tuple[Link, Link]) -> None:
    one, other = ends
    rng = np.random.default_rng(1)
    sizes = rng.integers(0, 300_000, (3, 20)).tolist()

    def talk(who: int) -> None:
        for number, size in enumerate(sizes[who]):
            one.send(who, number, bytes(size))

    threads = [threading.Thread(target=talk, args=(who,)) for who in range(3)]
    for thread in threads:
        thread.start()
    messages = [message for message, _ in received(other, 60)]
    for thread in threads:
        thread.join()
    for who in range(3):
        mine = [(number, len(data)) for sender, number, data in messages if sender == who]
        assert mine == list(enumerate(sizes[who]))


def test_files_come_with_their_own_message(ends: tuple[Link, Link]) -> None:
    one, other = ends
    pipes = [os.pipe() for _ in range(3)]
    one.send("none")
    one.send("two", bytes(100_000), files=[pipes[0][1], pipes[1][1]])
    one.send("one", files=[pipes[2][1]])
    messages = received(other, 3)
    assert [(message[0], len(files)) for message, files in messages] == [("none", 0), ("two", 2), ("one", 1)]
    handles = [handle for _, files in messages for handle in files]
    for index, (handle, (read_end, write_end)) in enumerate(zip(handles, pipes, strict=True)):
        os.write(handle, bytes([index]))
        assert os.read(read_end, 1) == bytes([index])
        for each in (handle, read_end, write_end):
            os.close(each)


def test_the_end_of_the_other_side_is_noticed_when_receiving_and_when_sending(ends: tuple[Link, Link]) -> None:
    one, other = ends
    one.send("last")
    one.hang_up()
    assert received(other, 1) == [(("last",), [])]
    with pytest.raises(LinkBroken):
        other.receive()
    with pytest.raises(LinkBroken):
        other.send("anybody there?")


def test_calls_are_answered_each_with_its_own(ends: tuple[Link, Link]) -> None:
    one, other = ends

    async def run() -> None:
        calls = Calls()
        asked = [asyncio.ensure_future(calls.call(one, "ask", index)) for index in range(3)]
        await asyncio.sleep(0)
        numbers = {index: number for (_, number, index), _ in received(other, 3)}
        calls.answer(numbers[2], "two")
        calls.answer(numbers[0], BudgetTooSmall("too small"))
        calls.answer(12345, "nobody asked")
        assert await asked[2] == "two"
        with pytest.raises(BudgetTooSmall, match="too small"):
            await asked[0]
        calls.fail(EngineUnavailable("gone"))
        with pytest.raises(EngineUnavailable, match="gone"):
            await asked[1]

    asyncio.run(run())


def test_files_of_a_message_that_does_not_come_to_its_end_are_closed(ends: tuple[Link, Link]) -> None:
    one, other = ends
    reading, writing = os.pipe()
    os.set_blocking(reading, False)
    socket.send_fds(one._socket, [struct.pack("=IB", 1000, 1) + b"part of it"], [writing])
    os.close(writing)
    assert other.receive() == []
    with pytest.raises(BlockingIOError):
        os.read(reading, 1)
    other.close()
    assert os.read(reading, 1) == b"", "nobody has the other end any more"
    os.close(reading)

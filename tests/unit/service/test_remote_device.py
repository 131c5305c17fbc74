"""A device in another process: what comes over its link, sense or not."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest

from foveate.engines.errors import EngineUnavailable
from foveate.service.boundary import Admission
from foveate.service.frame import Grant
from foveate.service.ingest import Ingest
from foveate.service.link import Link
from foveate.service.remote_device import RemoteDevice
from support.frames import stream_options
from support.waiting import until_in_loop


def test_a_link_that_ends_by_itself_is_told_of_and_another_one_is_taken() -> None:
    async def go() -> None:
        loop, broken = asyncio.get_running_loop(), list[str]()
        ingest = Ingest(loop.call_soon_threadsafe, ThreadPoolExecutor(1))
        device = RemoteDevice(ingest, lambda: None, lambda: broken.append("told"))

        def told(rate: float) -> Callable[[], bool]:
            return lambda: device.advised_fps(1) == rate

        for rate in (7.5, 12.5):
            ours, theirs = (Link(end) for end in Link.pair())
            device.connect(ours)
            device.enter(1, stream_options(), Grant.BEST_EFFORT)
            theirs.send("rates", {1: rate})
            await until_in_loop(told(rate), 5.0)
            if not broken:
                theirs.hang_up()
                await until_in_loop(lambda: bool(broken), 5.0)
            theirs.close()
        device.lose()
        assert broken == ["told"], "not of one that is let go of"

    asyncio.run(go())


@pytest.mark.parametrize("comes", [True, False])
def test_a_stream_for_a_device_that_has_just_come_waits_for_what_that_serves(comes: bool) -> None:
    """The supervisor knows of a device before the ingest does, and sends streams there."""

    async def go() -> None:
        loop = asyncio.get_running_loop()
        ours, theirs = (Link(end) for end in Link.pair())
        device = RemoteDevice(Ingest(loop.call_soon_threadsafe, ThreadPoolExecutor(1)), lambda: None)
        device.connect(ours)
        admitting = asyncio.create_task(device.admit(1, stream_options()))
        await asyncio.sleep(0)
        assert not admitting.done()
        if comes:
            theirs.send("serving", {}, "p", [], {})
            (((kind, number, *_), _),) = await asyncio.to_thread(theirs.receive)
            assert kind == "admit"
            theirs.send("answer", number, Admission(Grant.GUARANTEED, 1, 12.5))
            assert (await admitting).grant is Grant.GUARANTEED
            device.lose()
        else:
            theirs.hang_up()
            with pytest.raises(EngineUnavailable):
                await admitting
        theirs.close()

    asyncio.run(go())


def test_a_message_without_sense_does_not_take_those_that_came_with_it_along(caplog: pytest.LogCaptureFixture) -> None:
    async def go() -> None:
        loop = asyncio.get_running_loop()
        ours, theirs = (Link(end) for end in Link.pair())
        device = RemoteDevice(Ingest(loop.call_soon_threadsafe, ThreadPoolExecutor(1)), lambda: None)
        device.enter(1, stream_options(), Grant.BEST_EFFORT)
        theirs.send("ran", "of which nobody has heard", (), [])
        theirs.send("rates", {1: 12.5})
        device.connect(ours)  # one reading finds both
        await until_in_loop(lambda: device.advised_fps(1) == 12.5)
        device.lose()
        theirs.close()

    asyncio.run(go())
    assert "the message ran of a device made no sense" in caplog.text

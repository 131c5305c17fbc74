"""Those who look: what each is sent, that a slow one gets less and not later, and that nothing runs without them."""

from __future__ import annotations

import asyncio
import json
import math
import struct
from types import SimpleNamespace
from typing import Any

import pytest

from foveate.engines.errors import EngineError
from foveate.service.live import viewers as viewers_module
from foveate.service.live.gallery import LEASE_S
from foveate.service.live.picture import AnsweredFrame, LivePicture, LiveSink, PictureWishes
from foveate.service.live.viewers import Viewer, Viewers, picture_message, wishes_from
from foveate.service.pipeline import PipelineSet
from foveate.service.whole_service import ServiceStatus
from support.waiting import until_in_loop


class FakeService:
    """As much of a service as viewers see."""

    address = "127.0.0.1:1"
    unready = ""
    draining = False

    def __init__(self) -> None:
        self.watched: list[PictureWishes] = []
        self.failing = False
        self.asked = 0

    @property
    def pipelines(self) -> PipelineSet:
        raise EngineError("not loaded")

    async def status(self) -> ServiceStatus:
        self.asked += 1
        if self.failing:
            raise EngineError("an engine process has died")
        return ServiceStatus()

    async def metrics(self) -> Any:
        raise AssertionError("nobody asks")

    def watch(self, wishes: PictureWishes, sink: LiveSink) -> None:
        self.watched.append(dict(wishes))


def picture(stream_id: str, number: int) -> LivePicture:
    return LivePicture(stream_id, {"sequence": number}, b"jpeg")


def read(message: str | bytes) -> tuple[str, int]:
    """The stream and the number of a picture."""
    assert isinstance(message, bytes)
    (length,) = struct.unpack_from(">I", message)
    caption = json.loads(message[4 : 4 + length])
    assert message[4 + length :] == b"jpeg"
    return caption["stream"], caption["sequence"]


@pytest.fixture(autouse=True)
def now_s(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The time, which stands still unless a test moves it: who looks does so until then."""
    now_s = [1e6]
    clock = SimpleNamespace(monotonic=lambda: now_s[0], monotonic_ns=lambda: round(now_s[0] * 1e9))
    monkeypatch.setattr(viewers_module, "time", clock)
    monkeypatch.setattr(viewers_module, "STATUS_EVERY_S", 0.01)
    return now_s


def test_only_the_newest_picture_of_a_stream_waits_and_streams_take_turns() -> None:
    async def run() -> None:
        viewer = Viewer()
        viewer.wants({"a": 640, "b": 640})
        for number in range(5):
            viewer.offer_picture("a", picture_message(picture("a", number)))
            viewer.offer_picture("b", picture_message(picture("b", number)))
        assert [read(await viewer.next_message()) for _ in range(2)] == [("a", 4), ("b", 4)]
        assert viewer.undrawn == 2

    asyncio.run(run())


def test_a_viewer_that_draws_nothing_gets_no_more_pictures_but_the_status() -> None:
    async def run() -> None:
        viewer = Viewer()
        viewer.wants(dict.fromkeys("abcdef", 640))
        for name in "abcdef":
            viewer.offer_picture(name, picture_message(picture(name, 1)))
        sent = [read(await viewer.next_message())[0] for _ in range(3)]
        next_one = asyncio.create_task(viewer.next_message())
        await asyncio.sleep(0)
        assert not next_one.done()
        viewer.offer_status("how it stands")
        assert await next_one == "how it stands"
        viewer.drew(1)
        sent.append(read(await viewer.next_message())[0])
        assert sent == list("abcd")
        viewer.drew(1000)
        assert viewer.undrawn == 0

    asyncio.run(run())


def test_what_is_not_looked_at_any_more_is_not_sent() -> None:
    viewer = Viewer()
    viewer.wants({"a": 640, "b": 640})
    viewer.offer_picture("a", b"a")
    viewer.wants({"b": 640})
    viewer.offer_picture("b", b"b")
    assert asyncio.run(viewer.next_message()) == b"b"


def test_viewers_see_their_own_streams_in_the_largest_size_that_is_asked_for() -> None:
    async def run() -> None:
        service = FakeService()
        viewers = Viewers(service, {"version": "1"})
        near, far = viewers.enter(), viewers.enter()
        viewers.wants(near, {"a": 640, "b": 1280})
        viewers.wants(far, {"b": 640, "c": 320})
        assert service.watched[-1] == {"a": 640, "b": 1280, "c": 320}
        viewers.picture(picture("a", 1))
        viewers.picture(picture("d", 1))
        far.offer_status("nothing else")
        assert await far.next_message() == "nothing else"
        assert read(await near.next_message()) == ("a", 1)
        viewers.leave(near)
        assert service.watched[-1] == {"b": 640, "c": 320}
        viewers.close()

    asyncio.run(run())


def test_the_status_is_asked_for_while_somebody_looks_and_never_else(now_s: list[float]) -> None:
    async def run() -> None:
        service = FakeService()
        viewers = Viewers(service, {"version": "1"})
        viewer = viewers.enter()
        await asyncio.sleep(0.03)
        assert service.asked == 0, "it is connected and does not look"
        viewers.wants(viewer, {"a": 640})
        viewers.answers("a", [AnsweredFrame("ok", (0,) * 8, 1)])
        told = json.loads(await viewer.next_message())
        assert (told["state"], told["version"], told["streams"]) == ("ready", "1", [])
        now_s[0] += LEASE_S + 0.1
        await until_in_loop(lambda: len(asyncio.all_tasks()) == 1)
        assert service.watched[-1] == {}
        asked = service.asked
        await asyncio.sleep(0.03)
        assert service.asked == asked
        viewers.wants(viewer, {"a": 640})
        await until_in_loop(lambda: service.asked > asked)
        viewers.close()

    asyncio.run(run())


def test_a_status_that_fails_is_asked_for_again() -> None:
    async def run() -> None:
        service = FakeService()
        service.failing = True
        viewers = Viewers(service, {})
        viewer = viewers.enter()
        viewers.wants(viewer, {})
        await until_in_loop(lambda: service.asked > 1)
        service.failing, service.unready = False, "no engine serves now"
        told = json.loads(await viewer.next_message())
        assert (told["state"], told["reason"]) == ("unready", "no engine serves now")
        viewers.close()

    asyncio.run(run())


@pytest.mark.parametrize(
    ("said", "wishes"),
    [
        ({"a": 640}, {"a": 640}),
        ({"a": 1, "b": 10**9}, {"a": 320, "b": 1280}),
        ({"a": math.inf, "b": "640", "c": None, "d": [640]}, {}),
        ({"x" * 1000: 640}, {}),
        (["a"], {}),
        (None, {}),
    ],
)
def test_what_a_page_says_is_taken_as_far_as_it_makes_sense(said: object, wishes: PictureWishes) -> None:
    assert wishes_from(said) == wishes


def test_a_page_may_look_at_so_many_streams_and_no_more() -> None:
    assert len(wishes_from({str(number): 640 for number in range(1000)})) == 64

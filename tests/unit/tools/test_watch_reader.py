"""The thread of one camera, over sources that do what a test says: trouble, lies, and never coming back."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from foveate.client import Reconnect
from foveate.tools.watch import reader as reader_module
from foveate.tools.watch.address import Redaction
from foveate.tools.watch.gates import MotionGate
from foveate.tools.watch.handover import Handover, WaitingUnits
from foveate.tools.watch.health import CameraStatus, Health, State
from foveate.tools.watch.jpeg import Encoder
from foveate.tools.watch.reader import CameraReader
from foveate.tools.watch.region import Region
from foveate.tools.watch.settings import CameraSettings
from foveate.tools.watch.shot import Picture
from foveate.tools.watch.trouble import CameraTrouble
from support.results import made_result
from support.waiting import until

SECRET = "s3cretPassw0rd"
URL = f"rtsp://admin:{SECRET}@10.0.0.7/stream"
Items = Iterator[Picture | None]


class FakeSource:
    """One connection."""

    def __init__(self, items: Items, fps: float | None = 10.0) -> None:
        self._items = items
        self.fps = fps

    def __iter__(self) -> Items:
        return self._items


class Rig:
    """A reader whose connections are those of the test, one after the other, the last one for ever."""

    def __init__(
        self, monkeypatch: pytest.MonkeyPatch, connections: Sequence[Callable[[], Items]], **fields: Any
    ) -> None:
        self.connections = 0

        @contextmanager
        def open_source(*_: Any, **__: Any) -> Iterator[FakeSource]:
            make = connections[min(self.connections, len(connections) - 1)]
            self.connections += 1
            yield FakeSource(make())

        monkeypatch.setattr(reader_module, "open_source", open_source)
        monkeypatch.setattr(reader_module, "BACK_OFF", Reconnect(first_delay_s=0.001, longest_delay_s=0.005))
        settings = CameraSettings.model_validate({"url": str(Path(__file__)), "name": "gate", **fields})
        self.health = Health("gate", settings.address.shown, settings.timeout_s)
        self.loop = asyncio.new_event_loop()
        self.handover: Handover[Any] = Handover(WaitingUnits(10_000), self.loop)
        encoder = Encoder(Region(settings.roi), settings.rotate, settings.quality)
        self.reader = CameraReader(settings, encoder, self.health, self.handover, Redaction([URL]))

    def run(self) -> CameraStatus:
        """Until it ends by itself."""
        self.reader.start()
        assert self.reader.join(20)
        return self.health.status()

    def taken(self) -> list[bytes]:
        async def all_of_them() -> list[bytes]:
            found = []
            while (item := await self.handover.take()) is not None:
                found.append(item.content)
            return found

        return self.loop.run_until_complete(all_of_them())


@pytest.fixture
def rig(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., Rig]]:
    rigs: list[Rig] = []

    def make(*connections: Callable[[], Items], **fields: Any) -> Rig:
        rigs.append(Rig(monkeypatch, connections, **fields))
        return rigs[-1]

    yield make
    for each in rigs:
        each.reader.stop()
        each.reader.join(5)
        each.loop.close()


def shots(*contents: bytes) -> Callable[[], Items]:
    return lambda: (Picture(content, time.monotonic()) for content in contents)


def troubled(message: str, *contents: bytes, **kind: bool) -> Callable[[], Items]:
    def items() -> Items:
        yield from shots(*contents)()
        raise CameraTrouble(message, **kind)

    return items


def test_what_comes_is_handed_over_until_it_ends(rig: Callable[..., Rig]) -> None:
    one = rig(shots(b"1", b"2", b"3"))
    status = one.run()
    assert one.taken() == [b"1", b"2", b"3"]
    assert (status.state, status.read, status.reconnects, status.error) == (State.ENDED, 3, 0, "")
    assert one.reader.declared_fps == 10.0


def test_a_camera_has_no_end(rig: Callable[..., Rig]) -> None:
    one = rig(shots(b"1"), shots(b"2"), url=URL)
    one.reader.start()
    until(lambda: one.connections > 3, "a fourth connection")
    assert one.health.status().error == "the camera ended the connection"


def test_trouble_is_followed_by_another_connection(rig: Callable[..., Rig]) -> None:
    one = rig(troubled("refused"), troubled("gone", b"1"), troubled("silent", is_frozen=True), shots(b"2"))
    status = one.run()
    assert one.taken() == [b"1", b"2"]
    assert (status.reconnects, status.error, one.connections) == (3, "silent", 4)


@pytest.mark.parametrize(("is_frozen", "state"), [(True, State.FROZEN), (False, State.RECONNECTING)])
def test_its_state_says_what_kind_of_trouble_it_has(rig: Callable[..., Rig], is_frozen: bool, state: State) -> None:
    one = rig(troubled("no good", is_frozen=is_frozen))
    one.reader.start()
    until(lambda: one.connections > 3, "a fourth connection")
    assert one.health.status().state is state
    one.reader.stop()
    assert one.reader.join(5)
    assert one.health.status().state is State.ENDED


def test_final_trouble_ends_it(rig: Callable[..., Rig]) -> None:
    one = rig(troubled("no such file", is_final=True))
    status = one.run()
    assert (status.state, status.error, one.connections) == (State.FAILED, "no such file", 1)


def test_garbage_is_not_life(rig: Callable[..., Rig], monkeypatch: pytest.MonkeyPatch) -> None:
    now = [100.0]
    monkeypatch.setattr(reader_module, "time", SimpleNamespace(monotonic=lambda: now[0]))

    def garbage() -> Items:
        while True:
            now[0] += 1.0
            yield None

    one = rig(garbage, shots(b"1"), timeout_s=4.5)
    status = one.run()
    assert status.damaged == 5
    assert (status.read, status.reconnects) == (1, 1)
    assert "no picture, for 4.5 s" in status.error


def test_a_file_without_a_picture_has_failed(rig: Callable[..., Rig]) -> None:
    assert rig(shots()).run().state is State.FAILED


def test_garbage_that_makes_a_library_fail_is_trouble_like_any_other(
    rig: Callable[..., Rig], caplog: pytest.LogCaptureFixture
) -> None:
    def broken() -> Items:
        raise AttributeError(f"while reading {URL}")
        yield

    one = rig(broken, broken, broken, shots(b"1"), url=URL)
    one.reader.start()
    until(lambda: one.health.read > 0, "a picture")
    status = one.health.status()
    assert status.reconnects >= 3
    assert "AttributeError: while reading rtsp://***@10.0.0.7" in caplog.text
    assert caplog.text.count("Traceback") == 1, "once is enough"
    assert SECRET not in caplog.text + repr(status)


def test_one_that_never_comes_back_is_seen_as_frozen(rig: Callable[..., Rig], monkeypatch: pytest.MonkeyPatch) -> None:
    release = threading.Event()

    def stuck() -> Items:
        yield from shots(b"1")()
        release.wait(30)

    one = rig(stuck)
    one.reader.start()
    until(lambda: one.health.read == 1, "the first picture")
    came_at = one.health._progress_at
    monkeypatch.setattr(one.health, "_clock", lambda: came_at)
    assert one.health.status().state is State.LIVE
    monkeypatch.setattr(one.health, "_clock", lambda: came_at + 60)
    status = one.health.status()
    assert status.state is State.FROZEN
    assert "nothing for 60 s" in status.error
    one.reader.stop()
    assert not one.reader.join(0.0), "it is stuck, and nobody waits for it"
    release.set()


def test_the_advised_rate_and_the_cap_both_hold(rig: Callable[..., Rig]) -> None:
    def fast() -> Items:
        return (Picture(b"%d" % number, 1000 + number / 100) for number in range(200))

    for cap, advised, expected in ((None, 0.0, 200), (20, 0.0, 40), (None, 10.0, 20), (50, 10.0, 20), (10, 50.0, 20)):
        one = rig(fast, fps=cap)
        one.reader.advised_fps = advised
        status = one.run()
        assert status.read == 200
        assert abs(200 - status.skipped_rate - expected) <= 2
        assert len(one.taken()) == status.read - status.skipped_rate


def test_a_picture_that_has_no_such_region_is_trouble(rig: Callable[..., Rig]) -> None:
    av = pytest.importorskip("av")
    frame = av.VideoFrame(64, 48, "yuv420p")
    one = rig(lambda: iter([Picture(frame, 1.0)]), shots(b"1"), roi=(600, 400, 10, 10))
    status = one.run()
    assert "outside the camera's picture of 64x48" in status.error
    assert one.taken() == [b"1"]


def test_a_still_scene_is_said_to_be_still(rig: Callable[..., Rig], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(MotionGate, "admits", lambda self, small, now: now < 1001)
    monkeypatch.setattr(MotionGate, "is_still", lambda self, now: now > 1002)
    monkeypatch.setattr(Encoder, "small_grey", lambda self, picture: None)
    states: list[State] = []

    def scene() -> Items:
        for second in range(1000, 1006):
            yield Picture(b"", second)
            states.append(one.health.status().state)

    one = rig(scene, motion={})
    status = one.run()
    assert (status.read, status.skipped_motion) == (6, 5)
    assert states == [State.LIVE] * 3 + [State.STILL] * 3


def test_the_book_adds_up() -> None:
    health = Health("gate", "rtsp://10.0.0.7/…", 5.0)
    for _ in range(10):
        health.arrived()
    health.skipped_rate, health.skipped_motion, health.dropped_here = 2, 1, 1
    from foveate.client import Verdict

    for verdict in (Verdict.OK, Verdict.OK, Verdict.DROPPED, Verdict.EXPIRED, Verdict.LOST):
        health.sending()
        health.answered(made_result(verdict=verdict, total_ms=30.0, age_ms=5.0))
    status = health.status()
    assert status.verdicts == {"ok": 2, "expired": 1, "lost": 1}
    assert (status.sent, status.dropped, status.on_time, status.p50_ms) == (4, 2, 2, 35.0)
    waiting = status.read - status.skipped_rate - status.skipped_motion - status.dropped - status.sent
    assert waiting == 1

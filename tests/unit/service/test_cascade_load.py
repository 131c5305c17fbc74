"""What cascades take of a device counts when others ask for guarantees, and is measured, not declared."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from foveate.service.boundary import FrameTicket
from foveate.service.device import Device, DeviceSession
from foveate.service.device_time import DeviceTime
from foveate.service.frame import Delivery, Grant, StreamOptions
from support.frames import MS, latency_model, stream_options
from support.lanes import SilentIngest, fake_lane, level_latency


@pytest.fixture
def device() -> Iterator[Device]:
    latency = latency_model(lambda batch: 10 * MS)  # 400 frames a second, of which 340 can be promised
    made = Device([fake_lane("colour", latency)])
    yield made
    made.close()


class Steady:
    """Says that so many come in."""

    def __init__(self, fps: float | None) -> None:
        self.rate = fps
        self.counted = 0

    def count(self, now_ns: int) -> None:
        self.counted += 1

    def fps(self, now_ns: int) -> float | None:
        return self.rate


def crops_of(session: DeviceSession, fps: float | None, **options: Any) -> Steady:
    """A stream of crops that comes at this rate."""
    wanted = stream_options(budget_ms=200, delivery=Delivery.QUEUE, crops_of="street", **options)
    session.enter(-1, wanted, Grant.BEST_EFFORT)
    meter: Any = Steady(fps)
    session._streams[-1][0].arrivals = meter
    return meter  # type: ignore[no-any-return]


@pytest.mark.parametrize(
    ("fps", "priority", "grant"),
    [
        (200.0, 1, Grant.BEST_EFFORT),
        (200.0, 0, Grant.BEST_EFFORT),
        (200.0, 2, Grant.GUARANTEED),  # of a lower class: they wait
        (100.0, 1, Grant.GUARANTEED),
        (0.0, 1, Grant.GUARANTEED),
        (None, 1, Grant.GUARANTEED),  # too new to tell
    ],
)
def test_crops_seen_lately_count_beside_what_is_guaranteed(
    device: Device, fps: float | None, priority: int, grant: Grant
) -> None:
    session = device.session(SilentIngest())
    crops_of(session, fps, priority=priority)
    asked = stream_options(budget_ms=200, fps=200.0, priority=1)
    assert session.admit_now(1, asked).grant is grant


@pytest.mark.parametrize("shared", [True, False])
@pytest.mark.parametrize(
    ("crops_fps", "stage_ms", "grant"),
    [
        (40.0, 40, Grant.BEST_EFFORT),  # four of each frame at 10 ms each: they fill nine tenths of a device
        (40.0, 4, Grant.GUARANTEED),
        (0.0, 40, Grant.GUARANTEED),  # nothing is detected
    ],
)
def test_a_stream_is_promised_no_more_than_its_crops_leave(
    shared: bool, crops_fps: float, stage_ms: int, grant: Grant
) -> None:
    """By what the streams of its pipeline have of them for each frame, on whichever device they run."""
    times = [DeviceTime()] * 2 if shared else [DeviceTime(), DeviceTime()]
    latencies = map(level_latency, (4, stage_ms))
    device = Device(map(fake_lane, ("street", "kinds"), latencies, times))
    try:
        session = device.session(SilentIngest())
        wanted = StreamOptions("street", 1000 * MS, fps=12.5)
        assert session.admit_now(1, wanted).grant is Grant.GUARANTEED, "of whose crops nothing is known"
        session.enter(-1, StreamOptions("kinds", 1000 * MS, crops_of="street"), Grant.BEST_EFFORT)
        for number, fps in ((1, 10.0), (-1, crops_fps)):
            meter: Any = Steady(fps)
            session._streams[number][0].arrivals = meter
        assert session.admit_now(2, wanted).grant is grant
        assert session.admit_now(3, StreamOptions("kinds", 1000 * MS, fps=12.5)).grant is Grant.GUARANTEED
    finally:
        device.close()


def test_they_are_promised_nothing_themselves(device: Device) -> None:
    session = device.session(SilentIngest())
    crops_of(session, 300.0)
    assert session._streams[-1][0].share.guaranteed_fps == 0.0


def test_a_frame_that_is_tried_again_has_not_come_twice(device: Device) -> None:
    session = device.session(SilentIngest())
    meter = crops_of(session, 1.0)
    for again in (False, True):
        session.submit(FrameTicket(1, -1, 0, 0, again))
    assert meter.counted == 1

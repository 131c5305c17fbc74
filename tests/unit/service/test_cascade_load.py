"""What cascades take of a device counts when others ask for guarantees, and is measured, not declared."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from foveate.engines.fake import FakeEngine
from foveate.service.boundary import FrameTicket
from foveate.service.device import Device, DeviceSession
from foveate.service.frame import Delivery, Grant
from foveate.service.lane import Lane
from foveate.service.opening import new_slots
from support.frames import MS, latency_model, stream_options


@pytest.fixture
def device() -> Iterator[Device]:
    engine = FakeEngine("colour", max_batch=4)
    engine.load()
    latency = latency_model(lambda batch: 10 * MS)  # 400 frames a second, of which 340 can be promised
    made = Device([Lane("colour", engine, latency, new_slots("colour", engine, 2))])
    yield made
    made.close()


class Silent:
    """An ingest that decodes nothing and is told nothing."""

    def prepare(self, pipeline: str, slot: int, rows: Any, done: Any) -> None:
        for row in rows:
            done(row.frame, False)

    def refuse(self, refused: Any) -> None: ...

    def deliver(self, pipeline: str, ran: Any, outputs: Any) -> None: ...


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
    wanted = stream_options(budget_ms=200, delivery=Delivery.QUEUE, crops=True, **options)
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
    session = device.session(Silent())
    crops_of(session, fps, priority=priority)
    asked = stream_options(budget_ms=200, fps=200.0, priority=1)
    assert session.admit_now(1, asked).grant is grant


def test_they_are_promised_nothing_themselves(device: Device) -> None:
    session = device.session(Silent())
    crops_of(session, 300.0)
    assert session._streams[-1][0].share.guaranteed_fps == 0.0


def test_a_frame_that_is_tried_again_has_not_come_twice(device: Device) -> None:
    session = device.session(Silent())
    meter = crops_of(session, 1.0)
    for again in (False, True):
        session.submit(FrameTicket(1, -1, 0, 0, again))
    assert meter.counted == 1

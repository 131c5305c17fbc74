"""An ingest lets go of what a stream has at a device when the stream ends, and of nothing else."""

from __future__ import annotations

from concurrent.futures import Executor
from types import SimpleNamespace
from typing import Any, cast

from foveate.service.boundary import FrameTicket, Refused
from foveate.service.frame import StreamOptions, Verdict
from foveate.service.ingest import AtDevice, Ingest
from foveate.service.stream import CameraStream, StreamRecord


class Held:
    """Counts how often it is looked at."""

    prepare_ns = 0

    def __init__(self, stream: CameraStream) -> None:
        self._stream = stream
        self.looked_at = 0
        self.refusals = 0

    @property
    def stream(self) -> CameraStream:
        self.looked_at += 1
        return self._stream

    def refused(self, refusal: Refused, engine: str) -> None:
        self.refusals += 1


class Desk:
    """An ingest, its device, and what it was told of."""

    def __init__(self) -> None:
        self.ingest = Ingest(lambda call: call(), cast(Executor, None))
        self.tickets: list[FrameTicket] = []
        self._device = cast(Any, SimpleNamespace(submit=self.tickets.append))

    def hand_over(self, held: Held) -> int:
        return self.ingest.hand_over(cast(AtDevice, held), self._device, 1, 0)


def stream(name: str) -> CameraStream:
    return CameraStream(StreamRecord(name, ""), StreamOptions("p", 10**9), 8)


def test_the_end_of_a_stream_costs_what_it_has_itself() -> None:
    desk, ends, stays = Desk(), stream("ends"), stream("stays")
    its_own, others = [Held(ends) for _ in range(3)], [Held(stays) for _ in range(50)]
    numbers = [desk.hand_over(held) for held in (*its_own, *others)]
    for held in others:
        held.looked_at = 0
    desk.ingest.forget(ends)
    assert sum(held.looked_at for held in others) == 0
    assert desk.ingest.in_flight == 50
    desk.ingest.settle_refused([Refused(number, Verdict.EXPIRED, "late") for number in numbers])
    assert [held.refusals for held in its_own] == [0] * 3, "what the device still says of it is ignored"
    assert [held.refusals for held in others] == [1] * 50


def test_what_has_come_back_is_let_go_of_once() -> None:
    desk, camera = Desk(), stream("camera")
    held = [Held(camera) for _ in range(4)]
    numbers = [desk.hand_over(each) for each in held]
    desk.ingest.take_back(numbers[0])
    desk.ingest.settle_refused([Refused(number, Verdict.EXPIRED, "late") for number in numbers[:2] * 2])
    desk.ingest.fail_all("the device is gone")
    desk.ingest.forget(camera)
    assert [each.refusals for each in held] == [0, 1, 1, 1]
    assert (desk.ingest.in_flight, desk.ingest._numbers_of) == (0, {})

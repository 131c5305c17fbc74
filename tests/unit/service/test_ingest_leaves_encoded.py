"""An ingest that leaves a JPEG to the device, and what it then says of the time that decoding took."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest

from foveate.engines.fake import FakeEngine
from foveate.models.outputs import DecodeOptions
from foveate.service.admission import admit_frame
from foveate.service.boundary import Encoded, FrameTicket, Row
from foveate.service.config import Limits
from foveate.service.device import Device
from foveate.service.frame import Frame, PixelFormat, Ran, Verdict
from foveate.service.ingest import Ingest
from foveate.service.lane import Lane
from foveate.service.opening import new_slots
from foveate.service.pipeline import Pipeline
from support.frames import MS, camera_stream, colour_model, encoded, latency_model, plain

OUTPUTS = {"embedding": np.zeros(3, np.float32)}


class Tickets:
    """A device that does nothing with the frames that it is given."""

    def __init__(self) -> None:
        self.frames: list[int] = []

    def submit(self, ticket: FrameTicket) -> None:
        self.frames.append(ticket.frame)


class Place:
    """An ingest, one frame that is submitted, and what was said when it was prepared."""

    def __init__(self, data: bytes) -> None:
        engine, device = FakeEngine("colour", input_shape=(24, 32, 3)), Tickets()
        self.said: list[tuple[bool, Encoded | None]] = []
        self.pixels = np.zeros((8, 24, 32, 3), np.uint8)
        self.ingest = Ingest(lambda call: call(), ThreadPoolExecutor(1))
        pipeline = Pipeline("colour", colour_model(), engine.load(), DecodeOptions(0.0, 100), 1)
        self.ingest.serve(pipeline, [self.pixels])
        now_ns, stream = time.monotonic_ns(), camera_stream()
        self.job = stream.receive(Frame(1, now_ns, now_ns + 1000 * MS, data))
        assert admit_frame(self.job, Limits(), shared_memory=False) is None
        port: Any = device
        self.ingest.submit(self.job, port)
        (self.number,) = device.frames

    def prepare(self, *, may_stay: bool) -> None:
        def done(frame: int, succeeded: bool, left: Encoded | None = None) -> None:
            self.said.append((succeeded, left))

        self.ingest.prepare("colour", 0, [Row(self.number, 2, may_stay)], done)

    def run(self, placed_ns: int) -> Any:
        ran = Ran(1, placed_ns + 5 * MS, placed_ns + 7 * MS, 0, 2 * MS, 0, placed_ns + 7 * MS, 1, 0, 1, placed_ns)
        self.ingest.settle_run("colour", ran, [(self.number, OUTPUTS)])
        assert self.job.answer
        return self.job.answer


@pytest.fixture
def place() -> Place:
    return Place(encoded(plain((200, 100, 50)), PixelFormat.JPEG))


def test_a_jpeg_is_left_only_where_it_may_be(place: Place) -> None:
    place.prepare(may_stay=False)
    assert place.said == [(True, None)]
    assert np.abs(place.pixels[2].astype(int) - (200, 100, 50)).max() <= 4


def test_decoding_lasts_until_the_device_has_done_its_share(place: Place) -> None:
    place.prepare(may_stay=True)
    ((succeeded, left),) = place.said
    assert succeeded
    assert left
    assert place.pixels[2].reshape(-1)[: left.nbytes].tobytes() == place.job.frame.data
    before = place.job.stream.decode_cost.ns_per_pixel
    placed_ns = time.monotonic_ns() + 40 * MS
    answer = place.run(placed_ns)
    assert answer.verdict is Verdict.OK
    assert answer.times.receive_queue + answer.times.decode == placed_ns - place.job.frame.received_ns
    assert answer.times.wait == 5 * MS
    assert place.job.stream.decode_cost.ns_per_pixel > before, "the device's share is learned too"


def test_what_the_device_gives_back_is_decoded_and_both_tries_are_counted(place: Place) -> None:
    place.prepare(may_stay=True)
    between_ns = time.monotonic_ns()
    place.prepare(may_stay=False)
    assert [left is None for _, left in place.said] == [False, True]
    assert np.abs(place.pixels[2].astype(int) - (200, 100, 50)).max() <= 4
    answer = place.run(time.monotonic_ns())
    assert answer.times.receive_queue <= between_ns - place.job.frame.received_ns - 1, "it began with the first try"


class NeverPlaces(FakeEngine):
    def _place_encoded_impl(self, *_: Any) -> list[bool]:
        raise AssertionError("nobody has opened its decoder")


class Asked:
    """An ingest that notes how it was asked."""

    def __init__(self, told: Callable[[], None]) -> None:
        self.rows: list[Row] = []
        self.told = told

    def prepare(self, pipeline: str, slot: int, rows: Any, done: Any) -> None:
        self.rows += rows
        for row in rows:
            done(row.frame, True)

    def refuse(self, refused: Any) -> None:
        raise AssertionError(refused)

    def deliver(self, pipeline: str, ran: Ran, outputs: Any) -> None:
        assert ran.placed_ns == 0
        self.told()


def test_a_lane_that_decodes_nothing_asks_for_pixels_and_touches_no_decoder() -> None:
    engine, came = NeverPlaces("colour"), threading.Event()
    engine.load()
    lane = Lane("colour", engine, latency_model(lambda batch: MS), new_slots("colour", engine, 2))
    ingest = Asked(came.set)
    session = Device([lane]).session(ingest)
    session.enter(1, camera_stream().options)
    session.submit(FrameTicket(7, 1, time.monotonic_ns() + 10_000 * MS, 0))
    assert came.wait(20)
    lane.close()
    assert ingest.rows == [Row(7, 0, False)]

"""A video stream has every unit decoded, one after the other, whatever becomes of its frames."""

from __future__ import annotations

import asyncio
import threading
from collections import deque
from collections.abc import Callable
from concurrent.futures import Executor, Future
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from foveate.engines.errors import BadFrame, LimitExceeded
from foveate.service.boundary import PictureTicket, VideoUnit
from foveate.service.config import load_config
from foveate.service.frame import Answer, Frame, PixelFormat, StreamOptions, Verdict
from foveate.service.job import Job
from foveate.service.stream import Books, CameraStream, StreamRecord
from foveate.service.video import VideoDecoding, VideoStream
from support.video_streams import grey_units
from support.waiting import until_in_loop

PICTURE_BYTES = 1000


class Picture:
    """A picture that says which unit it is of."""

    width, height, nbytes = 40, 30, PICTURE_BYTES

    def __init__(self, unit: bytes) -> None:
        self.unit = unit

    def rgb(self) -> NDArray[np.uint8]:
        return np.zeros((30, 40, 3), np.uint8)

    def reduced(self, size: tuple[int, int]) -> NDArray[np.uint8]:
        return np.zeros((size[1], size[0], 3), np.uint8)


class Decoder:
    """Decodes what is none of the words for an error."""

    def __init__(self) -> None:
        self.decoded: list[tuple[bytes, bool]] = []

    def decode(self, data: bytes, *, follows: bool = True) -> Picture:
        self.decoded.append((data, follows))
        errors: dict[bytes, Exception] = {
            b"bad": BadFrame("no unit"),
            b"large": LimitExceeded("too large"),
            b"fault": ZeroDivisionError("a fault of ours"),
        }
        if data in errors:
            raise errors[data]
        return Picture(data)


class ByHand(Executor):
    """Does what was submitted when the test says so."""

    def __init__(self) -> None:
        self.work: deque[Callable[[], object]] = deque()

    def submit(self, function: Callable[..., Any], /, *arguments: Any, **named: Any) -> Future[Any]:
        self.work.append(lambda: function(*arguments, **named))
        return Future()

    def step(self) -> None:
        self.work.popleft()()


class Scene:
    """A video stream, its threads, its event loop and what leaves it."""

    def __init__(self) -> None:
        self.books, self.decoder, self.threads = Books(), Decoder(), ByHand()
        self.loop: deque[Callable[[], None]] = deque()
        self.forwarded: list[Job] = []
        options = StreamOptions("p", 10**9, format=PixelFormat.H264)
        self.stream = CameraStream(StreamRecord("camera", ""), options, 32, self.books)
        self.video = VideoStream(self.decoder, self.threads, self.loop.append, self.forwarded.append)

    def take(self, sequence: int, data: bytes) -> Job:
        job = self.stream.receive(Frame(sequence, 1, 10**18, data))
        self.video.take(job)
        return job

    def decode_all(self) -> None:
        while self.threads.work or self.loop:
            if self.threads.work:
                self.threads.step()
            while self.loop:
                self.loop.popleft()()


@pytest.fixture
def scene() -> Scene:
    return Scene()


def test_one_unit_at_a_time_is_with_the_threads_in_order(scene: Scene) -> None:
    jobs = [scene.take(number, bytes([number])) for number in range(5)]
    for _ in range(5):
        assert len(scene.threads.work) == 1
        scene.threads.step()
        assert not scene.threads.work, "not before the loop has heard of it"
        scene.loop.popleft()()
    assert scene.decoder.decoded == [(bytes([number]), True) for number in range(5)]
    assert scene.forwarded == jobs
    assert [job.picture.unit for job in jobs if isinstance(job.picture, Picture)] == [bytes([n]) for n in range(5)]
    assert {(job.width, job.height) for job in jobs} == {(40, 30)}
    assert all(job.unit_began_ns and job.unit_decode_ns >= 0 for job in jobs)


def test_the_unit_of_a_frame_that_is_answered_is_decoded_all_the_same(scene: Scene) -> None:
    jobs = [scene.take(number, bytes([number])) for number in range(3)]
    scene.stream.settle(jobs[1], Answer(Verdict.SUPERSEDED, "a newer one"))
    scene.decode_all()
    assert [data for data, _ in scene.decoder.decoded] == [b"\0", b"\1", b"\2"]
    assert scene.forwarded == [jobs[0], jobs[2]]


def test_a_number_that_is_left_out_is_missed_once(scene: Scene) -> None:
    for number in (5, 6, 8, 9):
        scene.take(number, b"unit")
    scene.decode_all()
    assert [follows for _, follows in scene.decoder.decoded] == [True, True, False, True]


@pytest.mark.parametrize(
    ("data", "verdict", "says"),
    [
        (b"bad", Verdict.BAD_FRAME, "no unit"),
        (b"large", Verdict.REJECTED, "too large"),
        (b"fault", Verdict.FAILED, "the decoder failed: ZeroDivisionError"),
    ],
)
def test_a_unit_that_gives_no_picture_is_answered(scene: Scene, data: bytes, verdict: Verdict, says: str) -> None:
    job, after = scene.take(1, data), scene.take(2, b"unit")
    scene.decode_all()
    assert job.answer is not None
    assert (job.answer.verdict, job.answer.message) == (verdict, says)
    assert scene.forwarded == [after]


def test_what_is_held_is_counted_as_unit_then_as_picture_then_not_at_all(scene: Scene) -> None:
    job = scene.take(1, b"u" * 77)
    assert scene.books.held_bytes == 77
    scene.decode_all()
    assert scene.books.held_bytes == PICTURE_BYTES
    scene.stream.settle(job, Answer(Verdict.OK))
    assert scene.books.held_bytes == 0
    assert job.picture is None


def test_a_stream_that_is_over_decodes_nothing_more_and_holds_nothing(scene: Scene) -> None:
    for number in range(4):
        scene.take(number, b"unit")
    scene.threads.step()
    scene.stream.abandon()
    scene.video.close()
    scene.decode_all()
    assert len(scene.decoder.decoded) == 1
    assert (scene.forwarded, scene.books.held_bytes) == ([], 0)
    scene.video.take(scene.stream.receive(Frame(9, 1, 10**18, b"unit")))
    assert not scene.threads.work


def test_a_device_that_hangs_stops_no_other_devices_streams_and_none_of_the_cpu() -> None:
    going_on = threading.Event()

    class Port:
        def __init__(self, refusal: str = "", *, hangs: bool = False) -> None:
            self.refusal, self.hangs = refusal, hangs

        def video_refusal(self, kind: PixelFormat) -> str:
            return self.refusal

        def decode_unit(self, stream: int, unit: VideoUnit) -> PictureTicket:
            assert not self.hangs or going_on.wait(60)
            return PictureTicket(1, 64, 48)

        def drop_picture(self, picture: int) -> None:
            pass

    (unit,) = grey_units([100], PixelFormat.H264)

    async def go() -> None:
        decoding, forwarded = VideoDecoding(load_config(decode_threads=1)), list[str]()

        async def begin(name: str, port: Any) -> Job:
            options = StreamOptions("p", 10**9, format=PixelFormat.H264)
            stream = CameraStream(StreamRecord(name, ""), options, 32, Books())
            decoder = await decoding.decoder(PixelFormat.H264, port, 1)
            video = decoding.stream(decoder, lambda job: forwarded.append(job.stream.stream_id))
            job = stream.receive(Frame(1, 1, 10**18, unit))
            video.take(job)
            return job

        hanging = Port(hangs=True)
        jobs = [await begin("hangs", hanging) for _ in range(20)]
        jobs += [await begin("other", Port()), await begin("cpu", Port("it has no decoder"))]
        await until_in_loop(lambda: sorted(forwarded) == ["cpu", "other"])
        going_on.set()
        await until_in_loop(lambda: len(forwarded) == len(jobs))
        decoding.close()

    asyncio.run(go())

"""Pictures of streams that somebody looks at: which are taken, how often, and that nothing is when nobody looks."""

from __future__ import annotations

import asyncio
import itertools
import json
import threading
from collections.abc import Awaitable, Callable, Collection
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import simplejpeg
from numpy.typing import NDArray

from foveate.engines.errors import EngineUnavailable
from foveate.models.outputs import Classes, Detections, Embedding
from foveate.service.frame import Answer, Attribute, Frame, PixelFormat, SharedMemoryRef, StageTimes, Verdict
from foveate.service.job import Job
from foveate.service.live import gallery as gallery_module
from foveate.service.live.gallery import Gallery
from foveate.service.live.picture import STAGES, AnsweredFrame, LivePicture, answered_frame, said
from foveate.service.stream import CameraStream
from support.frames import MS, camera_stream, colour_model, encoded, plain, stream_options
from support.waiting import until_in_loop

SMALL = encoded(plain((200, 30, 30), 64, 48), PixelFormat.JPEG)


class Sink:
    """Keeps what it is shown."""

    def __init__(self) -> None:
        self.pictures: list[LivePicture] = []
        self.fared: list[tuple[str, list[AnsweredFrame]]] = []

    def picture(self, picture: LivePicture) -> None:
        self.pictures.append(picture)

    def answers(self, stream_id: str, frames: Collection[AnsweredFrame]) -> None:
        self.fared.append((stream_id, list(frames)))


class FakeReception:
    """As much of a reception as a gallery sees."""

    def __init__(self, *streams: CameraStream) -> None:
        self.observers: list[Any] = []
        pipeline = SimpleNamespace(model=colour_model())
        self.open = {
            stream.stream_id: SimpleNamespace(stream=stream, pipeline=pipeline, station=None) for stream in streams
        }

    def opened(self, stream_id: str) -> Any:
        return self.open.get(stream_id)


def frame(sequence: int, data: bytes | SharedMemoryRef = SMALL) -> Frame:
    return Frame(sequence, received_ns=1, deadline_ns=1 + 60 * MS, data=data)


def answer(
    stream: CameraStream,
    sequence: int,
    verdict: Verdict = Verdict.OK,
    data: bytes | SharedMemoryRef = SMALL,
    kind: PixelFormat = PixelFormat.JPEG,
    size: tuple[int, int] = (64, 48),
    picture: Any = None,
) -> Job:
    """A frame that comes in and is settled at once."""
    job = stream.receive(frame(sequence, data))
    job.format, (job.width, job.height), job.picture = kind, size, picture
    stream.settle(job, Answer(verdict, frame_width=size[0], frame_height=size[1]))
    return job


def looked_at(test: Callable[[Gallery, Sink, FakeReception, CameraStream], Awaitable[None]]) -> None:
    """Run a test in a loop, with a gallery of one stream that is watched."""

    async def run() -> None:
        stream = camera_stream()
        reception, sink = FakeReception(stream), Sink()
        gallery = Gallery(reception)  # type: ignore[arg-type]
        gallery.watch({"camera": 640}, sink)
        await test(gallery, sink, reception, stream)
        gallery.close()
        assert stream.before_drop is None
        assert not reception.observers

    asyncio.run(run())


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gallery_module, "EVERY_NS", 0)
    monkeypatch.setattr(gallery_module, "AT_LEAST_NS", 0)
    monkeypatch.setattr(gallery_module, "LEASE_S", 3600.0)


def test_a_stream_that_nobody_looks_at_has_no_hook_and_no_observer() -> None:
    reception = FakeReception(stream := camera_stream())
    gallery = Gallery(reception)  # type: ignore[arg-type]
    answer(stream, 1)
    assert stream.before_drop is None
    assert not reception.observers
    assert gallery.watched == frozenset()


def test_a_small_jpeg_is_shown_as_it_came() -> None:
    async def test(gallery: Gallery, sink: Sink, reception: FakeReception, stream: CameraStream) -> None:
        job = answer(stream, 7)
        (picture,) = sink.pictures
        assert (picture.stream_id, picture.jpeg) == ("camera", SMALL)
        assert (picture.caption["sequence"], picture.caption["verdict"]) == (7, "ok")
        assert job.frame.data == b"", "the stream drops the pixels as ever"
        assert gallery.watched == {"camera"}

    looked_at(test)


@pytest.mark.parametrize("kind", [PixelFormat.PNG, PixelFormat.RAW_RGB])
def test_other_pictures_are_made_into_small_jpegs(kind: PixelFormat) -> None:
    pixels = plain((200, 30, 30), 1600, 800)
    data = pixels.tobytes() if kind.raw else encoded(pixels, kind)

    async def test(gallery: Gallery, sink: Sink, reception: FakeReception, stream: CameraStream) -> None:
        answer(stream, 1, data=data, kind=kind, size=(1600, 800))
        await until_in_loop(lambda: sink.pictures)
        shown = simplejpeg.decode_jpeg(sink.pictures[0].jpeg)
        assert shown.shape == (320, 640, 3)
        assert np.abs(shown.mean(axis=(0, 1)) - (200, 30, 30)).max() < 4

    looked_at(test)


def test_a_large_jpeg_is_made_smaller_and_one_at_a_time() -> None:
    rng = np.random.default_rng(0)
    large = encoded(rng.integers(0, 255, (720, 1280, 3)).astype(np.uint8), PixelFormat.JPEG)
    assert len(large) > 200_000

    async def test(gallery: Gallery, sink: Sink, reception: FakeReception, stream: CameraStream) -> None:
        for sequence in range(1, 6):
            answer(stream, sequence, data=large, size=(1280, 720))
        await until_in_loop(lambda: sink.pictures)
        await asyncio.sleep(0)
        assert [picture.caption["sequence"] for picture in sink.pictures] == [1]
        assert len(sink.pictures[0].jpeg) < len(large) / 2
        more = itertools.count(6)
        await until_in_loop(
            lambda: answer(stream, next(more), data=large, size=(1280, 720)) and len(sink.pictures) == 2
        )

    looked_at(test)


def test_a_frame_of_a_video_is_shown_from_its_picture() -> None:
    class Picture:
        width, height, nbytes = 100, 50, 0

        def rgb(self) -> NDArray[np.uint8]:
            return plain((10, 200, 10), 100, 50)

    async def test(gallery: Gallery, sink: Sink, reception: FakeReception, stream: CameraStream) -> None:
        answer(stream, 1, data=b"", kind=PixelFormat.H264, size=(100, 50), picture=Picture())
        await until_in_loop(lambda: sink.pictures)
        assert simplejpeg.decode_jpeg(sink.pictures[0].jpeg).shape == (50, 100, 3)

    looked_at(test)


def test_pixels_in_shared_memory_are_copied_before_their_client_has_the_answer() -> None:
    memory = Path("/dev/shm/foveate-test-gallery")
    memory.write_bytes(plain((200, 30, 30), 80, 40).tobytes())
    overwrite = partial(memory.write_bytes, bytes(80 * 40 * 3))

    async def test(gallery: Gallery, sink: Sink, reception: FakeReception, stream: CameraStream) -> None:
        where = SharedMemoryRef(memory.name, 0, 80 * 40 * 3)
        answer(stream, 1, data=where, kind=PixelFormat.RAW_RGB, size=(80, 40))
        overwrite()
        await until_in_loop(lambda: sink.pictures)
        assert simplejpeg.decode_jpeg(sink.pictures[0].jpeg).mean() > 50

    try:
        looked_at(test)
    finally:
        memory.unlink()


def test_what_cannot_be_shown_ends_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def fails(*arguments: object) -> bytes:
        asked.append(arguments)
        raise MemoryError("as a codec may")

    monkeypatch.setattr(gallery_module, "WITHOUT_ANSWER_AFTER_NS", 0)

    async def test(gallery: Gallery, sink: Sink, reception: FakeReception, stream: CameraStream) -> None:
        broken, numbers = bytes(300_000), itertools.count(1)
        for _ in range(5):
            answer(stream, next(numbers), Verdict.SUPERSEDED, data=broken, size=(640, 480))
            await asyncio.sleep(0.01)
        with monkeypatch.context() as patch:
            patch.setattr(gallery_module, "preview_jpeg", fails)
            await until_in_loop(lambda: answer(stream, next(numbers), data=broken, size=(640, 480)) and asked)
        await until_in_loop(lambda: answer(stream, next(numbers)) and sink.pictures)
        assert sink.pictures[0].jpeg == SMALL

    looked_at(test)


def test_a_fault_of_the_view_holds_up_no_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*arguments: object) -> None:
        raise ValueError("nobody thought of that")

    async def test(gallery: Gallery, sink: Sink, reception: FakeReception, stream: CameraStream) -> None:
        monkeypatch.setattr(gallery_module, "said", fails)
        job = answer(stream, 1)
        assert job.answer is not None
        assert stream.next_answer() is not None
        assert not sink.pictures

    looked_at(test)


def test_pictures_come_no_more_often_than_their_share_of_the_time_allows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gallery_module, "AT_LEAST_NS", 3_600_000_000_000)

    async def test(gallery: Gallery, sink: Sink, reception: FakeReception, stream: CameraStream) -> None:
        for sequence in range(1, 100):
            answer(stream, sequence)
        assert len(sink.pictures) == 1

    looked_at(test)


def test_a_frame_without_an_answer_is_shown_only_where_there_are_no_others(monkeypatch: pytest.MonkeyPatch) -> None:
    async def test(gallery: Gallery, sink: Sink, reception: FakeReception, stream: CameraStream) -> None:
        monkeypatch.setattr(gallery_module, "WITHOUT_ANSWER_AFTER_NS", 10**18)
        answer(stream, 1, Verdict.EXPIRED)
        assert not sink.pictures
        monkeypatch.setattr(gallery_module, "WITHOUT_ANSWER_AFTER_NS", 0)
        answer(stream, 2, Verdict.BAD_FRAME)
        assert not sink.pictures, "what is no picture is never shown"
        answer(stream, 3, Verdict.EXPIRED)
        assert [picture.caption["verdict"] for picture in sink.pictures] == ["expired"]

    looked_at(test)


def test_other_streams_and_none_are_watched_as_it_is_said() -> None:
    async def run() -> None:
        dock, gate = camera_stream("dock"), camera_stream("gate")
        reception, sink = FakeReception(dock, gate), Sink()
        gallery = Gallery(reception)  # type: ignore[arg-type]
        gallery.watch({"dock": 640, "unknown": 640}, sink)
        assert gallery.watched == {"dock"}
        gallery.watch({"gate": 640}, sink)
        assert dock.before_drop is None
        assert gate.before_drop is not None
        again = camera_stream("gate")  # its client has come back over another connection
        reception.open["gate"] = SimpleNamespace(stream=again, pipeline=SimpleNamespace(model=colour_model()))
        gallery.watch({"gate": 640}, sink)
        assert gate.before_drop is None
        assert again.before_drop is not None
        gallery.watch({}, sink)
        assert again.before_drop is None
        await until_in_loop(lambda: not reception.observers)

    asyncio.run(run())


def test_a_viewer_that_says_nothing_more_is_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gallery_module, "LEASE_S", 0.05)
    monkeypatch.setattr(gallery_module, "TELL_EVERY_S", 0.01)

    async def test(gallery: Gallery, sink: Sink, reception: FakeReception, stream: CameraStream) -> None:
        assert reception.observers == [gallery]
        answer(stream, 1, data=plain((9, 9, 9), 64, 48).tobytes(), kind=PixelFormat.RAW_RGB)
        await until_in_loop(lambda: gallery.watched == frozenset())
        assert not reception.observers
        await until_in_loop(lambda: not any(thread.name.startswith("live_") for thread in threading.enumerate()))
        gallery.watch({"camera": 640}, sink)
        sink.pictures.clear()
        answer(stream, 2)
        assert sink.pictures, "and remembered when it looks again"

    looked_at(test)


def test_it_tells_how_frames_fared(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gallery_module, "TELL_EVERY_S", 0.01)

    async def test(gallery: Gallery, sink: Sink, reception: FakeReception, stream: CameraStream) -> None:
        (observer,) = reception.observers
        observer.answered(stream, frame(1), Answer(Verdict.OK, times=StageTimes(total=5 * MS)))
        observer.answered(stream, frame(2), Answer(Verdict.EXPIRED))
        observer.answered(camera_stream("other"), frame(3), Answer(Verdict.OK))
        await until_in_loop(lambda: sink.fared)
        ((stream_id, frames),) = sink.fared
        assert (stream_id, [each.verdict for each in frames]) == ("camera", ["ok", "expired"])

    looked_at(test)


def test_the_age_of_a_frame_is_what_its_budget_lacks() -> None:
    times = StageTimes(1 * MS, 2 * MS, 3 * MS, 4 * MS, 5 * MS, 6 * MS, 7 * MS, 8 * MS, 9 * MS, 45 * MS)
    fared = answered_frame(stream_options(100), frame(1), Answer(Verdict.OK, times=times))
    stages = dict(zip(STAGES, fared.stages_us, strict=True))
    assert stages == {
        "age": 40_000,
        "queue": 1000,
        "decode": 2000,
        "wait": 3000,
        "infer": 15_000,
        "finish": 7000,
        "cascade": 8000,
        "reply": 9000,
    }
    assert fared.total_us == 85_000


def test_what_was_said_can_be_drawn() -> None:
    boxes = Detections(
        np.array([[1, 2, 3.25, 4], [5, 6, 7, 8]], np.float32),
        np.array([0.9, 0.5], np.float32),
        np.array([0, 3]),
        np.array([[[1, 1, 0], [np.nan, 1, 1]], [[np.inf, 1, 1], [3, 4, 0.5]]], np.float32),
    )
    attributes = ((Attribute("kind", 1, "van", 0.7), Attribute("look", 0, "", 0.0)), ())
    caption = said(4, Answer(Verdict.OK, "", boxes, 640, 480, track_ids=(12, 0), attributes=attributes), ("car",))
    assert (caption["width"], caption["height"], caption["found"]) == (640, 480, 2)
    first, second = caption["boxes"]
    assert (first["label"], first["track"], first["points"]) == ("car", 12, [[1.0, 1.0, 0.0]])
    assert first["attributes"] == [{"name": "kind", "label": "van", "score": 0.7}], "an embedding has no words"
    assert (second["label"], second["points"]) == ("3", [[3.0, 4.0, 0.5]])
    json.dumps(caption, allow_nan=False)
    assert "track" not in second
    many = Detections(np.zeros((500, 4), np.float32), np.zeros(500, np.float32), np.zeros(500, np.int64))
    assert len(said(1, Answer(Verdict.OK, "", many), ())["boxes"]) == 100
    classes = Classes(np.array([0, 1]), np.array([0.75, 0.25], np.float32))
    assert said(1, Answer(Verdict.OK, "", classes), ("cat",))["classes"][0] == {"label": "cat", "score": 0.75}
    unsure = Classes(np.array([0]), np.array([np.nan], np.float32))
    json.dumps(said(1, Answer(Verdict.OK, "", unsure), ()), allow_nan=False)
    assert said(1, Answer(Verdict.OK, "", Embedding(np.zeros(7, np.float32))), ())["embedding"] == 7


def test_a_picture_whose_device_has_gone_is_no_fault_of_ours(caplog: pytest.LogCaptureFixture) -> None:
    made = list[bytes | None]()

    def gone() -> bytes:
        raise EngineUnavailable("the device does not hold the picture any more")

    gallery_module._shrink(gone, lambda jpeg, took_ns: made.append(jpeg))
    assert made == [None]
    assert not caplog.text

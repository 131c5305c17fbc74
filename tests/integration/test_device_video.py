"""Video that the engine's device decodes: the answers are those of the CPU's decoder, and nothing stays behind."""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any

import grpc
import numpy as np
import pytest

from foveate.engines.cuda.video_decoder import GpuVideoDecoders
from foveate.engines.errors import BadFrame, DeviceError
from foveate.engines.fake import FakeEngine, Gate
from foveate.proto import vision_pb2 as pb
from foveate.service.frame import PixelFormat
from support.cascades import shades_engine, shades_opening
from support.cpu_codec import OneCubin
from support.cpu_video import CpuVideoDecoders
from support.decoding_engine import DecodingEngine
from support.fake_cuda import FakeCuda
from support.fake_nvdec import FakeNvdec
from support.raw_stream import RawStream, verdicts
from support.service import GREYS, RunningService, fake_engine, grey_jpeg, grey_of, running_service
from support.video_streams import access_units, grey_units
from support.waiting import until

pytestmark = pytest.mark.usefixtures("boundary")

QUEUE = {"format": pb.PIXEL_FORMAT_H264, "budget_ms": 20_000, "delivery": pb.DELIVERY_QUEUE, "queue_depth": 64}
UNITS = grey_units(GREYS[:20], PixelFormat.H264)

Serve = Callable[..., tuple[RunningService, FakeEngine]]


@pytest.fixture
def video() -> CpuVideoDecoders:
    return CpuVideoDecoders()


@pytest.fixture
def serve(video: CpuVideoDecoders) -> Iterator[Serve]:
    with ExitStack() as services:

        def start(
            video_decode: str = "gpu", gate: Gate | None = None, kind: type[FakeEngine] = DecodingEngine
        ) -> tuple[RunningService, FakeEngine]:
            engine = fake_engine(kind=kind, gate=gate)
            service = services.enter_context(running_service(engine, slots=2, video=video, video_decode=video_decode))
            if isinstance(engine, DecodingEngine):
                engine.placed.clear()  # of trying how fast it is
            return service, engine

        yield start
    assert video.closed
    assert not video.streams


def answers(service: RunningService, units: list[bytes]) -> list[pb.FrameResult]:
    with RawStream(service.stub) as stream:
        stream.open(**QUEUE)
        for sequence, unit in enumerate(units):
            stream.frame(sequence, unit)
        return stream.rest()


def test_every_frame_gets_its_own_answer_and_no_picture_stays(serve: Serve, video: CpuVideoDecoders) -> None:
    service, engine = serve()
    results = answers(service, UNITS)
    assert [grey_of(result) for result in results] == list(GREYS[:20])
    assert all(0 < result.times.decode <= result.times.total for result in results)
    assert isinstance(engine, DecodingEngine)
    assert sum(map(len, engine.placed)) == video.decoded == 20
    assert video.brought_down == []
    until(lambda: not video.pictures and not video.streams)


def test_an_engine_that_takes_no_pictures_gets_them_by_way_of_the_host(serve: Serve, video: CpuVideoDecoders) -> None:
    service, _ = serve(kind=FakeEngine)
    assert [grey_of(result) for result in answers(service, UNITS)] == list(GREYS[:20])
    assert video.brought_down == [(32, 32)] * 20


def test_superseded_frames_are_decoded_and_their_pictures_let_go_of(serve: Serve, video: CpuVideoDecoders) -> None:
    gate = Gate()
    service, _ = serve(gate=gate)
    with RawStream(service.stub) as stream, RawStream(service.stub) as other:
        stream.open(format=pb.PIXEL_FORMAT_H264, budget_ms=20_000)
        other.open(budget_ms=20_000)
        for _ in range(2):
            other.frame(_, grey_jpeg(5))
        gate.wait_for_held()
        for sequence, unit in enumerate(UNITS):
            stream.frame(sequence, unit)
            service.settled(lambda status, count=sequence: status.ledger.superseded >= count - 3)  # type: ignore[misc]
        until(lambda: video.decoded == 20 and len(video.pictures) <= 3)
        gate.set()
        results = stream.rest()
    assert grey_of(results[-1]) == GREYS[19], "the newest was decoded upon those that nobody wanted"
    until(lambda: not video.pictures)


def test_a_unit_that_fails_breaks_the_chain_until_the_next_key_frame(serve: Serve, video: CpuVideoDecoders) -> None:
    service, _ = serve()
    units = [*UNITS[:3], b"\0\0\1\x41garbage", *UNITS[3:]]
    results = answers(service, units)
    assert verdicts(results) == ["OK"] * 3 + ["BAD_FRAME"] * 8 + ["OK"] * 10
    assert "nothing is decoded until the next key frame" in results[3].message
    assert [grey_of(result) for result in results[11:]] == list(GREYS[10:20])


@pytest.mark.parametrize(
    ("fault", "verdict"), [(BadFrame("a slice is broken"), "BAD_FRAME"), (DeviceError("a fault"), "FAILED")]
)
def test_a_fault_of_the_decoder_is_answered_and_the_stream_goes_on(
    serve: Serve, video: CpuVideoDecoders, fault: Exception, verdict: str
) -> None:
    service, _ = serve()
    video.fault = fault
    results = answers(service, UNITS)
    assert verdicts(results) == [verdict] + ["BAD_FRAME"] * 9 + ["OK"] * 10
    assert str(fault) in results[0].message
    assert [grey_of(result) for result in results[10:]] == list(GREYS[10:20])


def test_a_picture_without_room_is_rejected_and_the_chain_goes_on(serve: Serve, video: CpuVideoDecoders) -> None:
    gate = Gate()
    service, _ = serve(gate=gate)
    video.most_pictures = 3
    with RawStream(service.stub) as stream:
        stream.open(**QUEUE)
        for sequence, unit in enumerate(UNITS[:6]):
            stream.frame(sequence, unit)
        until(lambda: video.decoded == 6)
        gate.set()
        results = stream.results(6)
        until(lambda: not video.pictures)
        for sequence, unit in enumerate(UNITS[6:9], start=6):
            stream.frame(sequence, unit)
        results += stream.rest()
    assert verdicts(results) == ["OK"] * 3 + ["REJECTED"] * 3 + ["OK"] * 3
    assert "as many pictures as it may" in results[3].message
    assert [grey_of(result) for result in results[6:]] == list(GREYS[6:9])


@pytest.mark.parametrize("wish", ["auto", "gpu"])
def test_where_no_decoder_is_left(serve: Serve, video: CpuVideoDecoders, wish: str) -> None:
    service, engine = serve(wish)
    video.most_streams = 0
    results = answers(service, UNITS)
    if wish == "auto":
        assert [grey_of(result) for result in results] == list(GREYS[:20])
    else:
        assert verdicts(results) == (["REJECTED"] + ["BAD_FRAME"] * 9) * 2
        assert "no video decoder left" in results[0].message
    assert video.decoded == 0
    assert isinstance(engine, DecodingEngine)
    assert engine.placed == []


def test_what_the_device_does_not_decode_is_refused_where_it_has_to(serve: Serve, video: CpuVideoDecoders) -> None:
    video.refused = "this GPU has no decoder for it"
    service, _ = serve("gpu")
    with RawStream(service.stub) as stream:
        stream.send(pb.StreamRequest(open=pb.OpenStream(format=pb.PIXEL_FORMAT_H264)))
        error = stream.error()
    assert error.code() == grpc.StatusCode.INTERNAL
    assert 'video_decode is "gpu"' in (error.details() or "")
    assert "no decoder for it" in (error.details() or "")
    assert not service.status().streams
    other, _ = serve("auto")
    assert [grey_of(result) for result in answers(other, UNITS)] == list(GREYS[:20])


def test_the_device_is_left_alone_where_the_cpu_is_wished(serve: Serve, video: CpuVideoDecoders) -> None:
    service, _ = serve("cpu")
    assert [grey_of(result) for result in answers(service, UNITS)] == list(GREYS[:20])
    assert video.decoded == 0


def test_a_stream_may_change_its_size_at_a_key_frame(serve: Serve, video: CpuVideoDecoders) -> None:
    service, _ = serve()
    larger = access_units([np.full((96, 128, 3), grey, np.uint8) for grey in GREYS[10:15]], PixelFormat.H264)
    results = answers(service, [*UNITS[:10], *larger])
    assert [grey_of(result) for result in results] == list(GREYS[:15])
    assert {(result.frame_width, result.frame_height) for result in results} == {(64, 48), (128, 96)}


def test_jpegs_and_video_share_a_batch(serve: Serve, video: CpuVideoDecoders) -> None:
    gate = Gate()
    service, _ = serve(gate=gate)
    with RawStream(service.stub) as stream, RawStream(service.stub) as pictures:
        stream.open(**QUEUE)
        pictures.open(budget_ms=20_000, delivery=pb.DELIVERY_QUEUE, queue_depth=64)
        for sequence in range(10):
            stream.frame(sequence, UNITS[sequence])
            pictures.frame(sequence, grey_jpeg(GREYS[-1 - sequence]))
        until(lambda: video.decoded == 10)
        gate.set()
        of_video, of_pictures = stream.rest(), pictures.rest()
    assert [grey_of(result) for result in of_video] == list(GREYS[:10])
    assert [grey_of(result) for result in of_pictures] == [GREYS[-1 - index] for index in range(10)]


def test_a_client_that_goes_leaves_neither_decoder_nor_picture(serve: Serve, video: CpuVideoDecoders) -> None:
    gate = Gate()
    service, _ = serve(gate=gate)
    stream = RawStream(service.stub)
    stream.open(**QUEUE)
    for sequence, unit in enumerate(UNITS):
        stream.frame(sequence, unit)
    until(lambda: video.decoded > 5)
    stream.cancel()
    until(lambda: not video.streams and len(video.pictures) <= 8)
    gate.set()
    until(lambda: not video.pictures)


def test_an_h265_unit_that_was_lost_before_it_was_numbered_breaks_the_chain(
    serve: Serve, video: CpuVideoDecoders
) -> None:
    service, _ = serve()
    units = grey_units(GREYS[:20], PixelFormat.H265)
    with RawStream(service.stub) as stream:
        stream.open(**{**QUEUE, "format": pb.PIXEL_FORMAT_H265})
        for sequence, unit in enumerate(units[:3] + units[4:]):
            stream.frame(sequence, unit)
        results = stream.rest()
    assert verdicts(results) == ["OK"] * 3 + ["BAD_FRAME"] * 6 + ["OK"] * 10
    assert "builds on one that is missing" in results[3].message
    assert video.decoded == 13, "the device, which may not notice, was not asked"


def test_the_crops_of_a_cascade_are_those_of_the_devices_pictures(video: CpuVideoDecoders) -> None:
    opening = shades_opening(fake_engine(kind=DecodingEngine), shades_engine(), video)
    with running_service(opened_by=opening, video_decode="gpu") as service:
        results = answers(service, UNITS)
    assert [grey_of(result) for result in results] == list(GREYS[:20])
    seen = [result.detections[0].attributes[0].label for result in results]
    assert seen == [f"shade{grey // 10}" for grey in GREYS[:20]]
    assert len(video.brought_down) == 20, "once for each frame"
    until(lambda: not video.pictures)


def test_the_gpus_own_decoders_serve_over_a_stand_in_for_the_gpu() -> None:
    cuda = FakeCuda()
    module: Any = FakeNvdec(cuda)
    video = GpuVideoDecoders(cuda.open(), OneCubin(), module)
    with running_service(fake_engine(), video=video, video_decode="gpu") as service:
        broken = [*UNITS[:12], b"\0\0\1\x41garbage", *UNITS[12:]]
        results = answers(service, broken)
        assert verdicts(results) == ["OK"] * 12 + ["BAD_FRAME"] * 9
        assert all(abs(grey_of(result) - grey) <= 10 for result, grey in zip(results[:12], GREYS, strict=False))
        units = grey_units(GREYS[:5], PixelFormat.H265)
        with RawStream(service.stub) as stream:
            stream.open(**{**QUEUE, "format": pb.PIXEL_FORMAT_H265})
            for sequence, unit in enumerate(units):
                stream.frame(sequence, unit)
            assert verdicts(stream.rest()) == ["OK"] * 5
    gc.collect()
    assert cuda.leaks == []
    assert module.open == 0

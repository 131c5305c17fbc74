"""JPEGs that the engine's device decodes: the answers are those of the CPU decoder, whatever else is in the batch."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack

import cv2
import numpy as np
import pytest

from foveate.engines.errors import RunFailed
from foveate.engines.fake import Gate
from foveate.proto import vision_pb2 as pb
from foveate.service.config import PipelineConfig
from support.decoding_engine import DecodingEngine
from support.raw_stream import RawStream, verdicts
from support.service import GREYS, RunningService, fake_engine, grey_jpeg, grey_of, running_service

pytestmark = pytest.mark.usefixtures("boundary")

Serve = Callable[..., tuple[RunningService, DecodingEngine]]


@pytest.fixture
def serve() -> Iterator[Serve]:
    with ExitStack() as services:

        def start(decode: str = "gpu", gate: Gate | None = None) -> tuple[RunningService, DecodingEngine]:
            engine = fake_engine(kind=DecodingEngine, gate=gate)
            assert isinstance(engine, DecodingEngine)
            settings = {"model": "grey", "engine": {"slots": 2, "decode": decode}}
            pipelines = {"grey": PipelineConfig.model_validate(settings)}
            service = services.enter_context(running_service(engine, slots=2, pipelines=pipelines))
            return service, engine

        yield start


def noisy_jpeg() -> bytes:
    """Larger than a row of the model's input."""
    picture = np.random.default_rng(5).integers(100, 110, (200, 200, 3)).astype(np.uint8)
    done, data = cv2.imencode(".jpg", picture, [cv2.IMWRITE_JPEG_QUALITY, 100])
    assert done
    assert data.nbytes > 32 * 32 * 3
    return data.tobytes()


def cut(picture: bytes) -> bytes:
    """Its middle gone, so that only decoding finds out."""
    at = picture.index(b"\xff\xda") + 14
    return picture[:at] + picture[(at + len(picture)) // 2 :]


def answers(service: RunningService, pictures: list[bytes]) -> list[pb.FrameResult]:
    with RawStream(service.stub) as stream:
        stream.open(budget_ms=20_000, delivery=pb.DELIVERY_QUEUE, queue_depth=64)
        for sequence, picture in enumerate(pictures, start=1):
            stream.frame(sequence, picture)
        return stream.rest()


def placed(engine: DecodingEngine) -> int:
    return sum(map(len, engine.placed))


def test_every_frame_gets_its_own_answer(serve: Serve) -> None:
    service, engine = serve()
    results = answers(service, [grey_jpeg(grey) for grey in GREYS])
    assert [grey_of(result) for result in results] == list(GREYS)
    assert placed(engine) == len(GREYS)
    assert all(result.times.decode > 0 for result in results)


@pytest.mark.parametrize("bad", [{0}, {1}, {3}, {0, 2}, {0, 1, 2, 3}])
def test_what_the_device_cannot_decode_gets_the_cpus_verdict(serve: Serve, bad: set[int]) -> None:
    gate, greys = Gate(), [35, 95, 155, 215]
    (service, engine), (plain, _) = serve(gate=gate), serve("cpu")
    (expected,) = answers(plain, [cut(grey_jpeg(35, 320, 240))])
    assert expected.verdict == pb.VERDICT_BAD_FRAME
    streams = [RawStream(service.stub) for _ in range(6)]
    for stream in streams:
        stream.open(budget_ms=20_000)
    for occupying in streams[4:]:  # one runs, one is in the other slot: what comes now goes together
        occupying.frame(1, grey_jpeg(5))
    gate.wait_for_held()
    for index, stream in enumerate(streams[:4]):
        picture = grey_jpeg(greys[index], 320, 240)
        stream.frame(1, cut(picture) if index in bad else picture)
    service.settled(lambda status: status.ledger.received == 6)
    gate.set()
    for index, stream in enumerate(streams[:4]):
        result = stream.result()
        if index in bad:
            assert result.verdict == pb.VERDICT_BAD_FRAME
            assert result.message.split(": ")[1] == expected.message.split(": ")[1]
        else:
            assert grey_of(result) == greys[index]
    assert placed(engine) >= 6
    for stream in streams:
        stream.cancel()


def test_a_frame_that_expires_behind_a_stuck_engine_leaves_the_others_right(serve: Serve) -> None:
    gate = Gate()
    service, engine = serve(gate=gate)
    streams = [RawStream(service.stub) for _ in range(5)]
    for stream, budget_ms in zip(streams, (20_000, 700, 20_000, 20_000, 20_000), strict=True):
        stream.open(budget_ms=budget_ms)
    streams[0].frame(1, grey_jpeg(5))
    gate.wait_for_held()
    for index, stream in enumerate(streams[1:], start=1):
        stream.frame(1, grey_jpeg(5 + 50 * index))
    sequence = 1
    while (answer := streams[1].result()).verdict == pb.VERDICT_INFEASIBLE:  # it was too late on its way in
        sequence += 1
        streams[1].frame(sequence, grey_jpeg(55))
    assert verdicts([answer]) == ["EXPIRED"]
    gate.set()
    assert [grey_of(stream.result()) for stream in streams[2:]] == [105, 155, 205]
    assert placed(engine) >= 4
    for stream in streams:
        stream.cancel()


def test_what_is_no_plain_jpeg_or_too_large_stays_on_the_cpu(serve: Serve) -> None:
    service, engine = serve()
    progressive = cv2.imencode(".jpg", np.full((48, 64, 3), 55, np.uint8), [cv2.IMWRITE_JPEG_PROGRESSIVE, 1])[1]
    grey_only = cv2.imencode(".jpg", np.full((48, 64), 75, np.uint8))[1]
    pictures = [grey_jpeg(25, kind=".png"), progressive.tobytes(), grey_only.tobytes(), noisy_jpeg()]
    assert [grey_of(result) for result in answers(service, pictures)] == [25, 55, 75, 105]
    assert engine.placed == []


def test_jpegs_go_on_after_the_devices_decoder_failed(serve: Serve, caplog: pytest.LogCaptureFixture) -> None:
    service, engine = serve()
    engine.fault = RunFailed("nvJPEG gave up")
    assert [grey_of(result) for result in answers(service, [grey_jpeg(65)])] == [65]
    assert [grey_of(result) for result in answers(service, [grey_jpeg(75)])] == [75]
    assert placed(engine) == 1
    assert "nvJPEG gave up" in caplog.text


def test_the_device_is_left_alone_where_the_cpu_is_wished(serve: Serve) -> None:
    service, engine = serve("cpu")
    assert [grey_of(result) for result in answers(service, [grey_jpeg(85)])] == [85]
    assert engine.placed == []
    assert not engine.is_open

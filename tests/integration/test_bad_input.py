"""What a sender can do wrong, and that it gets a clear answer, harms nobody else and loses nothing."""

from __future__ import annotations

import random
import struct
import zlib
from collections.abc import Iterator
from typing import Any

import cv2
import grpc
import numpy as np
import pytest

from foveate.engines.fake import Gate
from foveate.proto import vision_pb2 as pb
from support.raw_stream import RawStream, verdicts
from support.service import RunningService, fake_engine, grey_jpeg, grey_of, running_service

pytestmark = pytest.mark.usefixtures("boundary")


@pytest.fixture(scope="module")
def service() -> Iterator[RunningService]:
    limits = {"max_frame_bytes": 100_000, "max_pixels": 4_000_000, "max_queue_depth": 16}
    # Each run takes this long at least, so that the engine's tracked profile refuses a budget of 1 ms on any machine.
    with running_service(fake_engine(latency_s=0.002), profile_ms=2.0, limits=limits) as running:
        yield running


@pytest.fixture(autouse=True)
def neighbour(service: RunningService) -> Iterator[None]:
    """Another stream, which must notice nothing; and after each test the books must balance."""
    with RawStream(service.stub) as stream:
        stream.open(budget_ms=20_000)
        stream.frame(1, grey_jpeg(75))
        assert grey_of(stream.result()) == 75
        yield
        stream.frame(2, grey_jpeg(95))
        assert grey_of(stream.result()) == 95
        assert stream.rest() == []
    ledger = service.settled(lambda status: not status.streams and status.ledger.in_flight == 0).ledger
    names = "ok superseded infeasible expired bad_frame rejected failed draining cancelled"
    assert ledger.received == sum(getattr(ledger, name) for name in names.split())


def _png_header(width: int, height: int) -> bytes:
    chunk = b"IHDR" + struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 13) + chunk + struct.pack(">I", zlib.crc32(chunk))


def _corrupt(picture: bytes, seed: int = 1) -> bytes:
    """Its header broken: the quantisation tables claim to be longer than they are."""
    at = picture.index(b"\xff\xdb")
    return picture[: at + 2] + b"\xff\xff" + random.Random(seed).randbytes(200)


def _scan_bomb() -> bytes:
    """A progressive JPEG that repeats one scan, so that a few kilobytes keep a decoder busy."""
    done, data = cv2.imencode(".jpg", np.full((480, 640, 3), 90, np.uint8), [cv2.IMWRITE_JPEG_PROGRESSIVE, 1])
    assert done
    picture = data.tobytes()
    begin = picture.index(b"\xff\xda")
    end = picture.index(b"\xff\xda", begin + 2)
    return picture[:begin] + picture[begin:end] * 100 + picture[end:]


def _noise_inside(picture: bytes) -> bytes:
    """Its header whole, half of its picture data gone."""
    at = picture.index(b"\xff\xda") + 14
    return picture[:at] + picture[(at + len(picture)) // 2 :]


_KINDS_OF_BAD = "empty text truncated header-only corrupt scan-bomb noise png webp bomb zero-size too-big"


@pytest.mark.parametrize(
    ("data", "verdict", "says"),
    [
        (b"", "BAD_FRAME", "no bytes"),
        (b"hello, world, I am no picture", "BAD_FRAME", "expected a JPEG, PNG or WebP"),
        (grey_jpeg(15)[:300], "BAD_FRAME", "cut off"),
        (grey_jpeg(15)[:20], "BAD_FRAME", "cut off"),
        (_corrupt(grey_jpeg(15)), "BAD_FRAME", "JPEG"),
        (_scan_bomb(), "BAD_FRAME", "scans"),
        (_noise_inside(grey_jpeg(15, 640, 480)), "BAD_FRAME", "corrupt"),
        (grey_jpeg(15, kind=".png")[:60], "BAD_FRAME", "PNG"),
        (grey_jpeg(15, kind=".webp")[:40], "BAD_FRAME", "WEBP"),
        (_png_header(30_000, 30_000), "REJECTED", "30000x30000"),
        (_png_header(0, 7), "BAD_FRAME", "empty picture"),
        (grey_jpeg(15) + bytes(100_001), "REJECTED", "at most 100000"),
    ],
    ids=_KINDS_OF_BAD.split(),
)
def test_a_bad_frame_is_answered_and_its_stream_goes_on(
    service: RunningService, data: bytes, verdict: str, says: str
) -> None:
    with RawStream(service.stub) as stream:
        stream.open(budget_ms=20_000)
        stream.frame(1, grey_jpeg(25))
        assert grey_of(stream.result()) == 25
        stream.frame(2, data)
        bad = stream.result()
        stream.frame(3, grey_jpeg(35))
        assert grey_of(stream.result()) == 35
        assert stream.rest() == []
    assert verdicts([bad]) == [verdict]
    assert says in bad.message
    assert bad.sequence == 2


def test_a_format_other_than_the_one_opened_for_is_a_bad_frame(service: RunningService) -> None:
    with RawStream(service.stub) as stream:
        stream.open(budget_ms=20_000, format=pb.PIXEL_FORMAT_JPEG)
        stream.frame(1, grey_jpeg(25, kind=".png"))
        assert "opened for JPEG, this frame is PNG" in stream.result().message


@pytest.mark.parametrize("size", [0, 1, 64 * 48 * 3 - 1, 64 * 48 * 3 + 1])
def test_a_wrong_raw_size_is_a_bad_frame(service: RunningService, size: int) -> None:
    with RawStream(service.stub) as stream:
        stream.open(budget_ms=20_000, format=pb.PIXEL_FORMAT_RAW_RGB, width=64, height=48)
        stream.frame(1, bytes(size))
        stream.frame(2, bytes([45]) * 64 * 48 * 3, budget_ms=20_000)
        bad, good = stream.results(2)
    assert verdicts([bad, good]) == ["BAD_FRAME", "OK"]
    assert f"has 9216 bytes, this one has {size}" in bad.message
    assert grey_of(good) == 45


def test_duplicate_and_backward_sequences_are_rejected(service: RunningService) -> None:
    with RawStream(service.stub) as stream:
        stream.open(budget_ms=20_000, delivery=pb.DELIVERY_QUEUE)
        for sequence in (5, 5, 3, 6):
            stream.frame(sequence, grey_jpeg(25))
        results = stream.results(4)
    assert [result.sequence for result in results] == [5, 5, 3, 6]
    assert verdicts(results) == ["OK", "REJECTED", "REJECTED", "OK"]
    assert "came twice" in results[1].message
    assert "goes backwards" in results[2].message


@pytest.mark.parametrize(
    ("fields", "code", "says"),
    [
        ({"pipeline": "nonsense"}, grpc.StatusCode.NOT_FOUND, "expected one of grey"),
        ({"budget_ms": 1}, grpc.StatusCode.OUT_OF_RANGE, "the smallest possible is"),
        ({"format": 77}, grpc.StatusCode.UNIMPLEMENTED, "unknown"),
        ({"format": pb.PIXEL_FORMAT_RAW_RGB}, grpc.StatusCode.INVALID_ARGUMENT, "width and height"),
        (
            {"format": pb.PIXEL_FORMAT_RAW_NV12, "width": 3, "height": 4},
            grpc.StatusCode.INVALID_ARGUMENT,
            "even sides",
        ),
        ({"classes": ["unicorn"]}, grpc.StatusCode.INVALID_ARGUMENT, "no label 'unicorn'"),
        ({"min_score": 1.5}, grpc.StatusCode.INVALID_ARGUMENT, "0..1"),
        ({"fps": -1.0}, grpc.StatusCode.INVALID_ARGUMENT, "fps"),
        ({"fps": float("nan")}, grpc.StatusCode.INVALID_ARGUMENT, "fps"),
        ({"weight": float("inf")}, grpc.StatusCode.INVALID_ARGUMENT, "weight"),
        ({"queue_depth": 1000}, grpc.StatusCode.RESOURCE_EXHAUSTED, "limit of 16"),
        ({"stream_id": "two words"}, grpc.StatusCode.INVALID_ARGUMENT, "printable"),
        ({"stream_id": "x" * 129}, grpc.StatusCode.INVALID_ARGUMENT, "128"),
        ({"priority": 16}, grpc.StatusCode.INVALID_ARGUMENT, "0..15"),
        ({"delivery": 9}, grpc.StatusCode.INVALID_ARGUMENT, "LATEST or QUEUE"),
    ],
)
def test_an_opening_that_makes_no_sense_is_refused_with_what_to_do(
    service: RunningService, fields: dict[str, Any], code: grpc.StatusCode, says: str
) -> None:
    with RawStream(service.stub) as stream:
        stream.send(pb.StreamRequest(open=pb.OpenStream(**fields)))
        error = stream.error()
    assert error.code() == code
    assert says in str(error.details())


def test_frames_before_the_opening_end_the_stream(service: RunningService) -> None:
    with RawStream(service.stub) as stream:
        stream.frame(1, grey_jpeg(15))
        error = stream.error()
    assert error.code() == grpc.StatusCode.INVALID_ARGUMENT
    assert "send OpenStream first" in str(error.details())


def test_nothing_at_all_ends_the_stream(service: RunningService) -> None:
    with RawStream(service.stub) as stream:
        stream.half_close()
        assert stream.error().code() == grpc.StatusCode.INVALID_ARGUMENT


@pytest.mark.parametrize("message", [pb.StreamRequest(open=pb.OpenStream()), pb.StreamRequest()])
def test_a_second_opening_ends_the_stream(service: RunningService, message: pb.StreamRequest) -> None:
    with RawStream(service.stub) as stream:
        stream.open(budget_ms=20_000)
        stream.frame(1, grey_jpeg(25))
        assert grey_of(stream.result()) == 25
        stream.send(message)
        error = stream.error()
    assert error.code() == grpc.StatusCode.INVALID_ARGUMENT
    assert "carries frames only" in str(error.details())


def test_an_oversized_message_ends_its_stream_alone(service: RunningService) -> None:
    with RawStream(service.stub) as stream:
        stream.open(budget_ms=20_000)
        stream.frame(1, bytes(1_000_000))
        error = stream.error()
    assert error.code() == grpc.StatusCode.RESOURCE_EXHAUSTED


def test_a_name_that_is_taken_is_refused(service: RunningService) -> None:
    with RawStream(service.stub) as first, RawStream(service.stub) as second:
        first.open(stream_id="same", budget_ms=20_000)
        second.send(pb.StreamRequest(open=pb.OpenStream(stream_id="same", budget_ms=20_000)))
        error = second.error()
        first.frame(1, grey_jpeg(15))
        assert verdicts([first.result()]) == ["OK"]
    assert error.code() == grpc.StatusCode.ALREADY_EXISTS


def test_one_stream_too_many_is_refused() -> None:
    with running_service(limits={"max_streams": 2}) as service:
        streams = [RawStream(service.stub) for _ in range(3)]
        for stream in streams[:2]:
            stream.open()
        streams[2].send(pb.StreamRequest(open=pb.OpenStream()))
        error = streams[2].error()
        assert error.code() == grpc.StatusCode.RESOURCE_EXHAUSTED
        streams[0].half_close()
        service.settled(lambda status: len(status.streams) == 1)
        with RawStream(service.stub) as stream:
            stream.open()
        for stream in streams:
            stream.cancel()


def test_random_bytes_never_end_a_stream(service: RunningService) -> None:
    random_ = random.Random(11)
    starts = (b"", b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n", b"RIFF\x00\x00\x00\x00WEBPVP8 ", grey_jpeg(5)[:200])
    with RawStream(service.stub) as stream:
        stream.open(budget_ms=20_000)
        for sequence in range(1, 101):
            stream.frame(sequence, random_.choice(starts) + random_.randbytes(random_.randrange(0, 400)))
            assert verdicts([stream.result()])[0] in ("BAD_FRAME", "REJECTED", "OK")
        stream.frame(101, grey_jpeg(65))
        assert grey_of(stream.result()) == 65


def test_a_window_that_is_overrun_is_said() -> None:
    gate = Gate()
    with running_service(fake_engine(gate=gate)) as service, RawStream(service.stub) as stream:
        window = stream.open(budget_ms=30_000).window
        stream.frame(1, grey_jpeg(15))
        gate.wait_for_held()  # from here on every answer waits behind this one
        for sequence in range(2, window + 6):
            stream.frame(sequence, grey_jpeg(15))
        service.settled(lambda status: status.ledger.received == window + 5)
        gate.set()
        results = stream.rest()
    rejected = [result for result in results if result.verdict == pb.VERDICT_REJECTED]
    assert len(results) == window + 5
    assert len(rejected) == 5
    assert f"its window is {window}" in rejected[0].message

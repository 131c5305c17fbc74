"""H.264 and H.265 over a real gRPC connection: every unit decoded in order, every frame answered with its picture."""

from __future__ import annotations

import random
from collections import Counter

import grpc
import numpy as np
import pytest

from foveate.client import Client, Delivery, Verdict
from foveate.client import PixelFormat as ClientFormat
from foveate.client.settings import StreamSettings
from foveate.engines.fake import Gate
from foveate.proto import vision_pb2 as pb
from foveate.service.frame import PixelFormat
from foveate.service.video_decoder import VideoDecoder
from support.raw_stream import RawStream, verdicts
from support.service import GREYS, fake_engine, grey_jpeg, grey_of, running_service
from support.video_streams import access_units, grey_units, moving_pictures

pytestmark = pytest.mark.usefixtures("boundary")

KINDS = [PixelFormat.H264, PixelFormat.H265]
WIRE = {PixelFormat.H264: pb.PIXEL_FORMAT_H264, PixelFormat.H265: pb.PIXEL_FORMAT_H265}
QUEUE = {"budget_ms": 20_000, "delivery": pb.DELIVERY_QUEUE, "queue_depth": 64}


@pytest.mark.parametrize("kind", KINDS)
def test_every_unit_is_answered_once_in_order_with_its_own_picture(kind: PixelFormat) -> None:
    greys = [random.Random(7).choice(GREYS) for _ in range(40)]
    with running_service() as service, RawStream(service.stub) as stream:
        stream.open(format=WIRE[kind], **QUEUE)
        for sequence, unit in enumerate(grey_units(greys, kind), start=1):
            stream.frame(sequence, unit)
        results = stream.rest()
        status = service.status()
    assert [result.sequence for result in results] == list(range(1, 41))
    assert verdicts(results) == ["OK"] * 40
    assert [grey_of(result) for result in results] == greys
    assert {(result.frame_width, result.frame_height) for result in results} == {(64, 48)}
    assert all(result.times.decode > 0 for result in results)
    assert status.ledger.ok == 40


@pytest.mark.parametrize("kind", KINDS)
def test_a_unit_is_seen_as_its_decoded_picture_sent_raw_is(kind: PixelFormat) -> None:
    scene = moving_pictures(20, 320, 200)
    pictures = [(picture * (0.2 + 0.04 * index)).astype(np.uint8) for index, picture in enumerate(scene)]
    units, decoder = access_units(pictures, kind), VideoDecoder(kind, 10**6)
    with running_service() as service, RawStream(service.stub) as video, RawStream(service.stub) as raw:
        video.open(format=WIRE[kind], **QUEUE)
        raw.open(format=pb.PIXEL_FORMAT_RAW_RGB, width=320, height=200, **QUEUE)
        for sequence, unit in enumerate(units):
            video.frame(sequence, unit)
            raw.frame(sequence, decoder.decode(unit).rgb().tobytes())
        seen, expected = video.rest(), raw.rest()
    assert verdicts(seen) == verdicts(expected) == ["OK"] * 20
    for one, other in zip(seen, expected, strict=True):
        assert abs(grey_of(one) - grey_of(other)) <= 10, "the next class at most, where the mean lies between two"
        assert one.detections[0].box == other.detections[0].box
        assert (one.frame_width, one.frame_height) == (320, 200)
    assert len({grey_of(result) for result in seen}) > 5


def test_the_stages_of_a_video_frame_add_up() -> None:
    with running_service() as service, RawStream(service.stub) as stream:
        stream.open(format=pb.PIXEL_FORMAT_H264, **QUEUE)
        for sequence, unit in enumerate(grey_units(GREYS[:10], PixelFormat.H264)):
            stream.frame(sequence, unit)
        for result in stream.rest():
            times = result.times
            stages = (times.receive_queue, times.decode, times.wait, times.infer, times.postprocess, times.reply_queue)
            assert times.decode > 0
            assert sum(stages) <= times.total + len(stages), "rounded to microseconds, each"


@pytest.mark.parametrize("kind", KINDS)
def test_after_a_missing_unit_frames_are_bad_until_the_next_key_frame(kind: PixelFormat) -> None:
    greys = [random.Random(8).choice(GREYS) for _ in range(30)]
    units = grey_units(greys, kind, key_every=10)
    with running_service() as service, RawStream(service.stub) as stream:
        stream.open(format=WIRE[kind], **QUEUE)
        for sequence, unit in enumerate(units):
            if sequence != 13:
                stream.frame(sequence, unit)
        results = {result.sequence: result for result in stream.rest()}
    bad = [sequence for sequence, result in results.items() if result.verdict == pb.VERDICT_BAD_FRAME]
    assert bad == list(range(14, 20))
    assert all("missing" in results[n].message and "until the next key frame" in results[n].message for n in bad)
    assert [grey_of(results[n]) for n in results if n not in bad] == [greys[n] for n in results if n not in bad]


def test_pictures_that_find_no_room_are_rejected_and_the_video_goes_on() -> None:
    gate = Gate()
    gate.clear()
    greys = list(GREYS[:20])
    units = grey_units(greys, PixelFormat.H264, key_every=20)
    limits = {"max_waiting_bytes": 40_000}
    with running_service(fake_engine(gate=gate), limits=limits) as service, RawStream(service.stub) as stream:
        stream.open(format=pb.PIXEL_FORMAT_H264, **QUEUE)
        for sequence, unit in enumerate(units[:-1]):
            stream.frame(sequence, unit)
        service.settled(lambda status: status.ledger.rejected > 3 and status.ledger.received == 19)
        gate.set()
        first = stream.results(19)
        stream.frame(19, units[19])
        last = stream.result()
    count = Counter(verdicts(first))
    assert count["OK"] + count["REJECTED"] == 19, count
    assert count["REJECTED"] > 3, "nineteen pictures are more than may wait"
    assert grey_of(last) == greys[19], "it builds on pictures that were rejected"


def test_a_unit_that_was_rejected_is_missed_by_those_after_it() -> None:
    units = grey_units(GREYS[:20], PixelFormat.H264, key_every=5)
    with running_service(limits={"max_frame_bytes": 2048}) as service, RawStream(service.stub) as stream:
        stream.open(format=pb.PIXEL_FORMAT_H264, **QUEUE)
        for sequence, unit in enumerate(units):
            stream.frame(sequence, unit + b"\0" * 4096 if sequence == 7 else unit)
        results = stream.rest()
    assert verdicts(results) == ["OK"] * 7 + ["REJECTED"] + ["BAD_FRAME"] * 2 + ["OK"] * 10


def test_units_of_frames_that_are_not_inferred_are_decoded_all_the_same() -> None:
    gate = Gate()
    engine = fake_engine(latency_s=0.01, max_batch=1, gate=gate)
    greys = [random.Random(9).choice(GREYS) for _ in range(60)]
    with running_service(engine, profile_ms=10) as service, RawStream(service.stub) as stream:
        stream.open(format=pb.PIXEL_FORMAT_H264, budget_ms=20_000)
        results: list[pb.FrameResult] = []
        for sequence, unit in enumerate(grey_units(greys, PixelFormat.H264, key_every=60)):
            # A budget that cannot be kept: its frame is refused, not its unit.
            stream.frame(sequence, unit, budget_ms=1 if sequence % 3 == 2 else 0)
            if sequence % 20 == 19:
                service.settled(lambda status: status.ledger.superseded >= 5 * (len(results) // 20 + 1))  # noqa: B023
                gate.set()
                results += stream.results(20)
                gate.clear()
        service.settled(lambda status: status.ledger.in_flight == 0)
    count = Counter(verdicts(results))
    assert count["INFEASIBLE"] == 20
    assert min(count["SUPERSEDED"], count["OK"] - 2) > 0, count
    assert count["BAD_FRAME"] + count["REJECTED"] == 0, count
    inferred = [result for result in results if result.verdict == pb.VERDICT_OK]
    assert [grey_of(result) for result in inferred] == [greys[result.sequence] for result in inferred]


def test_a_stream_that_is_taken_up_again_begins_with_a_key_frame() -> None:
    units = grey_units(GREYS[:20], PixelFormat.H264, key_every=10)
    with running_service() as service:
        with RawStream(service.stub) as first:
            token = first.open(format=pb.PIXEL_FORMAT_H264, **QUEUE).resume_token
            for sequence in range(5):
                first.frame(sequence, units[sequence])
            assert verdicts(first.results(5)) == ["OK"] * 5
        with RawStream(service.stub) as again:
            again.open(format=pb.PIXEL_FORMAT_H264, resume_token=token, **QUEUE)
            for sequence in range(5, 20):
                again.frame(sequence, units[sequence])
            results = again.rest()
    assert verdicts(results) == ["BAD_FRAME"] * 5 + ["OK"] * 10
    assert "has not begun with a key frame" in results[0].message


def test_what_is_no_video_leaves_the_stream_open() -> None:
    unit = grey_units([45], PixelFormat.H264)[0]
    with running_service() as service, RawStream(service.stub) as stream:
        stream.open(format=pb.PIXEL_FORMAT_H264, **QUEUE)
        for sequence, data in enumerate([b"", grey_jpeg(15), b"\0\0\1", len(unit).to_bytes(4) + unit[4:], unit]):
            stream.frame(sequence, data)
        results = stream.rest()
    assert verdicts(results) == ["BAD_FRAME"] * 4 + ["OK"]
    assert "start code" in results[1].message
    assert "lengths" in results[3].message


def test_garbage_among_the_units_gets_its_answers_in_order() -> None:
    random_, units = random.Random(12), grey_units(GREYS[:10], PixelFormat.H264, key_every=5)
    with running_service() as service, RawStream(service.stub) as stream:
        stream.open(format=pb.PIXEL_FORMAT_H264, **QUEUE)
        results = []
        for sequence in range(300):
            unit = bytearray(units[sequence % 10])
            if sequence % 3:
                for _ in range(random_.choice((1, 20))):
                    unit[random_.randrange(len(unit))] ^= 1 << random_.randrange(8)
            stream.frame(sequence, bytes(unit[: random_.randrange(len(unit))] if sequence % 7 == 6 else unit))
            if sequence % 50 == 49:
                results += stream.results(50)
        ledger = service.status().ledger
    assert [result.sequence for result in results] == list(range(300))
    assert set(verdicts(results)) == {"OK", "BAD_FRAME"}
    assert (ledger.received, ledger.in_flight) == (300, 0)


def test_a_video_that_is_too_large_is_rejected_before_it_is_decoded() -> None:
    units = grey_units(GREYS[:4], PixelFormat.H265)
    with running_service(limits={"max_pixels": 64 * 47}) as service, RawStream(service.stub) as stream:
        stream.open(format=pb.PIXEL_FORMAT_H265, **QUEUE)
        for sequence, unit in enumerate(units):
            stream.frame(sequence, unit)
        results = stream.rest()
    assert verdicts(results) == ["REJECTED"] + ["BAD_FRAME"] * 3
    assert "64x48 pixels, at most 3008" in results[0].message


def test_a_single_picture_is_no_video() -> None:
    frame = pb.Frame(data=grey_units([45], PixelFormat.H264)[0])
    with running_service() as service, pytest.raises(grpc.RpcError) as caught:
        service.stub.Infer(pb.InferRequest(frame=frame, format=pb.PIXEL_FORMAT_H264))
    assert caught.value.code() == grpc.StatusCode.UNIMPLEMENTED
    assert "open a stream" in (caught.value.details() or "")


def test_without_pyav_the_refusal_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("foveate.service.ffmpeg_video.find_spec", lambda name: None)
    with running_service() as service, RawStream(service.stub) as stream:
        stream.send(pb.StreamRequest(open=pb.OpenStream(format=pb.PIXEL_FORMAT_H264)))
        error = stream.error()
        assert error.code() == grpc.StatusCode.UNIMPLEMENTED
        assert "foveate[camera]" in (error.details() or "")
        assert not service.status().streams


@pytest.mark.parametrize("live", [False, True])
def test_the_client_sends_units_like_pictures(live: bool) -> None:
    greys = [random.Random(10).choice(GREYS) for _ in range(25)]
    with running_service() as service, Client(service.address) as client:
        units = grey_units(greys, PixelFormat.H265)
        settings: StreamSettings = {"format": ClientFormat.H265, "budget_ms": 20_000, "delivery": Delivery.QUEUE}
        settings["queue_depth"] = 30
        with client.stream(units, live=live, **settings) as stream:
            results = list(stream)
    assert [result.verdict for result in results] == [Verdict.OK] * 25
    assert [int(result.detections.class_ids[0]) * 10 + 5 for result in results] == greys


def test_a_client_that_goes_leaves_nothing_behind() -> None:
    units = grey_units(GREYS[:10], PixelFormat.H264)
    with running_service() as service:
        for _ in range(5):
            stream = RawStream(service.stub)
            stream.open(format=pb.PIXEL_FORMAT_H264, budget_ms=5000)
            for sequence, unit in enumerate(units):
                stream.frame(sequence, unit)
            stream.result()
            stream.cancel()
        service.settled(lambda status: not status.streams and status.ledger.in_flight == 0)

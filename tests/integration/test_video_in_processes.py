"""Video streams where ingests and engines are processes of their own."""

from __future__ import annotations

import os
from functools import partial
from pathlib import Path

import pytest

from foveate.proto import vision_pb2 as pb
from foveate.service.frame import PixelFormat
from support.processes import ServiceOfProcesses, service_of_processes
from support.raw_stream import RawStream, verdicts
from support.service import GREYS, grey_of
from support.video_streams import grey_units
from support.waiting import until

VIDEO_ENGINE = "support.video_engine_process"
TESTS = Path(__file__).resolve().parents[1]
QUEUE = {"format": pb.PIXEL_FORMAT_H264, "budget_ms": 20_000, "delivery": pb.DELIVERY_QUEUE, "queue_depth": 64}


@pytest.fixture(autouse=True)
def children_find_the_tests(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(filter(None, [str(TESTS), os.environ.get("PYTHONPATH")])))


def test_streams_are_decoded_in_their_ingest_and_go_on_at_a_key_frame_in_another() -> None:
    greys = [*GREYS, *GREYS][:30]
    units = grey_units(greys, PixelFormat.H264, key_every=10)
    with service_of_processes(ingests=2) as service:
        streams = [RawStream(service.new_stub()) for _ in range(4)]
        tokens = [stream.open(**QUEUE).resume_token for stream in streams]
        for sequence in range(5):
            for stream in streams:
                stream.frame(sequence, units[sequence])
        for stream in streams:
            results = stream.results(5)
            assert [grey_of(result) for result in results] == greys[:5]
            assert all(0 < result.times.decode <= result.times.total for result in results)
        service.kill("ingest 0")
        service.kill("ingest 1")
        for stream in streams:
            stream.error()
        service.settled(lambda status: status.ledger.ok == 20)
        for token in tokens:
            with RawStream(service.new_stub()) as again:
                again.open(resume_token=token, **QUEUE)
                for sequence in range(5, 30):
                    again.frame(sequence, units[sequence])
                results = again.rest()
            assert verdicts(results) == ["BAD_FRAME"] * 5 + ["OK"] * 20
            assert [grey_of(result) for result in results[5:]] == greys[10:]


def started_again(service: ServiceOfProcesses, dead: int) -> bool:
    """Whether another ingest is there than the one that was killed."""
    return service.supervisor.processes.get("ingest 0", dead) != dead


def test_an_engine_process_decodes_and_a_dead_ingest_leaves_no_decoder_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FAKE_VIDEO_STREAMS", "3")
    units = grey_units(GREYS[:20], PixelFormat.H264, key_every=10)
    with service_of_processes(ingests=1, engine=VIDEO_ENGINE, video_decode="gpu") as service:
        for again in (False, True):  # in what the first three have left
            streams = [RawStream(service.new_stub()) for _ in range(3)]
            for stream in streams:
                stream.open(**QUEUE)
                stream.frame(0, units[0])
                assert grey_of(stream.result()) == GREYS[0]
            with RawStream(service.new_stub()) as one_more:
                one_more.open(**QUEUE)
                one_more.frame(0, units[0])
                assert verdicts(one_more.rest()) == ["REJECTED"]
            for stream in streams:
                for sequence in range(1, 20):
                    stream.frame(sequence, units[sequence])
                assert [grey_of(result) for result in stream.results(19)] == list(GREYS[1:20])
            if again:
                for stream in streams:
                    stream.cancel()
            else:
                dead = service.kill("ingest 0")
                for stream in streams:
                    stream.error()
                until(partial(started_again, service, dead))
                service.settled(lambda status: status.ledger.in_flight == 0)


def test_an_engine_process_that_is_killed_takes_its_decoders_along(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FAKE_LATENCY_S", "0.1")
    units = grey_units([GREYS[number % 20] for number in range(600)], PixelFormat.H264, key_every=10)
    with (
        service_of_processes(ingests=1, engine=VIDEO_ENGINE, video_decode="gpu") as service,
        RawStream(service.new_stub()) as stream,
    ):
        stream.open(**QUEUE)
        for sequence in range(25):
            stream.frame(sequence, units[sequence])
        assert [grey_of(result) for result in stream.results(4)] == list(GREYS[:4])
        dead = service.kill("engine cpu")
        results = stream.results(21)
        came = verdicts(results)
        assert came[-1] in ("FAILED", "BAD_FRAME")
        assert set(came) <= {"OK", "FAILED", "BAD_FRAME"}
        until(lambda: service.supervisor.processes.get("engine cpu", dead) != dead)
        service.settled(lambda status: len(status.engines) == 1)
        sequence, verdict = 25, ""
        while verdict != "OK":
            stream.frame(sequence, units[sequence])
            (result,) = stream.results(1)
            (verdict,) = verdicts([result])
            sequence += 1
        assert (sequence - 1) % 10 == 0, "at a key frame"
        assert grey_of(result) == GREYS[(sequence - 1) % 20]

"""Video streams where ingests and engines are processes of their own."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from foveate.proto import vision_pb2 as pb
from foveate.service.frame import PixelFormat
from support.processes import service_of_processes
from support.raw_stream import RawStream, verdicts
from support.service import GREYS, grey_of
from support.video_streams import grey_units

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

"""Cascades over the wire with engines that a test holds up or breaks: the detections come, whatever the crops do."""

from __future__ import annotations

import itertools
from typing import Any

import pytest

from foveate.engines.errors import RunFailed
from foveate.engines.fake import FakeEngine, Gate
from foveate.proto import vision_pb2 as pb
from support.cascades import shades_engine, shades_opening
from support.raw_stream import RawStream, verdicts
from support.service import fake_engine, grey_config, grey_jpeg, grey_of, running_service
from support.waiting import until

pytestmark = pytest.mark.usefixtures("boundary")

PIPELINES = {**grey_config(), "shades": grey_config()["grey"]}


def serving(classifier: FakeEngine, **stage: Any):  # type: ignore[no-untyped-def]
    """A running service with the cascade of `shades_opening`; the gate is opened at the end."""
    detector = fake_engine()
    opening = shades_opening(detector, classifier, **stage)
    return running_service(detector, opened_by=opening, pipelines=PIPELINES)


def shade_of(result: pb.FrameResult) -> str:
    """What the cascade said of the one detection."""
    ((attribute,),) = (detection.attributes for detection in result.detections)
    assert attribute.name == "shade"
    return str(attribute.label)


@pytest.fixture
def gate():  # type: ignore[no-untyped-def]
    """Shut, until the test opens it or ends."""
    gate = Gate()
    yield gate
    gate.set()


def frames_of(service: object, pipeline: str) -> tuple[int, int]:
    """Batches and frames that a pipeline's lane has run."""
    (lane,) = [lane for lane in service.status().engines if lane.pipeline == pipeline]  # type: ignore[attr-defined]
    return lane.batches, lane.frames


def test_every_detection_has_the_word_of_its_own_crop() -> None:
    with serving(shades_engine()) as service, RawStream(service.stub) as stream:
        stream.open(budget_ms=20_000, delivery=pb.DELIVERY_QUEUE, queue_depth=30)
        greys = [5 + 10 * (index % 25) for index in range(30)]
        for sequence, grey in enumerate(greys, 1):
            stream.frame(sequence, grey_jpeg(grey))
        results = stream.results(len(greys))
        assert [grey_of(result) for result in results] == greys
        assert [shade_of(result) for result in results] == [f"shade{grey // 10}" for grey in greys]
        assert all(result.times.cascade > 0 for result in results)
        status = service.settled(lambda status: status.ledger.ok == 30)
        assert (status.ledger.received, status.ledger.in_flight) == (30, 0), "crops are not in the books"
        assert frames_of(service, "shades")[1] == 30, "they are frames of the stage's lane"


def test_crops_of_many_streams_share_batches(gate: Gate) -> None:
    with serving(shades_engine(gate=gate)) as service:
        streams = [RawStream(service.stub) for _ in range(8)]
        for stream in streams:
            stream.open(budget_ms=20_000)
        sequence = batches = 0
        while batches == 8 * sequence:  # what comes too slowly for this engine shares no batch: once more
            assert sequence < 100, "no two crops ever shared a batch"
            sequence += 1
            gate.clear()
            for index, stream in enumerate(streams):
                stream.frame(sequence, grey_jpeg(5 + 10 * index))
            gate.wait_for_held()
            service.settled(lambda _: frames_of(service, "grey")[1] == 8 * sequence)  # noqa: B023
            gate.set()
            assert [shade_of(stream.result()) for stream in streams] == [f"shade{index}" for index in range(8)]
            batches, frames = frames_of(service, "shades")
            assert frames == 8 * sequence
        for stream in streams:
            stream.cancel()


def test_a_stage_that_hangs_costs_attributes_and_no_answer(gate: Gate) -> None:
    with serving(shades_engine(gate=gate)) as service, RawStream(service.stub) as stream:
        stream.open(budget_ms=600)
        numbers, answered = itertools.count(1), 0
        while answered < 4:
            stream.frame(next(numbers), grey_jpeg(15))
            result = stream.result()
            if result.verdict in (pb.VERDICT_INFEASIBLE, pb.VERDICT_EXPIRED):
                continue  # the machine was too busy for the detector: that is another matter
            assert verdicts([result]) == ["OK"]
            assert (result.attributes_missing, grey_of(result)) == (1, 15)
            assert result.message == "1 of 1 detections has no `shade`: the budget ran out"
            answered += 1
        gate.set()
        shades = 0

        def has_caught_up() -> bool:
            nonlocal shades
            stream.frame(next(numbers), grey_jpeg(25), budget_ms=20_000)
            result = stream.result()
            assert verdicts([result]) == ["OK"]
            if not result.attributes_missing:
                assert (shade_of(result), result.message) == ("shade2", "")
                shades += 1
            return shades == 3

        until(has_caught_up, "the lane has caught up")
        service.settled(lambda status: status.ledger.in_flight == 0)


def test_a_stage_that_fails_is_said() -> None:
    classifier = shades_engine(fail_when=lambda slot, batch: RunFailed("out of memory"))
    with serving(classifier) as service, RawStream(service.stub) as stream:
        stream.open(budget_ms=20_000)
        stream.frame(1, grey_jpeg(15))
        result = stream.result()
        assert (verdicts([result]), grey_of(result), result.attributes_missing) == (["OK"], 15, 1)
        assert "1 of 1 detections has no `shade`: " in result.message
        assert "out of memory" in result.message
        classifier.fail_when = None
        stream.frame(2, grey_jpeg(35))
        assert shade_of(stream.result()) == "shade3"


def test_a_client_that_goes_leaves_no_crop_behind(gate: Gate) -> None:
    with serving(shades_engine(gate=gate)) as service:
        with RawStream(service.stub) as stream:
            stream.open(budget_ms=20_000)
            stream.frame(1, grey_jpeg(15))
            gate.wait_for_held()
            stream.cancel()
            service.settled(lambda status: not status.streams and status.ledger.cancelled == 1)
        gate.set()
        with RawStream(service.stub) as stream:
            stream.open(budget_ms=20_000)
            stream.frame(1, grey_jpeg(25))
            assert shade_of(stream.result()) == "shade2"
        service.settled(lambda status: status.ledger.in_flight == 0 and status.ledger.ok == 1)


def test_a_half_closed_stream_still_gets_its_attributes(gate: Gate) -> None:
    with serving(shades_engine(gate=gate)) as service, RawStream(service.stub) as stream:
        stream.open(budget_ms=20_000)
        stream.frame(1, grey_jpeg(15))
        gate.wait_for_held()
        stream.half_close()
        gate.set()
        assert [shade_of(result) for result in stream.rest()] == ["shade1"]


def test_a_single_picture_has_its_cascade_too() -> None:
    with serving(shades_engine()) as service:
        for grey in (15, 45):
            frame = pb.Frame(data=grey_jpeg(grey), budget_ms=20_000)
            assert shade_of(service.stub.Infer(pb.InferRequest(frame=frame))) == f"shade{grey // 10}"
        assert frames_of(service, "shades")[1] == 2


def test_no_frame_is_refused_for_want_of_time_for_its_cascade() -> None:
    minute_ns = 60_000_000_000
    with serving(shades_engine(), expected_ns=minute_ns) as service, RawStream(service.stub) as stream:
        stream.open(budget_ms=20_000)
        # At first all that the budget spares is kept free, and the rest is next to nothing.
        for sequence in range(1, 6):
            stream.frame(sequence, grey_jpeg(35))
            result = stream.result()
            assert verdicts([result]) == ["OK"], result.message
            assert shade_of(result) == "shade3"

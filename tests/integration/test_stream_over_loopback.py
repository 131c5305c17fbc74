"""What a stream promises, over a real gRPC connection: one answer a frame, in order, on time or honestly not."""

from __future__ import annotations

import json
import random
import threading
from collections import Counter
from pathlib import Path
from typing import Any

import grpc
import pytest

from foveate.engines.fake import Gate
from foveate.proto import vision_pb2 as pb
from foveate.service.decode import Decoded, decode_into
from support.raw_stream import RawStream, verdicts
from support.service import GREYS, fake_engine, grey_jpeg, grey_of, running_service
from support.waiting import until

pytestmark = pytest.mark.usefixtures("boundary")


def test_every_frame_gets_its_own_answer_in_order() -> None:
    random_ = random.Random(4)
    with running_service() as service, RawStream(service.stub) as stream:
        opened = stream.open(stream_id="gate-7", budget_ms=20_000, delivery=pb.DELIVERY_QUEUE, queue_depth=64)
        assert (opened.stream_id, opened.budget_ms, opened.labels[3]) == ("gate-7", 20_000, "grey3")
        assert (opened.input_width, opened.engine.backend) == (32, "fake")
        greys = [random_.choice(GREYS) for _ in range(40)]
        for sequence, grey in enumerate(greys, start=1):
            stream.frame(sequence, grey_jpeg(grey))
        results = stream.rest()
    assert [result.sequence for result in results] == list(range(1, 41))
    assert verdicts(results) == ["OK"] * 40
    assert [grey_of(result) for result in results] == greys


def test_boxes_come_back_in_the_frames_own_pixels() -> None:
    with running_service() as service, RawStream(service.stub) as stream:
        stream.open(budget_ms=20_000)
        stream.frame(1, grey_jpeg(55, width=640, height=360))
        result = stream.result()
    (detection,) = result.detections
    box = detection.box
    assert (box.x, box.y, box.width, box.height) == pytest.approx((0, 0, 320, 360))
    assert (result.frame_width, result.frame_height, detection.label) == (640, 360, "grey5")


def test_streams_share_batches_and_never_swap_answers() -> None:
    gate = Gate()
    engine = fake_engine(gate=gate, max_batch=8)
    with running_service(engine, profile_ms=1) as service:
        streams = [RawStream(service.stub) for _ in range(6)]
        for stream in streams:
            stream.open(budget_ms=20_000)
        greys = [10 * index + 5 for index in range(6)]
        sequence, largest = 0, 0
        while sequence < 3 or largest == 1:  # what comes too slowly for this engine shares no batch: once more
            assert sequence < 100, "no two frames ever shared a batch"
            sequence += 1
            gate.clear()
            for stream, grey in zip(streams, greys, strict=True):
                stream.frame(sequence, grey_jpeg(grey))
            gate.wait_for_held()
            service.settled(lambda status: status.ledger.received == 6 * sequence)  # noqa: B023
            gate.set()
            results = [stream.result() for stream in streams]
            assert [grey_of(result) for result in results] == greys
            largest = max(result.batch_size for result in results)
        for stream in streams:
            stream.cancel()


def test_the_newest_frame_replaces_the_one_that_waits() -> None:
    gate = Gate()
    with running_service(fake_engine(gate=gate), slots=2) as service, RawStream(service.stub) as stream:
        stream.open(budget_ms=20_000)
        stream.frame(1, grey_jpeg(15))
        gate.wait_for_held()
        for sequence in range(2, 8):
            stream.frame(sequence, grey_jpeg(25))
        service.settled(lambda status: status.ledger.superseded >= 4)
        gate.set()
        results = stream.rest()
        status = service.status()
    counts = Counter(verdicts(results))
    assert [result.sequence for result in results] == list(range(1, 8))
    assert results[-1].verdict == pb.VERDICT_OK
    assert counts["OK"] + counts["SUPERSEDED"] == 7
    assert "newer frame" in results[-2].message or results[-2].verdict == pb.VERDICT_OK
    assert status.ledger.received == 7 == status.ledger.ok + status.ledger.superseded


def test_a_full_queue_rejects_and_says_so() -> None:
    gate = Gate()
    engine = fake_engine(gate=gate, max_batch=1)
    with running_service(engine, slots=2) as service, RawStream(service.stub) as stream:
        stream.open(budget_ms=20_000, delivery=pb.DELIVERY_QUEUE, queue_depth=3)
        for sequence in range(1, 11):
            stream.frame(sequence, grey_jpeg(15))
        service.settled(lambda status: status.ledger.received == 10 and status.ledger.rejected >= 4)
        gate.set()
        results = stream.rest()
    counts = Counter(verdicts(results))
    assert counts["OK"] + counts["REJECTED"] == 10
    assert 3 <= counts["OK"] <= 6
    rejected = next(result for result in results if result.verdict == pb.VERDICT_REJECTED)
    assert "queue holds 3" in rejected.message


def test_a_frame_that_cannot_make_its_budget_is_refused_at_once() -> None:
    with running_service(profile_ms=50) as service, RawStream(service.stub) as stream:
        stream.open(budget_ms=20_000)
        stream.frame(1, grey_jpeg(15), budget_ms=20)
        stream.frame(2, grey_jpeg(15), age_us=19_990_000)
        stream.frame(3, grey_jpeg(15))
        results = stream.results(3)
    assert verdicts(results) == ["INFEASIBLE", "INFEASIBLE", "OK"]
    assert "too late on arrival" in results[0].message
    assert results[0].batch_size == 0
    assert results[0].times.infer == 0


def test_a_frame_expires_when_the_engine_is_late() -> None:
    gate = Gate()
    engine = fake_engine(gate=gate, max_batch=1)
    with running_service(engine, profile_ms=20, slots=2) as service:
        streams = [RawStream(service.stub) for _ in range(3)]
        for stream, budget_ms in zip(streams, (20_000, 500, 500), strict=True):
            stream.open(budget_ms=budget_ms)
        streams[0].frame(1, grey_jpeg(15))
        gate.wait_for_held()
        # The one that waits for its turn in a slot, and the one behind it, cannot make it.
        for stream in streams[1:]:
            stream.frame(1, grey_jpeg(15))
        for stream in streams[1:]:
            sequence = 1
            while (answer := stream.result()).verdict == pb.VERDICT_INFEASIBLE:  # it was too late on its way in
                sequence += 1
                stream.frame(sequence, grey_jpeg(15))
            assert verdicts([answer]) == ["EXPIRED"]
        assert service.settled(lambda status: status.ledger.expired == 2).ledger.in_flight == 1
        gate.set()
        assert verdicts(streams[0].rest()) == ["OK"]
        for stream in streams:
            stream.cancel()


def test_stage_times_add_up_to_the_total() -> None:
    with running_service(fake_engine(0.01), profile_ms=10) as service, RawStream(service.stub) as stream:
        stream.open(budget_ms=20_000)
        stream.frame(1, grey_jpeg(15))
        times = stream.result().times
    stages = ("receive_queue", "decode", "wait", "copy_in", "infer", "copy_out", "postprocess", "reply_queue")
    total = sum(getattr(times, stage) for stage in stages)
    assert times.infer >= 10_000
    assert times.predicted >= 10_000
    assert total <= times.total + len(stages)
    assert times.total > 0


def test_the_engine_failing_fails_its_frames_and_no_others() -> None:
    failing = {"now": True}
    engine = fake_engine(fail_when=lambda slot, batch: RuntimeError("out of luck") if failing["now"] else None)
    with running_service(engine) as service, RawStream(service.stub) as stream:
        stream.open(budget_ms=20_000)
        stream.frame(1, grey_jpeg(15))
        first = stream.result()
        failing["now"] = False
        stream.frame(2, grey_jpeg(25))
        second = stream.result()
        status = service.status()
    assert verdicts([first, second]) == ["FAILED", "OK"]
    assert "out of luck" in first.message
    assert (status.ledger.failed, status.ledger.ok, status.ledger.in_flight) == (1, 1, 0)


def test_a_broken_stream_is_taken_up_again_by_its_token() -> None:
    with running_service() as service:
        with RawStream(service.stub) as stream:
            opened = stream.open(stream_id="dock", budget_ms=20_000)
            stream.frame(1, grey_jpeg(15))
            stream.result()
        service.settled(lambda status: not status.streams)
        with RawStream(service.stub) as stream:
            again = stream.open(resume_token=opened.resume_token, budget_ms=20_000)
            stream.frame(1, grey_jpeg(15))
            stream.frame(2, grey_jpeg(15))
            results = stream.results(2)
            (status,) = service.status().streams
    assert again.stream_id == "dock"
    assert verdicts(results) == ["REJECTED", "OK"]
    assert status.ledger.received == 3


def test_a_resumed_stream_takes_over_a_connection_that_only_looks_alive() -> None:
    with running_service() as service, RawStream(service.stub) as old, RawStream(service.stub) as new:
        token = old.open(stream_id="dock").resume_token
        assert new.open(resume_token=token).stream_id == "dock"
        assert old.error().code() == grpc.StatusCode.ALREADY_EXISTS
        new.frame(1, grey_jpeg(15), budget_ms=20_000)
        assert verdicts([new.result()]) == ["OK"]
        assert len(service.status().streams) == 1


def test_infer_answers_one_picture() -> None:
    with running_service() as service:
        frame = pb.Frame(sequence=9, data=grey_jpeg(85), budget_ms=20_000)
        result = service.stub.Infer(pb.InferRequest(frame=frame))
        assert (result.sequence, grey_of(result)) == (9, 85)
        bad = service.stub.Infer(pb.InferRequest(frame=pb.Frame(data=b"nonsense")))
        assert verdicts([bad]) == ["BAD_FRAME"]
        ledger = service.status().ledger
    assert (ledger.received, ledger.ok, ledger.bad_frame) == (2, 1, 1)


def test_how_long_answers_to_single_pictures_take_on_their_way_out_is_learned() -> None:
    with running_service() as service:
        opened = service.server._opened
        assert opened is not None
        latency = opened.device.lane("grey").latency

        def is_learned() -> bool:
            service.stub.Infer(pb.InferRequest(frame=pb.Frame(data=grey_jpeg(85), budget_ms=20_000)))
            return latency.reply_ns > 0

        until(is_learned)  # with each run what is known by then counts


def test_only_wanted_classes_and_scores_come_back() -> None:
    with running_service() as service, RawStream(service.stub) as stream:
        stream.open(classes=["grey3"], budget_ms=20_000, delivery=pb.DELIVERY_QUEUE)
        stream.frame(1, grey_jpeg(35))
        stream.frame(2, grey_jpeg(45), budget_ms=20_000)
        seen, unseen = stream.results(2)
        picky = pb.InferRequest(frame=pb.Frame(data=grey_jpeg(35), budget_ms=20_000), min_score=0.95)
        unsure = service.stub.Infer(picky)
    assert len(seen.detections) == 1
    assert len(unseen.detections) == 0
    assert len(unsure.detections) == 0


def test_pipelines_are_listed_with_the_reason_where_one_is_not_served() -> None:
    with running_service(unavailable={"objects": "run `foveate models fetch yolox_nano`"}) as service:
        reply = service.stub.ListPipelines(pb.ListPipelinesRequest())
    grey, objects = reply.pipelines
    assert (grey.name, grey.is_default, grey.state, grey.task) == ("grey", True, pb.Pipeline.STATE_READY, "detect")
    assert objects.state == pb.Pipeline.STATE_UNAVAILABLE
    assert "models fetch" in objects.message


def test_slow_decoding_holds_up_nobody_else(monkeypatch: pytest.MonkeyPatch) -> None:
    """A batch that is decoded overtakes one that is not."""
    decoding, go_on = threading.Event(), threading.Event()

    def slow_for_wide_frames(row: Any, data: Any, kind: Any, size: tuple[int, int], model: Any) -> Decoded:
        if size[0] == 320:
            decoding.set()
            assert go_on.wait(50)
        return decode_into(row, data, kind, size, model)

    monkeypatch.setattr("foveate.service.whole_frame.decode_into", slow_for_wide_frames)
    with running_service() as service, RawStream(service.stub) as slow, RawStream(service.stub) as quick:
        for stream in (slow, quick):
            stream.open(budget_ms=20_000)
        slow.frame(1, grey_jpeg(15, width=320))
        assert decoding.wait(40)
        for sequence in range(1, 6):
            quick.frame(sequence, grey_jpeg(25))
            assert grey_of(quick.result()) == 25
        go_on.set()
        assert grey_of(slow.result()) == 15


def test_what_waits_is_bounded_in_bytes() -> None:
    gate = Gate()
    limits = {"max_waiting_bytes": 64 * 48 * 3 * 4}
    raw = {"format": pb.PIXEL_FORMAT_RAW_RGB, "width": 64, "height": 48, "delivery": pb.DELIVERY_QUEUE}
    with (
        running_service(fake_engine(gate=gate, max_batch=1), limits=limits) as service,
        RawStream(service.stub) as stream,
    ):
        stream.open(budget_ms=20_000, queue_depth=20, **raw)
        for sequence in range(1, 11):
            stream.frame(sequence, bytes([45]) * 64 * 48 * 3)
        service.settled(lambda status: status.ledger.received == 10)
        gate.set()
        results = stream.results(10)
        stream.frame(11, bytes([45]) * 64 * 48 * 3)
        assert verdicts([stream.result()]) == ["OK"]
    assert Counter(verdicts(results)) == {"OK": 4, "REJECTED": 6}
    assert "unanswered bytes" in results[-1].message


def test_a_resumed_stream_keeps_its_guarantee() -> None:
    with running_service(profile_ms=10) as service, RawStream(service.stub) as old, RawStream(service.stub) as new:
        opened = old.open(budget_ms=200, fps=200)
        assert opened.grant == pb.GRANT_GUARANTEED
        assert new.open(budget_ms=200, fps=200, resume_token=opened.resume_token).grant == pb.GRANT_GUARANTEED


def test_guaranteed_until_the_engine_is_spoken_for() -> None:
    with running_service(profile_ms=10) as service:  # a batch of four in 10 ms: 400 frames/s, 340 to be promised
        streams = [RawStream(service.stub) for _ in range(3)]
        opened = [stream.open(budget_ms=200, fps=160) for stream in streams]
        for stream in streams:
            stream.cancel()
    grants = [pb.Grant.Name(each.grant) for each in opened]
    assert grants == ["GRANT_GUARANTEED", "GRANT_GUARANTEED", "GRANT_BEST_EFFORT"]
    assert opened[2].advised_fps < 160


def test_answers_do_not_depend_on_the_clients_clock() -> None:
    """Nothing on the wire is a wall clock: a frame's age is a duration that the client measures itself."""
    for message in (pb.OpenStream, pb.Frame, pb.FrameResult, pb.StageTimes, pb.StreamOpened):
        names = [field.name for field in message.DESCRIPTOR.fields]
        assert not [name for name in names if "timestamp" in name or name.endswith("_at")]


def test_a_stream_hears_of_a_changed_rate_before_its_next_answer() -> None:
    with running_service(profile_ms=10) as service, RawStream(service.stub) as first, RawStream(service.stub) as other:
        before = first.open(budget_ms=200).advised_fps  # it does not say how much it sends: all is its own
        other.open(budget_ms=200, fps=200, priority=0)
        less = first.advised_rate()
        assert less < before
        assert other.rest() == []
        assert first.advised_rate() > less


def test_traced_frames_show_their_stages_and_their_batch(tmp_path: Path) -> None:
    file = tmp_path / "trace.json"
    with running_service(trace=file, trace_sample=2) as service, RawStream(service.stub) as stream:
        stream.open(stream_id="door", budget_ms=20_000)
        for sequence in range(1, 6):
            stream.frame(sequence, grey_jpeg(15))
            stream.result()
        stream.frame(6, b"nonsense")
        stream.result()
        for _ in range(2):
            service.stub.Infer(pb.InferRequest(frame=pb.Frame(sequence=9, data=grey_jpeg(15), budget_ms=20_000)))
    events = json.loads(file.read_text())
    frames = [event for event in events if event["name"] == "frame" and event["ph"] == "X"]
    assert [(event["args"]["sequence"], event["args"]["verdict"]) for event in frames] == [
        (2, "ok"),
        (4, "ok"),
        (6, "bad_frame"),
        (9, "ok"),
    ]
    spans = [event for event in events if event["ph"] == "X"]
    assert Counter(event["name"] for event in spans)["infer"] == 3
    for whole in frames[:2]:
        ends = whole["ts"] + whole["dur"]
        inside = [event for event in spans if whole["ts"] <= event["ts"] and event["ts"] + event["dur"] <= ends + 0.01]
        assert {"receive queue", "decode", "wait", "batch", "infer", "postprocess", "reply queue"} <= {
            event["name"] for event in inside
        }
    arrows = Counter(event["ph"] for event in events if event.get("cat") == "frame")
    assert arrows == {"s": 3, "t": 3, "f": 3}

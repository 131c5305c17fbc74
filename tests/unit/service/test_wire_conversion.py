"""Messages to the service's own types and back: nothing is forgotten, nothing makes no sense, nothing overflows."""

from __future__ import annotations

import enum
from collections.abc import Iterator
from dataclasses import asdict, fields, replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from foveate.engines.errors import FoveateError, LimitExceeded, ProtocolError, UnsupportedFormat
from foveate.engines.fake import FakeEngine
from foveate.models.outputs import Classes, DecodeOptions, Detections, Embedding
from foveate.proto import vision_pb2 as pb
from foveate.service import convert
from foveate.service.config import Limits
from foveate.service.frame import (
    Answer,
    Delivery,
    Frame,
    Grant,
    PixelFormat,
    SharedMemoryRef,
    StageTimes,
    Verdict,
)
from foveate.service.lane import Lane
from foveate.service.ledger import Ledger
from foveate.service.opening import new_slots
from foveate.service.pipeline import Pipeline, PipelineSet, Unavailable
from foveate.service.stream import DrainNotice, RateNotice
from foveate.service.whole_service import StreamStatus
from support.cascades import cascade_stage, classifier_model
from support.frames import MS, camera_stream, colour_model, latency_model, stream_options
from support.service import fake_detector

FRAME = Frame(7, 0, 1, b"")
UINT32_MAX = 2**32 - 1


@pytest.fixture(scope="module")
def lane() -> Iterator[Lane]:
    engine = FakeEngine("colour", max_batch=4)
    engine.load()
    slots = new_slots("colour", engine, 2)
    lane = Lane("colour", engine, latency_model(lambda batch: (9 + batch) * MS, (1, 4)), slots)
    yield lane
    lane.close()


@pytest.fixture(scope="module")
def pipeline(lane: Lane) -> Pipeline:
    return Pipeline("colour", colour_model(32, 24), lane.status().engine, DecodeOptions(0.25, 100), 2)


def result(answer: Answer, labels: tuple[str, ...] = ()) -> pb.FrameResult:
    return convert.result_message(FRAME, answer, labels, 12.5)


def enum_names(values: Any, prefix: str) -> set[str]:
    return {name.removeprefix(prefix) for name in values.keys()}  # noqa: SIM118 - not a mapping


@pytest.mark.parametrize(
    ("ours", "theirs", "prefix", "not_ours"),
    [
        (Verdict, pb.Verdict, "VERDICT_", {"UNSPECIFIED"}),
        (PixelFormat, pb.PixelFormat, "PIXEL_FORMAT_", set()),
        (Delivery, pb.Delivery, "DELIVERY_", set()),
        (Grant, pb.Grant, "GRANT_", {"UNSPECIFIED"}),
    ],
)
def test_each_enumeration_has_the_members_of_the_wires(
    ours: type[enum.Enum], theirs: Any, prefix: str, not_ours: set[str]
) -> None:
    assert {member.name for member in ours} == enum_names(theirs, prefix) - not_ours


@pytest.mark.parametrize("verdict", list(Verdict))
def test_every_verdict_is_told_with_its_message(verdict: Verdict) -> None:
    message = result(Answer(verdict, "why"))
    assert pb.Verdict.Name(message.verdict) == f"VERDICT_{verdict.name}"
    assert (message.sequence, message.message, message.advised_fps) == (7, "why", 12.5)


def test_every_stage_time_is_told_in_microseconds() -> None:
    names = [field.name for field in fields(StageTimes)]
    times = StageTimes(**{name: (index + 1) * 1_000_000 + 400 for index, name in enumerate(names)})
    message = result(Answer(Verdict.OK, times=times)).times
    assert names == [field.name for field in pb.StageTimes.DESCRIPTOR.fields], "the wire has the same stages"
    assert {name: getattr(message, name) for name in names} == {name: (i + 1) * 1000 for i, name in enumerate(names)}


@given(st.integers(-(2**63), 2**63), st.integers(0, 2**63))
def test_times_and_sizes_that_the_wire_cannot_hold_are_held_at_its_ends(nanoseconds: int, pixels: int) -> None:
    names = [field.name for field in fields(StageTimes)]
    times = StageTimes(**dict.fromkeys(names, nanoseconds))
    message = result(Answer(Verdict.OK, times=times, frame_width=pixels, frame_height=pixels))
    for name in names:
        assert getattr(message.times, name) == min(max(0, round(nanoseconds / 1000)), UINT32_MAX)
    assert message.frame_width == message.frame_height == min(pixels, UINT32_MAX)


def test_an_answer_that_ran_says_where() -> None:
    message = result(Answer(Verdict.OK, frame_width=640, frame_height=480, batch_size=3, engine="a/b/c/d"))
    assert (message.frame_width, message.frame_height) == (640, 480)
    assert (message.batch_size, message.engine) == (3, "a/b/c/d")


def test_detections_become_boxes_with_labels_and_keypoints() -> None:
    output = Detections(
        boxes=np.array([[10, 20, 40, 60], [0, 0, 1, 2]], np.float32),
        scores=np.array([0.75, 0.5], np.float32),
        class_ids=np.array([1, 9], np.int64),
        keypoints=np.array([[[11, 21, 0.25], [12, 22, 0.5]], [[0, 0, 0], [1, 1, 1]]], np.float32),
    )
    first, second = result(Answer(Verdict.OK, output=output), ("cat", "dog")).detections
    assert (first.box.x, first.box.y, first.box.width, first.box.height) == (10, 20, 30, 40)
    assert (first.class_id, first.label, first.score, first.track_id) == (1, "dog", 0.75, 0)
    assert [(point.x, point.y, point.score) for point in first.keypoints] == [(11, 21, 0.25), (12, 22, 0.5)]
    assert (second.class_id, second.label) == (9, "9"), "a class without a label is told by its number"
    bare = Detections(output.boxes, output.scores, output.class_ids)
    assert not result(Answer(Verdict.OK, output=bare)).detections[0].keypoints


def test_nothing_detected_is_an_empty_answer() -> None:
    none = Detections(np.empty((0, 4), np.float32), np.empty(0, np.float32), np.empty(0, np.int64))
    assert not result(Answer(Verdict.OK, output=none)).detections


def test_classes_and_embeddings_are_told() -> None:
    classes = Classes(np.array([1, 0], np.int64), np.array([0.75, 0.25], np.float32))
    told = result(Answer(Verdict.OK, output=classes), ("cat", "dog")).classes
    assert [(each.id, each.label, each.score) for each in told] == [(1, "dog", 0.75), (0, "cat", 0.25)]
    vector = np.arange(5, dtype=np.float32)
    assert list(result(Answer(Verdict.OK, output=Embedding(vector))).embedding) == vector.tolist()


def test_an_open_message_fills_in_the_defaults(pipeline: Pipeline) -> None:
    options = convert.options_from_open(pb.OpenStream(), pipeline, 250, Limits())
    assert options == stream_options(budget_ms=250, view=DecodeOptions(0.25, 100))


def test_an_open_message_is_taken_over_field_by_field(pipeline: Pipeline) -> None:
    message = pb.OpenStream(
        fps=29.97,
        budget_ms=80,
        priority=3,
        weight=2.5,
        delivery=pb.DELIVERY_QUEUE,
        queue_depth=17,
        format=pb.PIXEL_FORMAT_RAW_NV12,
        width=640,
        height=480,
        min_score=0.5,
        max_detections=9,
        classes=["colour"],
    )
    options = convert.options_from_open(message, pipeline, 250, Limits())
    assert options == stream_options(
        budget_ms=80,
        fps=29.97,
        priority=3,
        weight=2.5,
        delivery=Delivery.QUEUE,
        queue_depth=17,
        format=PixelFormat.RAW_NV12,
        width=640,
        height=480,
        view=DecodeOptions(0.5, 9, frozenset({0})),
    )


@pytest.mark.parametrize(
    ("wrong", "error", "named"),
    [
        ({"fps": -1.0}, ProtocolError, "fps"),
        ({"fps": float("nan")}, ProtocolError, "fps"),
        ({"fps": float("inf")}, ProtocolError, "fps"),
        ({"weight": -1.0}, ProtocolError, "weight"),
        ({"weight": float("nan")}, ProtocolError, "weight"),
        ({"weight": 1e-9}, ProtocolError, "weight"),
        ({"weight": 1e9}, ProtocolError, "weight"),
        ({"queue_depth": 257}, LimitExceeded, "queue_depth 257"),
        ({"delivery": 99}, ProtocolError, "delivery 99"),
        ({"format": 99}, UnsupportedFormat, "pixel format 99"),
        ({"format": pb.PIXEL_FORMAT_RAW_RGB, "width": 3}, ProtocolError, "width and height, got 3x0"),
        ({"format": pb.PIXEL_FORMAT_RAW_NV12, "width": 3, "height": 2}, ProtocolError, "even sides, got 3x2"),
        ({"min_score": 1.5}, ProtocolError, "min_score"),
        ({"min_score": float("nan")}, ProtocolError, "min_score"),
        ({"classes": ["colour", "bird"]}, ProtocolError, "no label 'bird'; it has colour"),
    ],
)
def test_a_field_that_makes_no_sense_is_named(
    wrong: dict[str, Any], error: type[FoveateError], named: str, pipeline: Pipeline
) -> None:
    with pytest.raises(error, match=named):
        convert.options_from_open(pb.OpenStream(**wrong), pipeline, 250, Limits())
    shared = set(wrong) & {field.name for field in pb.InferRequest.DESCRIPTOR.fields}
    if shared == set(wrong):
        with pytest.raises(error, match=named):
            convert.options_from_infer(pb.InferRequest(**wrong), pipeline, 250)


def test_a_single_picture_has_the_budget_of_its_frame(pipeline: Pipeline) -> None:
    request = pb.InferRequest(frame=pb.Frame(budget_ms=40), priority=2, min_score=0.5)
    options = convert.options_from_infer(request, pipeline, 250)
    assert options == stream_options(budget_ms=40, priority=2, view=DecodeOptions(0.5, 100))
    assert convert.options_from_infer(pb.InferRequest(), pipeline, 250).budget_ns == 250 * MS


def test_a_deadline_is_the_budget_less_the_age() -> None:
    options, now_ns = stream_options(budget_ms=100), 5_000 * MS
    frame = convert.frame_from_message(pb.Frame(sequence=3, data=b"pixels"), options, now_ns)
    assert frame == Frame(3, now_ns, now_ns + 100 * MS, b"pixels")
    aged = convert.frame_from_message(pb.Frame(age_us=30_000, budget_ms=50), options, now_ns)
    assert aged.deadline_ns == now_ns + 20 * MS
    dead = convert.frame_from_message(pb.Frame(age_us=UINT32_MAX), options, now_ns)
    assert dead.deadline_ns < now_ns


def test_a_frame_may_lie_in_shared_memory() -> None:
    where = pb.SharedMemory(name="foveate-door", offset=2**40, size=2**33)
    frame = convert.frame_from_message(pb.Frame(shared_memory=where), stream_options(), 0)
    assert frame.data == SharedMemoryRef("foveate-door", 2**40, 2**33)


def test_opening_tells_all_that_a_client_needs(pipeline: Pipeline) -> None:
    stream = camera_stream("door", window=11, budget_ms=80)
    stream.grant, stream.smallest_budget_ns = Grant.GUARANTEED, int(20.5 * MS)
    message = convert.opened_message(stream, pipeline, 14.0)
    told = {field.name for field, _ in message.ListFields()}
    assert told == {field.name for field in pb.StreamOpened.DESCRIPTOR.fields}, "no field is left out"
    assert (message.stream_id, message.window, message.budget_ms) == ("door", 11, 80)
    assert (message.grant, message.advised_fps) == (pb.GRANT_GUARANTEED, 14.0)
    assert message.smallest_budget_ms == pytest.approx(2 * 10 + 0.5)
    assert (message.input_width, message.input_height) == (32, 24)
    assert list(message.labels) == ["colour"]
    assert (message.engine.name, message.engine.backend, message.engine.device) == ("colour", "fake", "cpu")
    assert message.resume_token == stream.resume_token


def test_pipelines_are_told_served_or_not(pipeline: Pipeline) -> None:
    birds = Unavailable("birds", "yolo", "fetch it first")
    everything = PipelineSet({"colour": pipeline, "birds": birds}, "colour")
    served = convert.pipeline_message(pipeline, everything, smallest_budget_ns=20 * MS)
    told = {field.name for field, _ in served.ListFields()}
    assert told == {field.name for field in pb.Pipeline.DESCRIPTOR.fields} - {"message", "cascade"}
    assert (served.state, served.task, served.licence) == (pb.Pipeline.STATE_READY, "embed", "Apache-2.0")
    missing = convert.pipeline_message(birds, everything)
    assert (missing.name, missing.model, missing.message) == ("birds", "yolo", "fetch it first")
    assert missing.state == pb.Pipeline.STATE_UNAVAILABLE
    assert not missing.is_default


def test_a_pipelines_cascade_is_told_by_stage_with_what_its_attributes_say(pipeline: Pipeline) -> None:
    kinds = replace(pipeline, name="kinds", model=classifier_model(("car", "van")))
    looked_at = (
        cascade_stage("kind", "kinds", class_ids=frozenset({2, 0})),
        cascade_stage("look", "colour"),
        cascade_stage("sort", "birds"),
    )
    detector = replace(pipeline, name="street", model=fake_detector(), cascade=looked_at)
    lost = Unavailable("birds", "yolo", "it was lost")
    everything = PipelineSet({"street": detector, "colour": pipeline, "kinds": kinds, "birds": lost}, "colour")
    message = convert.pipeline_message(detector, everything)
    kind, look, sort = message.cascade
    assert (kind.name, kind.pipeline, kind.model, kind.task) == ("kind", "kinds", "tiny_classify", "classify")
    assert (list(kind.labels), list(kind.classes)) == (["car", "van"], ["grey0", "grey2"])
    assert (look.model, look.task, list(look.labels), list(look.classes)) == ("colour", "embed", [], [])
    assert (sort.pipeline, sort.model, sort.task) == ("birds", "yolo", ""), "which is not served any more"


def test_an_engines_status_has_its_profile_as_it_is_tracked(lane: Lane) -> None:
    message = convert.engine_status_message(lane.status())
    assert [(point.batch, point.latency_ms) for point in message.profile] == [(1, 10.0), (4, 13.0)]
    assert (message.pipeline, message.batch_cap, message.margin_ms) == ("colour", 4, 0.5)


def test_a_streams_status_has_its_ledger() -> None:
    ledger = Ledger(received=1)
    message = convert.stream_status_message(
        StreamStatus("door", "colour", Grant.BEST_EFFORT, 80 * MS, 2, 3.0, 0.5, ledger)
    )
    assert (message.stream_id, message.pipeline, message.budget_ms) == ("door", "colour", 80)
    assert (message.priority, message.advised_fps, message.grant) == (2, 3.0, pb.GRANT_BEST_EFFORT)
    assert message.open_s == 0.5
    assert message.ledger == pb.Ledger(received=1, in_flight=1)


def test_every_count_of_the_ledger_is_told() -> None:
    counts = {name: index for index, name in enumerate(asdict(Ledger()), start=1)}
    ledger = Ledger(**counts)
    ledger.received = 1000
    told = {field.name: value for field, value in convert.ledger_message(ledger).ListFields()}
    assert told == {**counts, "received": 1000, "in_flight": ledger.in_flight}
    assert set(told) == {field.name for field in pb.Ledger.DESCRIPTOR.fields}


def test_a_changed_rate_is_told() -> None:
    message = convert.notice_message(RateNotice(12.5))
    assert (message.kind, message.advised_fps) == (pb.Notice.KIND_ADVISED_RATE, 12.5)


def test_a_drain_is_told_with_its_grace() -> None:
    message = convert.notice_message(DrainNotice(2500))
    assert message == pb.Notice(kind=pb.Notice.KIND_DRAIN, grace_ms=2500)

"""From protobuf messages to the client's own types, without loss."""

from __future__ import annotations

from dataclasses import fields

import numpy as np
import pytest

from foveate.client import Attribute, CascadeStage, ClassScore, Detections, Ledger, PixelFormat, Result, Verdict
from foveate.client.convert import (
    infer_message,
    open_message,
    pipeline_from_message,
    result_from_message,
    status_from_message,
)
from foveate.client.frame import Payload
from foveate.client.frame_flow import SentFrame
from foveate.client.result import StageTimes
from foveate.client.settings import Delivery, StreamSettings
from foveate.proto import vision_pb2

SENT = SentFrame(sequence=5, payload=Payload(b"picture", None, 0), sent_at=10.0, age_s=0.004)


def result(**fields: object) -> Result:
    message = vision_pb2.FrameResult(sequence=5, **fields)  # type: ignore[arg-type]
    return result_from_message(message, SENT, now=10.25, stream_budget_ms=100)


def detection(**fields: object) -> vision_pb2.Detection:
    return vision_pb2.Detection(**fields)  # type: ignore[arg-type]


def test_detections_become_arrays() -> None:
    points = [vision_pb2.Keypoint(x=1, y=2, score=0.5), vision_pb2.Keypoint(x=3, y=4, score=0.25)]
    said = vision_pb2.Attribute(name="mask", id=1, label="worn", score=0.75)
    seen = result(
        detections=[
            detection(
                box=vision_pb2.Box(x=10, y=20, width=30, height=40),
                class_id=3,
                label="face",
                score=0.5,
                track_id=9,
                keypoints=points,
                attributes=[said],
            ),
            detection(box=vision_pb2.Box(x=1, y=2, width=3, height=4), keypoints=points[:1]),
        ]
    ).detections
    assert isinstance(seen, Detections)
    assert len(seen) == 2
    np.testing.assert_array_equal(seen.boxes, np.array([[10, 20, 40, 60], [1, 2, 4, 6]], np.float32))
    assert seen.boxes.dtype == np.float32
    np.testing.assert_array_equal(seen.scores, np.array([0.5, 0.0], np.float32))
    assert (list(seen.class_ids), list(seen.track_ids), seen.labels) == ([3, 0], [9, 0], ("face", ""))
    assert seen.attributes == ((Attribute("mask", 1, "worn", 0.75),), ())
    assert seen.keypoints is not None
    np.testing.assert_array_equal(seen.keypoints[0], [[1, 2, 0.5], [3, 4, 0.25]])
    np.testing.assert_array_equal(seen.keypoints[1], [[1, 2, 0.5], [np.nan] * 3])


def test_nothing_seen_has_the_shapes_of_nothing() -> None:
    seen = result().detections
    assert (len(seen), seen.boxes.shape, seen.keypoints, seen.labels) == (0, (0, 4), None, ())


def test_classes_and_embeddings_arrive() -> None:
    seen = result(classes=[vision_pb2.ClassScore(id=2, label="cat", score=0.5)], embedding=[0.5, -1.0], batch_size=4)
    assert seen.classes == (ClassScore(2, "cat", 0.5),)
    assert seen.embedding is not None
    np.testing.assert_array_equal(seen.embedding, np.array([0.5, -1.0], np.float32))
    assert seen.batch_size == 4


def test_every_stage_time_arrives_in_milliseconds() -> None:
    fields = vision_pb2.StageTimes.DESCRIPTOR.fields_by_name
    times = vision_pb2.StageTimes(**{name: 1500 * number for number, name in enumerate(fields, 1)})
    expected = StageTimes(**{f"{name}_ms": 1.5 * number for number, name in enumerate(fields, 1)})
    assert result(times=times).times == expected


def test_times_and_budget_of_a_frame() -> None:
    seen = result(verdict=vision_pb2.VERDICT_OK, times=vision_pb2.StageTimes(total=96_000))
    assert (seen.round_trip_ms, seen.age_ms, seen.budget_ms) == (250.0, 4.0, 100)
    assert seen.on_time
    assert not result(verdict=vision_pb2.VERDICT_OK, times=vision_pb2.StageTimes(total=96_001)).on_time
    assert not result(verdict=vision_pb2.VERDICT_FAILED).on_time


@pytest.mark.parametrize("name", [name for name, number in vision_pb2.Verdict.items() if number])
def test_every_verdict_of_the_wire_has_its_word(name: str) -> None:
    verdict = result(verdict=vision_pb2.Verdict.Value(name)).verdict
    assert f"VERDICT_{verdict.name}" == name


@pytest.mark.parametrize("number", [0, 77])
def test_a_verdict_of_a_newer_server_is_unknown(number: int) -> None:
    assert result(verdict=number).verdict is Verdict.UNKNOWN


@pytest.mark.parametrize("pixel_format", list(PixelFormat))
def test_every_format_is_on_the_wire(pixel_format: PixelFormat) -> None:
    request = open_message({"format": pixel_format}, "")
    assert vision_pb2.PixelFormat.Name(request.open.format) == f"PIXEL_FORMAT_{pixel_format.name}"


@pytest.mark.parametrize("delivery", list(Delivery))
def test_every_delivery_is_on_the_wire(delivery: Delivery) -> None:
    request = open_message({"delivery": delivery}, "token")
    assert vision_pb2.Delivery.Name(request.open.delivery) == f"DELIVERY_{delivery.name}"
    assert request.open.resume_token == "token"


def test_every_count_of_the_ledger_has_its_field() -> None:
    wire = [field.name for field in vision_pb2.Ledger.DESCRIPTOR.fields]
    assert sorted(field.name for field in fields(Ledger)) == sorted(wire)


def test_every_setting_of_the_wire_can_be_said() -> None:
    wire = {field.name for field in vision_pb2.OpenStream.DESCRIPTOR.fields}
    assert set(StreamSettings.__annotations__) == wire - {"resume_token"}


def test_a_single_picture_carries_its_budget_in_the_frame() -> None:
    sent = SentFrame(1, Payload(b"picture", None, 70), 0.0, 0.002)
    request = infer_message(sent, {"pipeline": "faces", "max_detections": 3, "classes": ("face",)})
    assert (request.pipeline, request.max_detections, list(request.classes)) == ("faces", 3, ["face"])
    assert (request.frame.budget_ms, request.frame.age_us, request.frame.data) == (70, 2000, b"picture")


def test_what_the_server_says_of_itself_arrives_whole() -> None:
    engine = vision_pb2.EngineDescription(name="m", backend="b", precision="p", device="d")
    ledger = vision_pb2.Ledger(received=9, ok=7, expired=2)
    status = status_from_message(
        vision_pb2.GetStatusReply(
            version="1",
            draining=True,
            engines=[
                vision_pb2.EngineStatus(
                    engine=engine, profile=[vision_pb2.ProfilePoint(batch=4, latency_ms=2.5)], busy_share=0.5
                )
            ],
            streams=[vision_pb2.StreamStatus(stream_id="door", grant=vision_pb2.GRANT_GUARANTEED, ledger=ledger)],
            ledger=ledger,
        )
    )
    assert status.draining
    assert status.engines[0].latency_ms_by_batch == {4: 2.5}
    assert (status.streams[0].stream_id, status.streams[0].grant) == ("door", "guaranteed")
    assert (status.ledger.received, status.ledger.ok, status.ledger.expired, status.ledger.late) == (9, 7, 2, 0)
    pipeline = pipeline_from_message(
        vision_pb2.Pipeline(name="faces", state=vision_pb2.Pipeline.STATE_UNAVAILABLE, message="no weights")
    )
    assert (pipeline.name, pipeline.ready, pipeline.message) == ("faces", False, "no weights")
    assert pipeline.cascade == ()


def test_a_pipelines_cascade_is_read() -> None:
    stage = vision_pb2.CascadeStage(
        name="kind", pipeline="kinds", model="resnet", task="classify", labels=["car", "van"], classes=["vehicle"]
    )
    assert {field.name for field, _ in stage.ListFields()} == {field.name for field in stage.DESCRIPTOR.fields}
    pipeline = pipeline_from_message(vision_pb2.Pipeline(name="street", cascade=[stage]))
    assert pipeline.cascade == (CascadeStage("kind", "kinds", "resnet", "classify", ("car", "van"), ("vehicle",)),)

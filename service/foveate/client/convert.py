"""Protobuf messages from and to the client's own types. Nothing else in the client reads or fills in a
message."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import fields
from typing import Any

import numpy as np
from numpy.typing import NDArray

from foveate.client.frame_flow import SentFrame
from foveate.client.result import (
    Attribute,
    ClassScore,
    Detections,
    Result,
    StageTimes,
    Verdict,
    no_detections,
)
from foveate.client.schedule import Outcome
from foveate.client.server_info import (
    CascadeStage,
    EngineDescription,
    EngineStatus,
    Grant,
    Ledger,
    PipelineInfo,
    ServerStatus,
    StreamInfo,
    StreamStatus,
)
from foveate.client.settings import Delivery, PictureSettings, PixelFormat, StreamSettings
from foveate.proto import vision_pb2

__all__ = [
    "frame_message",
    "infer_message",
    "open_message",
    "outcome_from_message",
    "pipeline_from_message",
    "result_from_message",
    "scheduled_frame_message",
    "status_from_message",
    "stream_info_from_message",
]

_VERDICTS = {number: name.removeprefix("VERDICT_") for name, number in vision_pb2.Verdict.items()}
_GRANTS = {number: name.removeprefix("GRANT_") for name, number in vision_pb2.Grant.items()}
_LEDGER_FIELDS = tuple(field.name for field in fields(Ledger))


def open_message(settings: StreamSettings, resume_token: str) -> vision_pb2.StreamRequest:
    """The first message of a stream. Raises: TypeError for a setting that does not exist."""
    said = _wire_fields(settings)
    return vision_pb2.StreamRequest(open=vision_pb2.OpenStream(**said, resume_token=resume_token))


def frame_message(sent: SentFrame) -> vision_pb2.StreamRequest:
    """One frame of a stream."""
    return vision_pb2.StreamRequest(frame=_frame(sent))


def scheduled_frame_message(sequence: int, age_us: int, budget_ms: int, data: bytes) -> vision_pb2.StreamRequest:
    """One frame of a load tool's stream."""
    return vision_pb2.StreamRequest(
        frame=vision_pb2.Frame(sequence=sequence, age_us=min(age_us, 0xFFFF_FFFF), budget_ms=budget_ms, data=data)
    )


def infer_message(sent: SentFrame, settings: PictureSettings) -> vision_pb2.InferRequest:
    """One picture alone. Raises: TypeError for a setting that does not exist."""
    said = _wire_fields(settings)
    frame, budget_ms = _frame(sent), said.pop("budget_ms", 0)
    frame.budget_ms = frame.budget_ms or budget_ms
    return vision_pb2.InferRequest(**said, frame=frame)


def outcome_from_message(message: vision_pb2.FrameResult, due_at: float, sent_at: float, budget_ms: float) -> Outcome:
    """What became of a scheduled frame, of which the answer came now."""
    times = message.times
    return Outcome(
        due_at=due_at,
        sent_at=sent_at,
        answered_at=time.monotonic(),
        verdict=_verdict(message),
        total_ms=times.total / 1e3,
        infer_ms=times.infer / 1e3,
        decode_ms=times.decode / 1e3,
        batch_size=message.batch_size,
        budget_ms=budget_ms,
    )


def result_from_message(
    message: vision_pb2.FrameResult, sent: SentFrame, now: float, stream_budget_ms: float
) -> Result:
    """The answer to a frame that was sent, received `now` on the clock of `sent`."""
    return Result(
        sequence=sent.sequence,
        verdict=_verdict(message),
        message=message.message,
        budget_ms=sent.payload.budget_ms or stream_budget_ms,
        age_ms=sent.age_s * 1e3,
        round_trip_ms=(now - sent.sent_at) * 1e3,
        detections=_detections(message.detections),
        classes=tuple(ClassScore(c.id, c.label, c.score) for c in message.classes),
        embedding=np.array(message.embedding, np.float32) if message.embedding else None,
        frame_width=message.frame_width,
        frame_height=message.frame_height,
        times=_stage_times(message.times),
        batch_size=message.batch_size,
        engine=message.engine,
        advised_fps=message.advised_fps,
        attributes_missing=message.attributes_missing,
    )


def stream_info_from_message(opened: vision_pb2.StreamOpened) -> StreamInfo:
    """What the server said of a stream."""
    return StreamInfo(
        stream_id=opened.stream_id,
        grant=_grant(opened.grant),
        advised_fps=opened.advised_fps,
        window=opened.window,
        smallest_budget_ms=opened.smallest_budget_ms,
        budget_ms=opened.budget_ms,
        engine=_engine(opened.engine),
        labels=tuple(opened.labels),
        input_width=opened.input_width,
        input_height=opened.input_height,
        resume_token=opened.resume_token,
    )


def pipeline_from_message(pipeline: vision_pb2.Pipeline) -> PipelineInfo:
    """What a server said of one of its pipelines."""
    return PipelineInfo(
        name=pipeline.name,
        is_default=pipeline.is_default,
        ready=pipeline.state == vision_pb2.Pipeline.STATE_READY,
        message=pipeline.message,
        model=pipeline.model,
        task=pipeline.task,
        engine=_engine(pipeline.engine),
        labels=tuple(pipeline.labels),
        input_width=pipeline.input_width,
        input_height=pipeline.input_height,
        smallest_budget_ms=pipeline.smallest_budget_ms,
        licence=pipeline.licence,
        cascade=tuple(_cascade_stage(stage) for stage in pipeline.cascade),
    )


def _cascade_stage(stage: vision_pb2.CascadeStage) -> CascadeStage:
    return CascadeStage(stage.name, stage.pipeline, stage.model, stage.task, tuple(stage.labels), tuple(stage.classes))


def status_from_message(status: vision_pb2.GetStatusReply) -> ServerStatus:
    """What a server said of itself."""
    return ServerStatus(
        version=status.version,
        uptime_s=status.uptime_s,
        draining=status.draining,
        engines=tuple(_engine_status(engine) for engine in status.engines),
        streams=tuple(_stream_status(stream) for stream in status.streams),
        ledger=_ledger(status.ledger),
    )


def _wire_fields(settings: PictureSettings | StreamSettings) -> dict[str, Any]:
    unknown = settings.keys() - StreamSettings.__annotations__.keys()
    if unknown:
        known = ", ".join(sorted(StreamSettings.__annotations__))
        raise TypeError(f"no such setting: {', '.join(sorted(unknown))}; there are {known}")
    said: dict[str, Any] = dict(settings)
    if "format" in said:
        said["format"] = vision_pb2.PixelFormat.Value(f"PIXEL_FORMAT_{PixelFormat(said['format']).name}")
    if "delivery" in said:
        said["delivery"] = vision_pb2.Delivery.Value(f"DELIVERY_{Delivery(said['delivery']).name}")
    return said


def _verdict(message: vision_pb2.FrameResult) -> Verdict:
    return Verdict.__members__.get(_VERDICTS.get(message.verdict, ""), Verdict.UNKNOWN)


def _frame(sent: SentFrame) -> vision_pb2.Frame:
    return vision_pb2.Frame(
        sequence=sent.sequence,
        age_us=min(int(sent.age_s * 1e6), 0xFFFF_FFFF),
        budget_ms=sent.payload.budget_ms,
        data=sent.payload.data,
    )


def _attribute(message: vision_pb2.Attribute) -> Attribute:
    return Attribute(message.name, message.id, message.label, message.score, tuple(message.embedding))


def _detections(messages: Sequence[vision_pb2.Detection]) -> Detections:
    if not messages:
        return no_detections()
    corner_size = np.array([(d.box.x, d.box.y, d.box.width, d.box.height) for d in messages], np.float32)
    corner_size[:, 2:] += corner_size[:, :2]
    return Detections(
        boxes=corner_size,
        scores=np.array([d.score for d in messages], np.float32),
        class_ids=np.array([d.class_id for d in messages], np.int64),
        labels=tuple(d.label for d in messages),
        # 64 bits either way: a tracker that counted to 2**63 would have run for longer than the hardware.
        track_ids=np.array([d.track_id for d in messages], np.uint64).astype(np.int64),
        keypoints=_keypoints(messages),
        attributes=tuple(tuple(map(_attribute, d.attributes)) for d in messages),
    )


def _keypoints(messages: Sequence[vision_pb2.Detection]) -> NDArray[np.float32] | None:
    most = max(len(d.keypoints) for d in messages)
    if most == 0:
        return None
    points = np.full((len(messages), most, 3), np.nan, np.float32)
    for row, detection in zip(points, messages, strict=True):
        for point, keypoint in zip(row, detection.keypoints, strict=False):
            point[:] = keypoint.x, keypoint.y, keypoint.score
    return points


def _stage_times(times: vision_pb2.StageTimes) -> StageTimes:
    return StageTimes(
        receive_queue_ms=times.receive_queue / 1e3,
        decode_ms=times.decode / 1e3,
        wait_ms=times.wait / 1e3,
        copy_in_ms=times.copy_in / 1e3,
        infer_ms=times.infer / 1e3,
        copy_out_ms=times.copy_out / 1e3,
        postprocess_ms=times.postprocess / 1e3,
        cascade_ms=times.cascade / 1e3,
        reply_queue_ms=times.reply_queue / 1e3,
        total_ms=times.total / 1e3,
        predicted_ms=times.predicted / 1e3,
    )


def _grant(number: int) -> Grant:
    return Grant.__members__.get(_GRANTS.get(number, ""), Grant.UNSPECIFIED)


def _engine(engine: vision_pb2.EngineDescription) -> EngineDescription:
    return EngineDescription(engine.name, engine.backend, engine.precision, engine.device)


def _ledger(ledger: vision_pb2.Ledger) -> Ledger:
    return Ledger(**{name: getattr(ledger, name) for name in _LEDGER_FIELDS})


def _engine_status(status: vision_pb2.EngineStatus) -> EngineStatus:
    return EngineStatus(
        pipeline=status.pipeline,
        engine=_engine(status.engine),
        latency_ms_by_batch={point.batch: point.latency_ms for point in status.profile},
        busy_share=status.busy_share,
        margin_ms=status.margin_ms,
        waiting=status.waiting,
        batches=status.batches,
        frames=status.frames,
        batch_cap=status.batch_cap,
    )


def _stream_status(status: vision_pb2.StreamStatus) -> StreamStatus:
    return StreamStatus(
        stream_id=status.stream_id,
        pipeline=status.pipeline,
        grant=_grant(status.grant),
        budget_ms=status.budget_ms,
        priority=status.priority,
        advised_fps=status.advised_fps,
        open_s=status.open_s,
        ledger=_ledger(status.ledger),
    )

"""The wire's messages to the service's own types, and back. The only module that knows both."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence

from foveate.engines.contract import EngineInfo
from foveate.engines.errors import LimitExceeded, ProtocolError, UnsupportedFormat
from foveate.models.outputs import Classes, DecodeOptions, Detections, Embedding
from foveate.proto import vision_pb2 as pb
from foveate.service.boundary import LaneStatus
from foveate.service.config import Limits
from foveate.service.frame import (
    Answer,
    Delivery,
    Frame,
    Grant,
    PixelFormat,
    SharedMemoryRef,
    StageTimes,
    StreamOptions,
    Verdict,
)
from foveate.service.ledger import Ledger
from foveate.service.pipeline import CascadeStage, Pipeline, PipelineSet, Unavailable
from foveate.service.stream import CameraStream, DrainNotice, RateNotice
from foveate.service.whole_service import StreamStatus

__all__ = [
    "engine_message",
    "engine_status_message",
    "frame_from_message",
    "ledger_message",
    "notice_message",
    "opened_message",
    "options_from_infer",
    "options_from_open",
    "pipeline_message",
    "result_message",
    "stream_status_message",
]

_DEFAULT_QUEUE_DEPTH = 8
_WEIGHTS = (0.001, 1000.0)
"""Beyond them a stream would hold the others off for ever, or be held off."""
_LOWEST_PRIORITY = 15
_STREAM_ID = re.compile(r"[\x21-\x7e]{0,128}")
"""It stands in logs and in every status."""
_MS = 1_000_000
_US = 1_000
_UINT32_MAX = 0xFFFF_FFFF
_FORMATS = {getattr(pb, f"PIXEL_FORMAT_{kind.name}"): kind for kind in PixelFormat}
_DELIVERIES = {getattr(pb, f"DELIVERY_{kind.name}"): kind for kind in Delivery}
_GRANTS = {kind: getattr(pb, f"GRANT_{kind.name}") for kind in Grant}
_VERDICTS = {verdict: getattr(pb, f"VERDICT_{verdict.name}") for verdict in Verdict}


def options_from_open(message: pb.OpenStream, pipeline: Pipeline, budget_ms: int, limits: Limits) -> StreamOptions:
    """What a stream asks for, with defaults filled in.

    Raises: ProtocolError or UnsupportedFormat naming the field that makes no sense, LimitExceeded.
    """
    if not (math.isfinite(message.fps) and message.fps >= 0):
        raise ProtocolError(f"fps must be a number of at least 0, not {message.fps}")
    weight = message.weight or 1.0
    if not _WEIGHTS[0] <= weight <= _WEIGHTS[1]:
        raise ProtocolError(f"weight must be {_WEIGHTS[0]:g}..{_WEIGHTS[1]:g}, not {weight}")
    depth = message.queue_depth or _DEFAULT_QUEUE_DEPTH
    if depth > limits.max_queue_depth:
        raise LimitExceeded(f"queue_depth {depth} is above this server's limit of {limits.max_queue_depth}")
    if message.delivery not in _DELIVERIES:
        raise ProtocolError(f"delivery {message.delivery} is unknown: expected LATEST or QUEUE")
    if not _STREAM_ID.fullmatch(message.stream_id):
        raise ProtocolError("stream_id must be at most 128 printable ASCII characters without a space")
    return StreamOptions(
        pipeline=pipeline.name,
        budget_ns=(message.budget_ms or budget_ms) * _MS,
        fps=message.fps,
        priority=_priority(message.priority),
        weight=weight,
        delivery=_DELIVERIES[message.delivery],
        queue_depth=depth,
        format=_format(message.format, message.width, message.height),
        width=message.width,
        height=message.height,
        view=_view(message.min_score, message.max_detections, message.classes, pipeline),
    )


def options_from_infer(message: pb.InferRequest, pipeline: Pipeline, budget_ms: int) -> StreamOptions:
    """What a single picture asks for. Raises: as `options_from_open`."""
    if (kind := _FORMATS.get(message.format)) and kind.video:
        raise UnsupportedFormat(
            f"{kind.name} is decoded along a stream, not for single pictures: open a stream, or send JPEG, PNG or WebP"
        )
    return StreamOptions(
        pipeline=pipeline.name,
        budget_ns=(message.frame.budget_ms or budget_ms) * _MS,
        priority=_priority(message.priority),
        format=_format(message.format, message.width, message.height),
        width=message.width,
        height=message.height,
        view=_view(message.min_score, message.max_detections, message.classes, pipeline),
    )


def frame_from_message(message: pb.Frame, options: StreamOptions, now_ns: int) -> Frame:
    """A frame received at `now_ns`. Its deadline: now + its budget - the age that it had when it was sent."""
    budget_ns = message.budget_ms * _MS or options.budget_ns
    data: bytes | SharedMemoryRef = message.data
    if message.WhichOneof("pixels") == "shared_memory":
        where = message.shared_memory
        data = SharedMemoryRef(where.name, where.offset, where.size)
    return Frame(message.sequence, now_ns, now_ns + budget_ns - message.age_us * _US, data)


def result_message(frame: Frame, answer: Answer, labels: Sequence[str], advised_fps: float) -> pb.FrameResult:
    """The answer to a frame as the wire's message."""
    message = pb.FrameResult(
        sequence=frame.sequence,
        verdict=_VERDICTS[answer.verdict],
        message=answer.message,
        frame_width=min(answer.frame_width, _UINT32_MAX),
        frame_height=min(answer.frame_height, _UINT32_MAX),
        times=_times_message(answer.times),
        batch_size=answer.batch_size,
        engine=answer.engine,
        advised_fps=advised_fps,
        attributes_missing=answer.attributes_missing,
    )
    output = answer.output
    if isinstance(output, Detections):
        _add_detections(message, output, labels)
        _add_tracks_and_attributes(message, answer)
    elif isinstance(output, Classes):
        for index, score in zip(output.class_ids.tolist(), output.scores.tolist(), strict=True):
            message.classes.add(id=index, label=_label(labels, index), score=score)
    elif isinstance(output, Embedding):
        message.embedding.extend(output.vector.tolist())
    return message


def opened_message(stream: CameraStream, pipeline: Pipeline, advised_fps: float) -> pb.StreamOpened:
    """What a stream is told when it has been opened."""
    return pb.StreamOpened(
        stream_id=stream.stream_id,
        grant=_GRANTS[stream.grant],
        advised_fps=advised_fps,
        window=stream.window,
        smallest_budget_ms=stream.smallest_budget_ns / _MS,
        engine=engine_message(pipeline.engine),
        labels=pipeline.model.labels,
        input_width=pipeline.model.manifest.input.width_px,
        input_height=pipeline.model.manifest.input.height_px,
        resume_token=stream.resume_token,
        budget_ms=stream.options.budget_ns // _MS,
    )


def notice_message(notice: DrainNotice | RateNotice) -> pb.Notice:
    """What a stream is told between its answers."""
    if isinstance(notice, RateNotice):
        return pb.Notice(kind=pb.Notice.KIND_ADVISED_RATE, advised_fps=notice.advised_fps)
    return pb.Notice(kind=pb.Notice.KIND_DRAIN, grace_ms=notice.grace_ms)


def pipeline_message(
    pipeline: Pipeline | Unavailable, pipelines: PipelineSet, smallest_budget_ns: int = 0
) -> pb.Pipeline:
    """A configured pipeline, served or not; `pipelines` are all, whose models its cascade may run."""
    is_default = pipeline.name == pipelines.default
    if isinstance(pipeline, Unavailable):
        return pb.Pipeline(
            name=pipeline.name,
            is_default=is_default,
            state=pb.Pipeline.STATE_UNAVAILABLE,
            message=pipeline.reason,
            model=pipeline.model,
        )
    manifest = pipeline.model.manifest
    return pb.Pipeline(
        name=pipeline.name,
        is_default=is_default,
        state=pb.Pipeline.STATE_READY,
        model=manifest.name,
        task=manifest.task,
        engine=engine_message(pipeline.engine),
        labels=pipeline.model.labels,
        input_width=manifest.input.width_px,
        input_height=manifest.input.height_px,
        smallest_budget_ms=smallest_budget_ns / _MS,
        licence=manifest.licence,
        cascade=[_stage_message(stage, pipeline, pipelines) for stage in pipeline.cascade],
    )


def _stage_message(stage: CascadeStage, detector: Pipeline, pipelines: PipelineSet) -> pb.CascadeStage:
    message = pb.CascadeStage(
        name=stage.name,
        pipeline=stage.pipeline,
        classes=[detector.model.labels[each] for each in sorted(stage.class_ids or ())],
    )
    runs_on = pipelines.all.get(stage.pipeline)
    if isinstance(runs_on, Pipeline):
        manifest = runs_on.model.manifest
        message.model, message.task = manifest.name, manifest.task
        if manifest.task == "classify":
            message.labels.extend(runs_on.model.labels)
    elif runs_on:
        message.model = runs_on.model
    return message


def engine_message(info: EngineInfo) -> pb.EngineDescription:
    return pb.EngineDescription(name=info.name, backend=info.backend, precision=info.precision, device=info.device)


def engine_status_message(lane: LaneStatus) -> pb.EngineStatus:
    """How a pipeline's engine stands."""
    return pb.EngineStatus(
        pipeline=lane.pipeline,
        engine=engine_message(lane.engine),
        profile=[pb.ProfilePoint(batch=batch, latency_ms=latency_ns / _MS) for batch, latency_ns in lane.profile],
        busy_share=lane.busy_share,
        margin_ms=lane.margin_ns / _MS,
        waiting=lane.waiting,
        batches=lane.batches,
        frames=lane.frames,
        batch_cap=lane.batch_cap,
    )


def stream_status_message(stream: StreamStatus) -> pb.StreamStatus:
    """How a stream stands."""
    return pb.StreamStatus(
        stream_id=stream.stream_id,
        pipeline=stream.pipeline,
        grant=_GRANTS[stream.grant],
        budget_ms=stream.budget_ns // _MS,
        priority=stream.priority,
        advised_fps=stream.advised_fps,
        open_s=stream.open_s,
        ledger=ledger_message(stream.ledger),
    )


def ledger_message(ledger: Ledger) -> pb.Ledger:
    return pb.Ledger(
        received=ledger.received,
        in_flight=ledger.in_flight,
        late=ledger.late,
        cancelled=ledger.cancelled,
        undelivered=ledger.undelivered,
        **{verdict.value: getattr(ledger, verdict.value) for verdict in Verdict},
    )


def _priority(value: int) -> int:
    if value > _LOWEST_PRIORITY:
        raise ProtocolError(f"priority must be a class of 0..{_LOWEST_PRIORITY}, not {value}")
    return value


def _format(value: int, width: int, height: int) -> PixelFormat:
    kind = _FORMATS.get(value)
    if kind is None:
        raise UnsupportedFormat(f"pixel format {value} is unknown to this server")
    if kind.raw and not (width and height):
        raise ProtocolError(f"{kind.name} frames have no header: give their width and height, got {width}x{height}")
    if kind is PixelFormat.RAW_NV12 and (width % 2 or height % 2):
        raise ProtocolError(f"RAW_NV12 frames have even sides, got {width}x{height}")
    return kind


def _view(min_score: float, max_detections: int, classes: Sequence[str], pipeline: Pipeline) -> DecodeOptions:
    if not 0.0 <= min_score <= 1.0:
        raise ProtocolError(f"min_score must be 0..1, not {min_score}")
    default = pipeline.default_view
    return DecodeOptions(
        min_score=min_score or default.min_score,
        max_detections=max_detections or default.max_detections,
        class_ids=pipeline.class_ids(classes) if classes else None,
    )


def _add_detections(message: pb.FrameResult, output: Detections, labels: Sequence[str]) -> None:
    columns = zip(output.boxes.tolist(), output.class_ids.tolist(), output.scores.tolist(), strict=True)
    points = None if output.keypoints is None else output.keypoints.tolist()
    for row, ((x1, y1, x2, y2), index, score) in enumerate(columns):
        detection = message.detections.add(class_id=index, label=_label(labels, index), score=score)
        detection.box.x, detection.box.y = x1, y1
        detection.box.width, detection.box.height = x2 - x1, y2 - y1
        for x, y, confidence in points[row] if points else ():
            detection.keypoints.add(x=x, y=y, score=confidence)


def _add_tracks_and_attributes(message: pb.FrameResult, answer: Answer) -> None:
    for detection, track_id in zip(message.detections, answer.track_ids, strict=False):
        detection.track_id = track_id
    for detection, attributes in zip(message.detections, answer.attributes, strict=False):
        for said in attributes:
            vector = () if said.embedding is None else said.embedding.tolist()
            detection.attributes.add(
                name=said.name, id=said.class_id, label=said.label, score=said.score, embedding=vector
            )


def _times_message(times: StageTimes) -> pb.StageTimes:
    return pb.StageTimes(
        **{name: min(max(0, round(getattr(times, name) / _US)), _UINT32_MAX) for name in StageTimes.__slots__}
    )


def _label(labels: Sequence[str], index: int) -> str:
    return labels[index] if index < len(labels) else str(index)

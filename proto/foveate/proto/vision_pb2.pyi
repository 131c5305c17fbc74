from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class PixelFormat(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    PIXEL_FORMAT_AUTO: _ClassVar[PixelFormat]
    PIXEL_FORMAT_JPEG: _ClassVar[PixelFormat]
    PIXEL_FORMAT_PNG: _ClassVar[PixelFormat]
    PIXEL_FORMAT_WEBP: _ClassVar[PixelFormat]
    PIXEL_FORMAT_H264: _ClassVar[PixelFormat]
    PIXEL_FORMAT_H265: _ClassVar[PixelFormat]
    PIXEL_FORMAT_RAW_RGB: _ClassVar[PixelFormat]
    PIXEL_FORMAT_RAW_BGR: _ClassVar[PixelFormat]
    PIXEL_FORMAT_RAW_NV12: _ClassVar[PixelFormat]

class Delivery(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    DELIVERY_LATEST: _ClassVar[Delivery]
    DELIVERY_QUEUE: _ClassVar[Delivery]

class Grant(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    GRANT_UNSPECIFIED: _ClassVar[Grant]
    GRANT_GUARANTEED: _ClassVar[Grant]
    GRANT_BEST_EFFORT: _ClassVar[Grant]

class Verdict(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    VERDICT_UNSPECIFIED: _ClassVar[Verdict]
    VERDICT_OK: _ClassVar[Verdict]
    VERDICT_SUPERSEDED: _ClassVar[Verdict]
    VERDICT_INFEASIBLE: _ClassVar[Verdict]
    VERDICT_EXPIRED: _ClassVar[Verdict]
    VERDICT_BAD_FRAME: _ClassVar[Verdict]
    VERDICT_REJECTED: _ClassVar[Verdict]
    VERDICT_FAILED: _ClassVar[Verdict]
    VERDICT_DRAINING: _ClassVar[Verdict]
PIXEL_FORMAT_AUTO: PixelFormat
PIXEL_FORMAT_JPEG: PixelFormat
PIXEL_FORMAT_PNG: PixelFormat
PIXEL_FORMAT_WEBP: PixelFormat
PIXEL_FORMAT_H264: PixelFormat
PIXEL_FORMAT_H265: PixelFormat
PIXEL_FORMAT_RAW_RGB: PixelFormat
PIXEL_FORMAT_RAW_BGR: PixelFormat
PIXEL_FORMAT_RAW_NV12: PixelFormat
DELIVERY_LATEST: Delivery
DELIVERY_QUEUE: Delivery
GRANT_UNSPECIFIED: Grant
GRANT_GUARANTEED: Grant
GRANT_BEST_EFFORT: Grant
VERDICT_UNSPECIFIED: Verdict
VERDICT_OK: Verdict
VERDICT_SUPERSEDED: Verdict
VERDICT_INFEASIBLE: Verdict
VERDICT_EXPIRED: Verdict
VERDICT_BAD_FRAME: Verdict
VERDICT_REJECTED: Verdict
VERDICT_FAILED: Verdict
VERDICT_DRAINING: Verdict

class StreamRequest(_message.Message):
    __slots__ = ("open", "frame")
    OPEN_FIELD_NUMBER: _ClassVar[int]
    FRAME_FIELD_NUMBER: _ClassVar[int]
    open: OpenStream
    frame: Frame
    def __init__(self, open: _Optional[_Union[OpenStream, _Mapping]] = ..., frame: _Optional[_Union[Frame, _Mapping]] = ...) -> None: ...

class OpenStream(_message.Message):
    __slots__ = ("pipeline", "stream_id", "fps", "budget_ms", "priority", "weight", "delivery", "queue_depth", "format", "width", "height", "min_score", "max_detections", "classes", "resume_token")
    PIPELINE_FIELD_NUMBER: _ClassVar[int]
    STREAM_ID_FIELD_NUMBER: _ClassVar[int]
    FPS_FIELD_NUMBER: _ClassVar[int]
    BUDGET_MS_FIELD_NUMBER: _ClassVar[int]
    PRIORITY_FIELD_NUMBER: _ClassVar[int]
    WEIGHT_FIELD_NUMBER: _ClassVar[int]
    DELIVERY_FIELD_NUMBER: _ClassVar[int]
    QUEUE_DEPTH_FIELD_NUMBER: _ClassVar[int]
    FORMAT_FIELD_NUMBER: _ClassVar[int]
    WIDTH_FIELD_NUMBER: _ClassVar[int]
    HEIGHT_FIELD_NUMBER: _ClassVar[int]
    MIN_SCORE_FIELD_NUMBER: _ClassVar[int]
    MAX_DETECTIONS_FIELD_NUMBER: _ClassVar[int]
    CLASSES_FIELD_NUMBER: _ClassVar[int]
    RESUME_TOKEN_FIELD_NUMBER: _ClassVar[int]
    pipeline: str
    stream_id: str
    fps: float
    budget_ms: int
    priority: int
    weight: float
    delivery: Delivery
    queue_depth: int
    format: PixelFormat
    width: int
    height: int
    min_score: float
    max_detections: int
    classes: _containers.RepeatedScalarFieldContainer[str]
    resume_token: str
    def __init__(self, pipeline: _Optional[str] = ..., stream_id: _Optional[str] = ..., fps: _Optional[float] = ..., budget_ms: _Optional[int] = ..., priority: _Optional[int] = ..., weight: _Optional[float] = ..., delivery: _Optional[_Union[Delivery, str]] = ..., queue_depth: _Optional[int] = ..., format: _Optional[_Union[PixelFormat, str]] = ..., width: _Optional[int] = ..., height: _Optional[int] = ..., min_score: _Optional[float] = ..., max_detections: _Optional[int] = ..., classes: _Optional[_Iterable[str]] = ..., resume_token: _Optional[str] = ...) -> None: ...

class SharedMemory(_message.Message):
    __slots__ = ("name", "offset", "size")
    NAME_FIELD_NUMBER: _ClassVar[int]
    OFFSET_FIELD_NUMBER: _ClassVar[int]
    SIZE_FIELD_NUMBER: _ClassVar[int]
    name: str
    offset: int
    size: int
    def __init__(self, name: _Optional[str] = ..., offset: _Optional[int] = ..., size: _Optional[int] = ...) -> None: ...

class Frame(_message.Message):
    __slots__ = ("sequence", "age_us", "budget_ms", "data", "shared_memory")
    SEQUENCE_FIELD_NUMBER: _ClassVar[int]
    AGE_US_FIELD_NUMBER: _ClassVar[int]
    BUDGET_MS_FIELD_NUMBER: _ClassVar[int]
    DATA_FIELD_NUMBER: _ClassVar[int]
    SHARED_MEMORY_FIELD_NUMBER: _ClassVar[int]
    sequence: int
    age_us: int
    budget_ms: int
    data: bytes
    shared_memory: SharedMemory
    def __init__(self, sequence: _Optional[int] = ..., age_us: _Optional[int] = ..., budget_ms: _Optional[int] = ..., data: _Optional[bytes] = ..., shared_memory: _Optional[_Union[SharedMemory, _Mapping]] = ...) -> None: ...

class StreamReply(_message.Message):
    __slots__ = ("opened", "result", "notice")
    OPENED_FIELD_NUMBER: _ClassVar[int]
    RESULT_FIELD_NUMBER: _ClassVar[int]
    NOTICE_FIELD_NUMBER: _ClassVar[int]
    opened: StreamOpened
    result: FrameResult
    notice: Notice
    def __init__(self, opened: _Optional[_Union[StreamOpened, _Mapping]] = ..., result: _Optional[_Union[FrameResult, _Mapping]] = ..., notice: _Optional[_Union[Notice, _Mapping]] = ...) -> None: ...

class EngineDescription(_message.Message):
    __slots__ = ("name", "backend", "precision", "device")
    NAME_FIELD_NUMBER: _ClassVar[int]
    BACKEND_FIELD_NUMBER: _ClassVar[int]
    PRECISION_FIELD_NUMBER: _ClassVar[int]
    DEVICE_FIELD_NUMBER: _ClassVar[int]
    name: str
    backend: str
    precision: str
    device: str
    def __init__(self, name: _Optional[str] = ..., backend: _Optional[str] = ..., precision: _Optional[str] = ..., device: _Optional[str] = ...) -> None: ...

class StreamOpened(_message.Message):
    __slots__ = ("stream_id", "grant", "advised_fps", "window", "smallest_budget_ms", "engine", "labels", "input_width", "input_height", "resume_token", "budget_ms")
    STREAM_ID_FIELD_NUMBER: _ClassVar[int]
    GRANT_FIELD_NUMBER: _ClassVar[int]
    ADVISED_FPS_FIELD_NUMBER: _ClassVar[int]
    WINDOW_FIELD_NUMBER: _ClassVar[int]
    SMALLEST_BUDGET_MS_FIELD_NUMBER: _ClassVar[int]
    ENGINE_FIELD_NUMBER: _ClassVar[int]
    LABELS_FIELD_NUMBER: _ClassVar[int]
    INPUT_WIDTH_FIELD_NUMBER: _ClassVar[int]
    INPUT_HEIGHT_FIELD_NUMBER: _ClassVar[int]
    RESUME_TOKEN_FIELD_NUMBER: _ClassVar[int]
    BUDGET_MS_FIELD_NUMBER: _ClassVar[int]
    stream_id: str
    grant: Grant
    advised_fps: float
    window: int
    smallest_budget_ms: float
    engine: EngineDescription
    labels: _containers.RepeatedScalarFieldContainer[str]
    input_width: int
    input_height: int
    resume_token: str
    budget_ms: int
    def __init__(self, stream_id: _Optional[str] = ..., grant: _Optional[_Union[Grant, str]] = ..., advised_fps: _Optional[float] = ..., window: _Optional[int] = ..., smallest_budget_ms: _Optional[float] = ..., engine: _Optional[_Union[EngineDescription, _Mapping]] = ..., labels: _Optional[_Iterable[str]] = ..., input_width: _Optional[int] = ..., input_height: _Optional[int] = ..., resume_token: _Optional[str] = ..., budget_ms: _Optional[int] = ...) -> None: ...

class Notice(_message.Message):
    __slots__ = ("kind", "grace_ms", "advised_fps", "opened")
    class Kind(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
        __slots__ = ()
        KIND_UNSPECIFIED: _ClassVar[Notice.Kind]
        KIND_DRAIN: _ClassVar[Notice.Kind]
        KIND_ADVISED_RATE: _ClassVar[Notice.Kind]
        KIND_CONFIG_CHANGED: _ClassVar[Notice.Kind]
    KIND_UNSPECIFIED: Notice.Kind
    KIND_DRAIN: Notice.Kind
    KIND_ADVISED_RATE: Notice.Kind
    KIND_CONFIG_CHANGED: Notice.Kind
    KIND_FIELD_NUMBER: _ClassVar[int]
    GRACE_MS_FIELD_NUMBER: _ClassVar[int]
    ADVISED_FPS_FIELD_NUMBER: _ClassVar[int]
    OPENED_FIELD_NUMBER: _ClassVar[int]
    kind: Notice.Kind
    grace_ms: int
    advised_fps: float
    opened: StreamOpened
    def __init__(self, kind: _Optional[_Union[Notice.Kind, str]] = ..., grace_ms: _Optional[int] = ..., advised_fps: _Optional[float] = ..., opened: _Optional[_Union[StreamOpened, _Mapping]] = ...) -> None: ...

class Box(_message.Message):
    __slots__ = ("x", "y", "width", "height")
    X_FIELD_NUMBER: _ClassVar[int]
    Y_FIELD_NUMBER: _ClassVar[int]
    WIDTH_FIELD_NUMBER: _ClassVar[int]
    HEIGHT_FIELD_NUMBER: _ClassVar[int]
    x: float
    y: float
    width: float
    height: float
    def __init__(self, x: _Optional[float] = ..., y: _Optional[float] = ..., width: _Optional[float] = ..., height: _Optional[float] = ...) -> None: ...

class Keypoint(_message.Message):
    __slots__ = ("x", "y", "score")
    X_FIELD_NUMBER: _ClassVar[int]
    Y_FIELD_NUMBER: _ClassVar[int]
    SCORE_FIELD_NUMBER: _ClassVar[int]
    x: float
    y: float
    score: float
    def __init__(self, x: _Optional[float] = ..., y: _Optional[float] = ..., score: _Optional[float] = ...) -> None: ...

class ClassScore(_message.Message):
    __slots__ = ("id", "label", "score")
    ID_FIELD_NUMBER: _ClassVar[int]
    LABEL_FIELD_NUMBER: _ClassVar[int]
    SCORE_FIELD_NUMBER: _ClassVar[int]
    id: int
    label: str
    score: float
    def __init__(self, id: _Optional[int] = ..., label: _Optional[str] = ..., score: _Optional[float] = ...) -> None: ...

class Attribute(_message.Message):
    __slots__ = ("name", "id", "label", "score", "embedding")
    NAME_FIELD_NUMBER: _ClassVar[int]
    ID_FIELD_NUMBER: _ClassVar[int]
    LABEL_FIELD_NUMBER: _ClassVar[int]
    SCORE_FIELD_NUMBER: _ClassVar[int]
    EMBEDDING_FIELD_NUMBER: _ClassVar[int]
    name: str
    id: int
    label: str
    score: float
    embedding: _containers.RepeatedScalarFieldContainer[float]
    def __init__(self, name: _Optional[str] = ..., id: _Optional[int] = ..., label: _Optional[str] = ..., score: _Optional[float] = ..., embedding: _Optional[_Iterable[float]] = ...) -> None: ...

class Detection(_message.Message):
    __slots__ = ("box", "class_id", "label", "score", "track_id", "attributes", "keypoints")
    BOX_FIELD_NUMBER: _ClassVar[int]
    CLASS_ID_FIELD_NUMBER: _ClassVar[int]
    LABEL_FIELD_NUMBER: _ClassVar[int]
    SCORE_FIELD_NUMBER: _ClassVar[int]
    TRACK_ID_FIELD_NUMBER: _ClassVar[int]
    ATTRIBUTES_FIELD_NUMBER: _ClassVar[int]
    KEYPOINTS_FIELD_NUMBER: _ClassVar[int]
    box: Box
    class_id: int
    label: str
    score: float
    track_id: int
    attributes: _containers.RepeatedCompositeFieldContainer[Attribute]
    keypoints: _containers.RepeatedCompositeFieldContainer[Keypoint]
    def __init__(self, box: _Optional[_Union[Box, _Mapping]] = ..., class_id: _Optional[int] = ..., label: _Optional[str] = ..., score: _Optional[float] = ..., track_id: _Optional[int] = ..., attributes: _Optional[_Iterable[_Union[Attribute, _Mapping]]] = ..., keypoints: _Optional[_Iterable[_Union[Keypoint, _Mapping]]] = ...) -> None: ...

class StageTimes(_message.Message):
    __slots__ = ("receive_queue", "decode", "wait", "copy_in", "infer", "copy_out", "postprocess", "cascade", "reply_queue", "total", "predicted")
    RECEIVE_QUEUE_FIELD_NUMBER: _ClassVar[int]
    DECODE_FIELD_NUMBER: _ClassVar[int]
    WAIT_FIELD_NUMBER: _ClassVar[int]
    COPY_IN_FIELD_NUMBER: _ClassVar[int]
    INFER_FIELD_NUMBER: _ClassVar[int]
    COPY_OUT_FIELD_NUMBER: _ClassVar[int]
    POSTPROCESS_FIELD_NUMBER: _ClassVar[int]
    CASCADE_FIELD_NUMBER: _ClassVar[int]
    REPLY_QUEUE_FIELD_NUMBER: _ClassVar[int]
    TOTAL_FIELD_NUMBER: _ClassVar[int]
    PREDICTED_FIELD_NUMBER: _ClassVar[int]
    receive_queue: int
    decode: int
    wait: int
    copy_in: int
    infer: int
    copy_out: int
    postprocess: int
    cascade: int
    reply_queue: int
    total: int
    predicted: int
    def __init__(self, receive_queue: _Optional[int] = ..., decode: _Optional[int] = ..., wait: _Optional[int] = ..., copy_in: _Optional[int] = ..., infer: _Optional[int] = ..., copy_out: _Optional[int] = ..., postprocess: _Optional[int] = ..., cascade: _Optional[int] = ..., reply_queue: _Optional[int] = ..., total: _Optional[int] = ..., predicted: _Optional[int] = ...) -> None: ...

class FrameResult(_message.Message):
    __slots__ = ("sequence", "verdict", "message", "detections", "classes", "embedding", "frame_width", "frame_height", "times", "batch_size", "engine", "advised_fps", "attributes_missing")
    SEQUENCE_FIELD_NUMBER: _ClassVar[int]
    VERDICT_FIELD_NUMBER: _ClassVar[int]
    MESSAGE_FIELD_NUMBER: _ClassVar[int]
    DETECTIONS_FIELD_NUMBER: _ClassVar[int]
    CLASSES_FIELD_NUMBER: _ClassVar[int]
    EMBEDDING_FIELD_NUMBER: _ClassVar[int]
    FRAME_WIDTH_FIELD_NUMBER: _ClassVar[int]
    FRAME_HEIGHT_FIELD_NUMBER: _ClassVar[int]
    TIMES_FIELD_NUMBER: _ClassVar[int]
    BATCH_SIZE_FIELD_NUMBER: _ClassVar[int]
    ENGINE_FIELD_NUMBER: _ClassVar[int]
    ADVISED_FPS_FIELD_NUMBER: _ClassVar[int]
    ATTRIBUTES_MISSING_FIELD_NUMBER: _ClassVar[int]
    sequence: int
    verdict: Verdict
    message: str
    detections: _containers.RepeatedCompositeFieldContainer[Detection]
    classes: _containers.RepeatedCompositeFieldContainer[ClassScore]
    embedding: _containers.RepeatedScalarFieldContainer[float]
    frame_width: int
    frame_height: int
    times: StageTimes
    batch_size: int
    engine: str
    advised_fps: float
    attributes_missing: int
    def __init__(self, sequence: _Optional[int] = ..., verdict: _Optional[_Union[Verdict, str]] = ..., message: _Optional[str] = ..., detections: _Optional[_Iterable[_Union[Detection, _Mapping]]] = ..., classes: _Optional[_Iterable[_Union[ClassScore, _Mapping]]] = ..., embedding: _Optional[_Iterable[float]] = ..., frame_width: _Optional[int] = ..., frame_height: _Optional[int] = ..., times: _Optional[_Union[StageTimes, _Mapping]] = ..., batch_size: _Optional[int] = ..., engine: _Optional[str] = ..., advised_fps: _Optional[float] = ..., attributes_missing: _Optional[int] = ...) -> None: ...

class InferRequest(_message.Message):
    __slots__ = ("pipeline", "frame", "priority", "format", "width", "height", "min_score", "max_detections", "classes")
    PIPELINE_FIELD_NUMBER: _ClassVar[int]
    FRAME_FIELD_NUMBER: _ClassVar[int]
    PRIORITY_FIELD_NUMBER: _ClassVar[int]
    FORMAT_FIELD_NUMBER: _ClassVar[int]
    WIDTH_FIELD_NUMBER: _ClassVar[int]
    HEIGHT_FIELD_NUMBER: _ClassVar[int]
    MIN_SCORE_FIELD_NUMBER: _ClassVar[int]
    MAX_DETECTIONS_FIELD_NUMBER: _ClassVar[int]
    CLASSES_FIELD_NUMBER: _ClassVar[int]
    pipeline: str
    frame: Frame
    priority: int
    format: PixelFormat
    width: int
    height: int
    min_score: float
    max_detections: int
    classes: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, pipeline: _Optional[str] = ..., frame: _Optional[_Union[Frame, _Mapping]] = ..., priority: _Optional[int] = ..., format: _Optional[_Union[PixelFormat, str]] = ..., width: _Optional[int] = ..., height: _Optional[int] = ..., min_score: _Optional[float] = ..., max_detections: _Optional[int] = ..., classes: _Optional[_Iterable[str]] = ...) -> None: ...

class ListPipelinesRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class CascadeStage(_message.Message):
    __slots__ = ("name", "pipeline", "model", "task", "labels", "classes")
    NAME_FIELD_NUMBER: _ClassVar[int]
    PIPELINE_FIELD_NUMBER: _ClassVar[int]
    MODEL_FIELD_NUMBER: _ClassVar[int]
    TASK_FIELD_NUMBER: _ClassVar[int]
    LABELS_FIELD_NUMBER: _ClassVar[int]
    CLASSES_FIELD_NUMBER: _ClassVar[int]
    name: str
    pipeline: str
    model: str
    task: str
    labels: _containers.RepeatedScalarFieldContainer[str]
    classes: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, name: _Optional[str] = ..., pipeline: _Optional[str] = ..., model: _Optional[str] = ..., task: _Optional[str] = ..., labels: _Optional[_Iterable[str]] = ..., classes: _Optional[_Iterable[str]] = ...) -> None: ...

class Pipeline(_message.Message):
    __slots__ = ("name", "is_default", "state", "message", "model", "task", "engine", "labels", "input_width", "input_height", "smallest_budget_ms", "licence", "cascade")
    class State(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
        __slots__ = ()
        STATE_UNSPECIFIED: _ClassVar[Pipeline.State]
        STATE_READY: _ClassVar[Pipeline.State]
        STATE_UNAVAILABLE: _ClassVar[Pipeline.State]
    STATE_UNSPECIFIED: Pipeline.State
    STATE_READY: Pipeline.State
    STATE_UNAVAILABLE: Pipeline.State
    NAME_FIELD_NUMBER: _ClassVar[int]
    IS_DEFAULT_FIELD_NUMBER: _ClassVar[int]
    STATE_FIELD_NUMBER: _ClassVar[int]
    MESSAGE_FIELD_NUMBER: _ClassVar[int]
    MODEL_FIELD_NUMBER: _ClassVar[int]
    TASK_FIELD_NUMBER: _ClassVar[int]
    ENGINE_FIELD_NUMBER: _ClassVar[int]
    LABELS_FIELD_NUMBER: _ClassVar[int]
    INPUT_WIDTH_FIELD_NUMBER: _ClassVar[int]
    INPUT_HEIGHT_FIELD_NUMBER: _ClassVar[int]
    SMALLEST_BUDGET_MS_FIELD_NUMBER: _ClassVar[int]
    LICENCE_FIELD_NUMBER: _ClassVar[int]
    CASCADE_FIELD_NUMBER: _ClassVar[int]
    name: str
    is_default: bool
    state: Pipeline.State
    message: str
    model: str
    task: str
    engine: EngineDescription
    labels: _containers.RepeatedScalarFieldContainer[str]
    input_width: int
    input_height: int
    smallest_budget_ms: float
    licence: str
    cascade: _containers.RepeatedCompositeFieldContainer[CascadeStage]
    def __init__(self, name: _Optional[str] = ..., is_default: _Optional[bool] = ..., state: _Optional[_Union[Pipeline.State, str]] = ..., message: _Optional[str] = ..., model: _Optional[str] = ..., task: _Optional[str] = ..., engine: _Optional[_Union[EngineDescription, _Mapping]] = ..., labels: _Optional[_Iterable[str]] = ..., input_width: _Optional[int] = ..., input_height: _Optional[int] = ..., smallest_budget_ms: _Optional[float] = ..., licence: _Optional[str] = ..., cascade: _Optional[_Iterable[_Union[CascadeStage, _Mapping]]] = ...) -> None: ...

class ListPipelinesReply(_message.Message):
    __slots__ = ("pipelines",)
    PIPELINES_FIELD_NUMBER: _ClassVar[int]
    pipelines: _containers.RepeatedCompositeFieldContainer[Pipeline]
    def __init__(self, pipelines: _Optional[_Iterable[_Union[Pipeline, _Mapping]]] = ...) -> None: ...

class GetStatusRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class Ledger(_message.Message):
    __slots__ = ("received", "ok", "superseded", "infeasible", "expired", "bad_frame", "rejected", "failed", "draining", "in_flight", "late", "cancelled", "undelivered")
    RECEIVED_FIELD_NUMBER: _ClassVar[int]
    OK_FIELD_NUMBER: _ClassVar[int]
    SUPERSEDED_FIELD_NUMBER: _ClassVar[int]
    INFEASIBLE_FIELD_NUMBER: _ClassVar[int]
    EXPIRED_FIELD_NUMBER: _ClassVar[int]
    BAD_FRAME_FIELD_NUMBER: _ClassVar[int]
    REJECTED_FIELD_NUMBER: _ClassVar[int]
    FAILED_FIELD_NUMBER: _ClassVar[int]
    DRAINING_FIELD_NUMBER: _ClassVar[int]
    IN_FLIGHT_FIELD_NUMBER: _ClassVar[int]
    LATE_FIELD_NUMBER: _ClassVar[int]
    CANCELLED_FIELD_NUMBER: _ClassVar[int]
    UNDELIVERED_FIELD_NUMBER: _ClassVar[int]
    received: int
    ok: int
    superseded: int
    infeasible: int
    expired: int
    bad_frame: int
    rejected: int
    failed: int
    draining: int
    in_flight: int
    late: int
    cancelled: int
    undelivered: int
    def __init__(self, received: _Optional[int] = ..., ok: _Optional[int] = ..., superseded: _Optional[int] = ..., infeasible: _Optional[int] = ..., expired: _Optional[int] = ..., bad_frame: _Optional[int] = ..., rejected: _Optional[int] = ..., failed: _Optional[int] = ..., draining: _Optional[int] = ..., in_flight: _Optional[int] = ..., late: _Optional[int] = ..., cancelled: _Optional[int] = ..., undelivered: _Optional[int] = ...) -> None: ...

class ProfilePoint(_message.Message):
    __slots__ = ("batch", "latency_ms")
    BATCH_FIELD_NUMBER: _ClassVar[int]
    LATENCY_MS_FIELD_NUMBER: _ClassVar[int]
    batch: int
    latency_ms: float
    def __init__(self, batch: _Optional[int] = ..., latency_ms: _Optional[float] = ...) -> None: ...

class EngineStatus(_message.Message):
    __slots__ = ("pipeline", "engine", "profile", "busy_share", "margin_ms", "waiting", "batches", "frames", "batch_cap")
    PIPELINE_FIELD_NUMBER: _ClassVar[int]
    ENGINE_FIELD_NUMBER: _ClassVar[int]
    PROFILE_FIELD_NUMBER: _ClassVar[int]
    BUSY_SHARE_FIELD_NUMBER: _ClassVar[int]
    MARGIN_MS_FIELD_NUMBER: _ClassVar[int]
    WAITING_FIELD_NUMBER: _ClassVar[int]
    BATCHES_FIELD_NUMBER: _ClassVar[int]
    FRAMES_FIELD_NUMBER: _ClassVar[int]
    BATCH_CAP_FIELD_NUMBER: _ClassVar[int]
    pipeline: str
    engine: EngineDescription
    profile: _containers.RepeatedCompositeFieldContainer[ProfilePoint]
    busy_share: float
    margin_ms: float
    waiting: int
    batches: int
    frames: int
    batch_cap: int
    def __init__(self, pipeline: _Optional[str] = ..., engine: _Optional[_Union[EngineDescription, _Mapping]] = ..., profile: _Optional[_Iterable[_Union[ProfilePoint, _Mapping]]] = ..., busy_share: _Optional[float] = ..., margin_ms: _Optional[float] = ..., waiting: _Optional[int] = ..., batches: _Optional[int] = ..., frames: _Optional[int] = ..., batch_cap: _Optional[int] = ...) -> None: ...

class StreamStatus(_message.Message):
    __slots__ = ("stream_id", "pipeline", "grant", "budget_ms", "priority", "advised_fps", "open_s", "ledger")
    STREAM_ID_FIELD_NUMBER: _ClassVar[int]
    PIPELINE_FIELD_NUMBER: _ClassVar[int]
    GRANT_FIELD_NUMBER: _ClassVar[int]
    BUDGET_MS_FIELD_NUMBER: _ClassVar[int]
    PRIORITY_FIELD_NUMBER: _ClassVar[int]
    ADVISED_FPS_FIELD_NUMBER: _ClassVar[int]
    OPEN_S_FIELD_NUMBER: _ClassVar[int]
    LEDGER_FIELD_NUMBER: _ClassVar[int]
    stream_id: str
    pipeline: str
    grant: Grant
    budget_ms: int
    priority: int
    advised_fps: float
    open_s: float
    ledger: Ledger
    def __init__(self, stream_id: _Optional[str] = ..., pipeline: _Optional[str] = ..., grant: _Optional[_Union[Grant, str]] = ..., budget_ms: _Optional[int] = ..., priority: _Optional[int] = ..., advised_fps: _Optional[float] = ..., open_s: _Optional[float] = ..., ledger: _Optional[_Union[Ledger, _Mapping]] = ...) -> None: ...

class GetStatusReply(_message.Message):
    __slots__ = ("version", "uptime_s", "draining", "engines", "streams", "ledger")
    VERSION_FIELD_NUMBER: _ClassVar[int]
    UPTIME_S_FIELD_NUMBER: _ClassVar[int]
    DRAINING_FIELD_NUMBER: _ClassVar[int]
    ENGINES_FIELD_NUMBER: _ClassVar[int]
    STREAMS_FIELD_NUMBER: _ClassVar[int]
    LEDGER_FIELD_NUMBER: _ClassVar[int]
    version: str
    uptime_s: float
    draining: bool
    engines: _containers.RepeatedCompositeFieldContainer[EngineStatus]
    streams: _containers.RepeatedCompositeFieldContainer[StreamStatus]
    ledger: Ledger
    def __init__(self, version: _Optional[str] = ..., uptime_s: _Optional[float] = ..., draining: _Optional[bool] = ..., engines: _Optional[_Iterable[_Union[EngineStatus, _Mapping]]] = ..., streams: _Optional[_Iterable[_Union[StreamStatus, _Mapping]]] = ..., ledger: _Optional[_Union[Ledger, _Mapping]] = ...) -> None: ...

"""Cascades to test: tiny ONNX packages of a detector and two stages, and a device that a test plays by hand."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from foveate.engines import TensorSpec
from foveate.engines.fake import FakeEngine
from foveate.engines.profile import LatencyProfile
from foveate.engines.video_decoding import VideoDecoders
from foveate.models.manifest import HeadSpec, InputSpec, Manifest
from foveate.models.outputs import DecodeOptions
from foveate.models.package import PreparedModel
from foveate.service.admission import admit_frame
from foveate.service.boundary import FrameTicket, Refused, Row
from foveate.service.config import Limits, PipelineConfig, ServiceConfig, TrackConfig
from foveate.service.device import Device
from foveate.service.device_time import DeviceTime
from foveate.service.device_video import DeviceVideo
from foveate.service.frame import Answer, Frame, Grant, PixelFormat, Ran, StreamOptions, Verdict
from foveate.service.ingest import Ingest
from foveate.service.job import DecodedPicture, Job
from foveate.service.opening import NewSlots, Opened, OpenPipelines, open_pipeline
from foveate.service.pipeline import CascadeStage, Pipeline, PipelineSet
from foveate.service.stream import CameraStream, StreamRecord
from support.frames import MS, encoded, plain
from support.models import onnx_model
from support.onnx_models import bank_model
from support.service import fake_detector

__all__ = [
    "FRAME",
    "HandDevice",
    "HandStage",
    "answer_to",
    "cascade_stage",
    "classifier_model",
    "shades_engine",
    "shades_opening",
    "write_detector",
    "write_embedder",
]

FRAME = (96, 64)
"""Width and height of the frames that the tiny detector sees pixel by pixel."""

_DETECTOR = """
name = "banked"
title = "Sees what the first pixel tells it to"
task = "detect"
source = "file:model.onnx"
labels = ["car", "person"]
min_score = 0.3
nms_iou = 1.0
licence = "CC0-1.0"
homepage = "https://example.org"

[input]
width_px = {width}
height_px = {height}
resize = "stretch"

[head]
kind = "yolo_end2end"
outputs = {{ predictions = "predictions" }}
top_k = {most}
"""

_EMBEDDER = """
name = "colours"
title = "The mean colour"
task = "embed"
source = "file:model.onnx"
labels = ["colour"]
licence = "CC0-1.0"
homepage = "https://example.org"

[input]
width_px = 8
height_px = 8
scale = 0.00392156862745098
resize = "stretch"

[head]
kind = "embedding"
outputs = { embedding = "mean" }
normalize = false
"""


def write_detector(folder: Path, bank: NDArray[np.float32]) -> Path:
    """A package that answers a frame of the size `FRAME` with the row of the bank that its first pixel's red names.

    Shapes: bank (rows, detections, 6) as x1, y1, x2, y2, score, class.
    """
    folder.mkdir(parents=True, exist_ok=True)
    text = _DETECTOR.format(width=FRAME[0], height=FRAME[1], most=bank.shape[1])
    (folder / "model.toml").write_text(text, encoding="utf-8")
    onnx.save(bank_model({"predictions": bank}, FRAME[::-1]), folder / "model.onnx")
    return folder


def write_embedder(folder: Path) -> Path:
    """A package that gives a picture's mean red, green and blue."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "model.toml").write_text(_EMBEDDER, encoding="utf-8")
    floats = np.dtype(np.float32)
    nodes = (
        onnx.helper.make_node("GlobalAveragePool", ["image"], ["pooled"]),
        onnx.helper.make_node("Flatten", ["pooled"], ["mean"]),
    )
    model = onnx_model((TensorSpec("image", floats, (3, 8, 8)),), (TensorSpec("mean", floats, (3,)),), nodes, {})
    onnx.save(model, folder / "model.onnx")
    return folder


def cascade_stage(name: str = "kind", pipeline: str = "kinds", **fields: Any) -> CascadeStage:
    """A stage that looks at every detection."""
    wanted: dict[str, Any] = {
        "class_ids": None,
        "margin": 0.0,
        "min_size_px": 1,
        "max_crops": 8,
        "min_score": 0.0,
        "expected_ns": 10 * MS,
    }
    return CascadeStage(name=name, pipeline=pipeline, **{**wanted, **fields})


def shades_engine(*, max_batch: int = 4, **wishes: Any) -> FakeEngine:
    """A fake classifier of grey levels, as `support.service.fake_engine` detects them; see `FakeEngine`."""
    outputs = (TensorSpec("scores", np.dtype(np.float32), (1,)), TensorSpec("class_ids", np.dtype(np.int64), (1,)))

    def see(inputs: Mapping[str, NDArray[Any]], batch: int) -> dict[str, NDArray[Any]]:
        (pixels,) = inputs.values()
        shades = pixels.reshape(batch, -1).mean(axis=1) // 10
        return {"scores": np.full((batch, 1), 0.8, np.float32), "class_ids": shades.astype(np.int64)[:, None]}

    return FakeEngine("shades", input_shape=(8, 16, 3), outputs=outputs, max_batch=max_batch, compute=see, **wishes)


def shades_opening(
    detector: FakeEngine, classifier: FakeEngine, video: VideoDecoders | None = None, **stage: Any
) -> OpenPipelines:
    """Serves `grey`, the fake detector, with a cascade of one stage, `shade`; `stage` is as in `cascade_stage`.

    `video` are the decoders of the device.
    """

    def opening(config: ServiceConfig, make_slots: NewSlots) -> Opened:
        profile = LatencyProfile((1, 4), (MS, MS), (MS, MS))
        wanted = PipelineConfig(model="none")
        served, lanes = {}, []
        looked_at = (cascade_stage("shade", "shades", **stage),)
        labels = tuple(f"shade{index}" for index in range(26))
        times = DeviceTime() if classifier.gate is None else None  # what is held must not hold the detector, too
        for name, model, engine, cascade in (
            ("grey", fake_detector(), detector, looked_at),
            ("shades", _model("classify", labels), classifier, ()),
        ):
            engine.load()
            served[name], lane = open_pipeline(
                name,
                model,
                engine,
                profile,
                make_slots,
                wanted=wanted,
                device_time=times,
                cascade=cascade,
                video=video is not None,
            )
            lanes.append(lane)
        return Opened(PipelineSet(served, "grey"), Device(lanes, DeviceVideo(video, "there is no such GPU")))

    return opening


@dataclass
class HandDevice:
    """A device that does nothing by itself: a test says what runs."""

    entered: dict[int, tuple[StreamOptions, Grant | None]] = field(default_factory=dict)
    left: list[int] = field(default_factory=list)
    tickets: list[FrameTicket] = field(default_factory=list)
    replies: list[tuple[int, int]] = field(default_factory=list)

    def enter(self, stream: int, options: StreamOptions, grant: Grant | None = None) -> None:
        self.entered[stream] = (options, grant)

    def leave(self, stream: int) -> None:
        self.left.append(stream)

    def submit(self, ticket: FrameTicket) -> None:
        self.tickets.append(ticket)

    def observe_reply(self, stream: int, took_ns: int) -> None:
        self.replies.append((stream, took_ns))

    def take(self) -> list[FrameTicket]:
        """What was submitted since the last time."""
        taken, self.tickets = self.tickets, []
        return taken


@dataclass
class _Alarm:
    delay_s: float
    call: Callable[[], None]
    cancelled: bool = False

    def cancel(self) -> None:
        self.cancelled = True


class HandStage:
    """An ingest at a `HandDevice`, with a detector, two classifiers' pipelines and one camera."""

    def __init__(self, *stages: CascadeStage, track: TrackConfig | None = None, **options: Any) -> None:
        self.device = HandDevice()
        self.alarms: list[_Alarm] = []
        self.ingest = Ingest(lambda call: call(), ThreadPoolExecutor(1), self._later)
        self.pixels: dict[str, NDArray[np.uint8]] = {}
        self._serve("objects", _model("detect", ("car", "person")), stages, track)
        self._serve("kinds", _model("classify", ("van", "taxi", "child")))
        self._serve("colours", _model("embed", ("colour",)))
        self.stream = self.new_stream(**options)
        self.sequence = 0

    def new_stream(self, stream_id: str = "camera", budget_ms: float = 500.0, **options: Any) -> CameraStream:
        wanted = StreamOptions("objects", int(budget_ms * MS), view=DecodeOptions(0.0, 100), **options)
        return CameraStream(StreamRecord(stream_id, "token"), wanted, 32)

    def send(
        self,
        picture: NDArray[np.uint8] | None = None,
        *,
        stream: CameraStream | None = None,
        budget_ms: float = 500.0,
        kind: PixelFormat = PixelFormat.PNG,
        decoded: DecodedPicture | None = None,
    ) -> tuple[Job, FrameTicket]:
        """Submit one frame."""
        stream = stream or self.stream
        while stream.next_answer():
            pass
        self.sequence += 1
        data, now_ns = encoded(plain((90, 60, 30), *FRAME) if picture is None else picture, kind), time.monotonic_ns()
        job = stream.receive(Frame(self.sequence, now_ns, now_ns + int(budget_ms * MS), data))
        assert admit_frame(job, Limits(), shared_memory=False) is None
        job.picture = decoded
        port: Any = self.device
        self.ingest.submit(job, port)
        (ticket,) = self.device.take()
        return job, ticket

    def detect(self, ticket: FrameTicket, *boxes: Sequence[float], scores: Sequence[float] | None = None) -> None:
        """The detector has run a frame, and saw cars in these boxes, in pixels of its input, which is the frame's."""
        assert self.prepared("objects", ticket)
        outputs: dict[str, NDArray[Any]] = {
            "boxes": np.array(boxes, np.float32).reshape(-1, 4),
            "scores": np.array(scores or [0.9] * len(boxes), np.float32),
            "class_ids": np.zeros(len(boxes), np.int64),
        }
        self.ran("objects", ticket, outputs)

    def classify(self, ticket: FrameTicket, class_id: int, score: float = 0.8, pipeline: str = "kinds") -> None:
        """A classifier has run a crop."""
        assert self.prepared(pipeline, ticket)
        self.ran(pipeline, ticket, {"scores": np.array([score], np.float32), "class_ids": np.array([class_id])})

    def prepared(self, pipeline: str, ticket: FrameTicket, row: int = 0) -> bool:
        """Whether the ingest could write it into a row of the slot."""
        said: list[bool] = []

        def done(frame: int, succeeded: bool, left: Any = None) -> None:
            said.append(succeeded)

        self.ingest.prepare(pipeline, 0, [Row(ticket.frame, row)], done)
        return said == [True]

    def ran(self, pipeline: str, ticket: FrameTicket, outputs: Mapping[str, NDArray[Any]]) -> None:
        now_ns = time.monotonic_ns()
        ran = Ran(1, now_ns - 2 * MS, now_ns, 0, 2 * MS, 0, now_ns, 1, 0, 1)
        self.ingest.settle_run(pipeline, ran, [(ticket.frame, outputs)])

    def refuse(self, verdict: Verdict, *tickets: FrameTicket, message: str = "") -> None:
        self.ingest.settle_refused([Refused(ticket.frame, verdict, message) for ticket in tickets])

    def time_is_up(self) -> None:
        """All alarms that were set, and are still wanted, go off."""
        for alarm in self.alarms:
            if not alarm.cancelled:
                alarm.call()

    def _serve(
        self,
        name: str,
        model: PreparedModel,
        stages: tuple[CascadeStage, ...] = (),
        track: TrackConfig | None = None,
    ) -> None:
        spec = model.manifest.input
        info = FakeEngine(name, input_shape=(spec.height_px, spec.width_px, 3)).load()
        self.pixels[name] = np.zeros((8, spec.height_px, spec.width_px, 3), np.uint8)
        pipeline = Pipeline(name, model, info, DecodeOptions(0.0, 100), 1, stages, track)
        self.ingest.serve(pipeline, [self.pixels[name]])

    def _later(self, delay_s: float, call: Callable[[], None]) -> _Alarm:
        self.alarms.append(_Alarm(delay_s, call))
        return self.alarms[-1]


def answer_to(job: Job) -> Answer:
    """The answer of a frame that has one."""
    assert job.answer is not None
    return job.answer


_HEADS = {"detect": "yolo_end2end", "classify": "logits", "embed": "embedding"}


def classifier_model(labels: tuple[str, ...]) -> PreparedModel:
    """The package of a classifier that is never run."""
    return _model("classify", labels)


def _model(task: Any, labels: tuple[str, ...]) -> PreparedModel:
    width, height = FRAME if task == "detect" else (16, 8)
    manifest = Manifest(
        name=f"tiny_{task}",
        title="A model without a graph",
        task=task,
        source="file:none",
        input=InputSpec(width_px=width, height_px=height, resize="stretch"),
        head=HeadSpec.model_validate({"kind": _HEADS[task], "outputs": {}}),
        labels=labels,
        nms_iou=1.0,
        licence="CC0-1.0",
        homepage="none",
    )
    return PreparedModel(manifest=manifest, labels=labels, onnx_path=Path("none"), key="none")

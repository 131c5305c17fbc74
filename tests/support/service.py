"""A whole service on loopback over a fake engine, so that a test decides how long a batch takes and what it says.

The fake detector sees one object in each frame: a box over the left half, whose class is the frame's grey level
divided by 10 and whose score is always 0.9. A test that paints each frame in its own grey knows its answer.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Coroutine, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import cv2
import grpc
import numpy as np
from numpy.typing import NDArray

from foveate.engines.contract import TensorSpec
from foveate.engines.fake import FakeEngine
from foveate.engines.profile import LatencyProfile
from foveate.engines.video_decoding import VideoDecoders
from foveate.models.manifest import HeadSpec, InputSpec, Manifest
from foveate.models.package import PreparedModel
from foveate.proto import vision_pb2 as pb
from foveate.proto import vision_pb2_grpc as pb_grpc
from foveate.service.config import PipelineConfig, ServiceConfig, load_config
from foveate.service.device import Device
from foveate.service.device_video import DeviceVideo
from foveate.service.ingest import Ingest
from foveate.service.link import Link
from foveate.service.opening import NewSlots, Opened, OpenPipelines, open_pipeline
from foveate.service.pipeline import Pipeline, PipelineSet, Unavailable
from foveate.service.reception import Station
from foveate.service.remote_device import RemoteDevice
from foveate.service.remote_ingest import serve_ingest
from foveate.service.serve import serve
from foveate.service.server import Server
from foveate.service.slot_memory import SharedSlots

__all__ = [
    "GREYS",
    "RunningService",
    "fake_detector",
    "fake_engine",
    "fake_opening",
    "grey_config",
    "grey_jpeg",
    "grey_of",
    "loop_in_thread",
    "running_service",
    "serve_until_signal",
]

T = TypeVar("T")

over_messages = False
"""Whether ingest and device talk as two processes do; see the fixture `boundary`."""
INPUT_PX = 32
GREYS = tuple(range(5, 255, 10))
"""Grey levels that stay in their own class through JPEG."""
_LABELS = tuple(f"grey{index}" for index in range(26))


def grey_jpeg(grey: int, width: int = 64, height: int = 48, kind: str = ".jpg") -> bytes:
    """A picture in one grey."""
    done, data = cv2.imencode(kind, np.full((height, width, 3), grey, np.uint8))
    assert done
    return data.tobytes()


def grey_of(result: pb.FrameResult) -> int:
    """The grey level in the middle of the class that the fake detector saw."""
    (detection,) = result.detections
    return detection.class_id * 10 + 5


def fake_engine(
    latency_s: float = 0.0, *, max_batch: int = 4, kind: type[FakeEngine] = FakeEngine, **wishes: Any
) -> FakeEngine:
    """The fake detector; the other keywords are those of `FakeEngine`."""
    outputs = (
        TensorSpec("boxes", np.dtype(np.float32), (1, 4)),
        TensorSpec("scores", np.dtype(np.float32), (1,)),
        TensorSpec("class_ids", np.dtype(np.int64), (1,)),
    )
    return kind(
        "grey",
        input_shape=(INPUT_PX, INPUT_PX, 3),
        outputs=outputs,
        max_batch=max_batch,
        latency_s=lambda batch: latency_s,
        compute=_see_grey,
        **wishes,
    )


def fake_detector() -> PreparedModel:
    """The model package that belongs to `fake_engine`."""
    manifest = Manifest(
        name="grey",
        title="Sees one grey box",
        task="detect",
        source="file:none",
        input=InputSpec(width_px=INPUT_PX, height_px=INPUT_PX, resize="stretch"),
        head=HeadSpec(kind="yolo_end2end", outputs={"detections": "none"}, top_k=1),
        labels=_LABELS,
        licence="Apache-2.0",
        homepage="none",
    )
    return PreparedModel(manifest=manifest, labels=_LABELS, onnx_path=Path("none"), key="none")


class RunningService:
    """A service that runs in a thread of its own until the test ends."""

    def __init__(self, address: str, engine: FakeEngine, server: Server, loop: asyncio.AbstractEventLoop) -> None:
        self.address = address
        self.engine = engine
        self.server = server
        self._loop = loop
        self.channel = grpc.insecure_channel(address)
        self.stub = pb_grpc.VisionStub(self.channel)  # type: ignore[no-untyped-call]

    def start(self, work: Coroutine[Any, Any, T]) -> Any:
        """Run a coroutine in the server's loop; returns its future."""
        return asyncio.run_coroutine_threadsafe(work, self._loop)

    def status(self) -> pb.GetStatusReply:
        reply: pb.GetStatusReply = self.stub.GetStatus(pb.GetStatusRequest())
        return reply

    def settled(self, holds: Callable[[pb.GetStatusReply], bool], timeout_s: float = 40.0) -> pb.GetStatusReply:
        """The status as soon as it is as expected; the server has no event for what a test waits for."""
        pause, ends = threading.Event(), timeout_s / 0.01
        for _ in range(int(ends)):
            if holds(status := self.status()):
                return status
            pause.wait(0.01)
        raise AssertionError(f"the status never came to be as expected; last: {status}")


@contextmanager
def running_service(
    engine: FakeEngine | None = None,
    *,
    profile_ms: float = 1.0,
    slots: int = 3,
    unavailable: Mapping[str, str] | None = None,
    opened_by: OpenPipelines | None = None,
    video: VideoDecoders | None = None,
    **settings: Any,
) -> Iterator[RunningService]:
    """Serve the fake detector as pipeline `grey`; `profile_ms` is what the scheduler believes a batch takes.

    `opened_by` serves something else. `video` are the decoders of the device.
    """
    engine = engine or fake_engine()
    others = {name: Unavailable(name, "none", reason) for name, reason in (unavailable or {}).items()}
    config = _config(slots, settings)
    closing: list[Callable[[], None]] = []
    with loop_in_thread() as loop:

        async def start() -> Server:
            opening = opened_by or fake_opening(engine, profile_ms, others, video)
            linked = LinkedStation(opening) if over_messages else None
            server = Server(config, linked.open, linked) if linked else Server(config, opening)
            if linked:
                closing.append(linked.close)
            await server.start()
            return server

        server = asyncio.run_coroutine_threadsafe(start(), loop).result(40)
        service = RunningService(server.address, engine, server, loop)
        try:
            yield service
        finally:
            service.channel.close()
            if engine.gate is not None:
                engine.gate.set()
            service.start(server.stop(0)).result(40)
            for close in closing:
                loop.call_soon_threadsafe(close)


async def serve_until_signal() -> None:
    """The same service as a process of its own: prints its address, and drains on a signal."""

    def new(config: ServiceConfig) -> Server:
        return Server(config, fake_opening(fake_engine(), 1.0, {}))

    await serve(_config(3, {}), lambda address, _: print(address, flush=True), new)


def grey_config(slots: int = 3) -> dict[str, PipelineConfig]:
    """The settings of the pipeline `grey`."""
    return {"grey": PipelineConfig.model_validate({"model": "grey", "engine": {"slots": slots}})}


def _config(slots: int, settings: Mapping[str, Any]) -> ServiceConfig:
    return load_config(**{"listen": "127.0.0.1:0", "pipelines": grey_config(slots), **settings})


def fake_opening(
    engine: FakeEngine, profile_ms: float, others: Mapping[str, Unavailable], video: VideoDecoders | None = None
) -> Callable[[ServiceConfig, NewSlots], Opened]:
    def opening(config: ServiceConfig, make_slots: NewSlots) -> Opened:
        engine.load()
        latency_ns = int(profile_ms * 1e6)
        profile = LatencyProfile((1, 4), (latency_ns, latency_ns), (latency_ns, latency_ns))
        wanted = config.pipelines["grey"]
        decodes = video is not None
        grey, lane = open_pipeline("grey", fake_detector(), engine, profile, make_slots, wanted=wanted, video=decodes)
        pipelines: dict[str, Pipeline | Unavailable] = {"grey": grey, **others}
        return Opened(PipelineSet(pipelines, "grey"), Device([lane], DeviceVideo(video, "there is no such GPU")))

    return opening


class LinkedStation:
    """Ingest and device as in two processes, over a link and shared memory, and yet within reach of a test."""

    def __init__(self, opening: OpenPipelines) -> None:
        self._opening = opening
        self._slots = SharedSlots()

    def open(self, config: ServiceConfig, make_slots: NewSlots) -> Opened:
        return self._opening(config, self._slots)

    async def __call__(self, opened: Opened, ingest: Ingest) -> Station:
        self._link, theirs = (Link(end) for end in Link.pair())
        arguments = (theirs, opened.device, opened.pipelines, self._slots.files)
        threading.Thread(target=serve_ingest, args=arguments, name="device side").start()
        serving = asyncio.Event()
        device = RemoteDevice(ingest, serving.set)
        device.connect(self._link)
        await serving.wait()
        self._device = device
        return Station(device, ingest)

    def close(self) -> None:
        """As if the device's process had died."""
        self._device.lose()
        self._slots.close()


@contextmanager
def loop_in_thread() -> Iterator[asyncio.AbstractEventLoop]:
    """An event loop that runs until the block ends."""
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, name="test-server")
    thread.start()
    try:
        yield loop
    finally:
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()


def _see_grey(inputs: Mapping[str, NDArray[Any]], batch: int) -> dict[str, NDArray[Any]]:
    (pixels,) = inputs.values()
    greys = pixels.reshape(batch, -1).mean(axis=1)
    boxes = np.tile(np.array([0, 0, INPUT_PX / 2, INPUT_PX], np.float32), (batch, 1, 1))
    return {
        "boxes": boxes,
        "scores": np.full((batch, 1), 0.9, np.float32),
        "class_ids": (greys // 10).astype(np.int64)[:, None],
    }

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
from foveate.models.manifest import HeadSpec, InputSpec, Manifest
from foveate.models.package import PreparedModel
from foveate.proto import vision_pb2 as pb
from foveate.proto import vision_pb2_grpc as pb_grpc
from foveate.service.config import PipelineConfig, ServiceConfig, load_config
from foveate.service.pipeline import OnAnswers, Pipeline, PipelineSet, Unavailable, open_pipeline
from foveate.service.server import Server, serve

__all__ = [
    "GREYS",
    "RunningService",
    "fake_detector",
    "fake_engine",
    "grey_jpeg",
    "grey_of",
    "running_service",
    "serve_until_signal",
]

T = TypeVar("T")

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


def fake_engine(latency_s: float = 0.0, *, max_batch: int = 4, **wishes: Any) -> FakeEngine:
    """The fake detector; the keywords are those of `FakeEngine`."""
    outputs = (
        TensorSpec("boxes", np.dtype(np.float32), (1, 4)),
        TensorSpec("scores", np.dtype(np.float32), (1,)),
        TensorSpec("class_ids", np.dtype(np.int64), (1,)),
    )
    return FakeEngine(
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

    def settled(self, holds: Callable[[pb.GetStatusReply], bool], timeout_s: float = 10.0) -> pb.GetStatusReply:
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
    **settings: Any,
) -> Iterator[RunningService]:
    """Serve the fake detector as pipeline `grey`; `profile_ms` is what the scheduler believes a batch takes."""
    engine = engine or fake_engine()
    others = {name: Unavailable(name, "none", reason) for name, reason in (unavailable or {}).items()}
    config = _config(slots, settings)
    with _loop_in_thread() as loop:

        async def start() -> Server:
            server = Server(config, _opening(engine, profile_ms, others))
            await server.start()
            return server

        server = asyncio.run_coroutine_threadsafe(start(), loop).result(20)
        service = RunningService(server.address, engine, server, loop)
        try:
            yield service
        finally:
            service.channel.close()
            if engine.gate is not None:
                engine.gate.set()
            service.start(server.stop(0)).result(20)


async def serve_until_signal() -> None:
    """The same service as a process of its own: prints its address, and drains on a signal."""
    await serve(_config(3, {}), lambda address, _: print(address, flush=True), _opening(fake_engine(), 1.0, {}))


def _config(slots: int, settings: Mapping[str, Any]) -> ServiceConfig:
    wanted = PipelineConfig.model_validate({"model": "grey", "engine": {"slots": slots}})
    return load_config(**{"listen": "127.0.0.1:0", "pipelines": {"grey": wanted}, **settings})


def _opening(
    engine: FakeEngine, profile_ms: float, others: Mapping[str, Unavailable]
) -> Callable[[ServiceConfig, OnAnswers], PipelineSet]:
    def opening(config: ServiceConfig, on_answers: OnAnswers) -> PipelineSet:
        engine.load()
        latency_ns = int(profile_ms * 1e6)
        profile = LatencyProfile((1, 4), (latency_ns, latency_ns), (latency_ns, latency_ns))
        wanted = config.pipelines["grey"]
        grey = open_pipeline("grey", fake_detector(), engine, profile, on_answers, wanted=wanted)
        pipelines: dict[str, Pipeline | Unavailable] = {"grey": grey, **others}
        return PipelineSet(pipelines, "grey")

    return opening


@contextmanager
def _loop_in_thread() -> Iterator[asyncio.AbstractEventLoop]:
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

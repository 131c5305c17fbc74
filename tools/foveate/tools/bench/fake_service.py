"""A service over an engine that only waits: what is measured then is the service alone.

Run as a program, it serves as the specification on its standard input says, prints its address, and stops when its
standard input ends.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from foveate.engines.contract import TensorSpec
from foveate.engines.fake import FakeEngine
from foveate.engines.profile import measure_profile
from foveate.models.manifest import HeadSpec, InputSpec, Manifest
from foveate.models.package import PreparedModel
from foveate.service.config import Limits, PipelineConfig, ServiceConfig, load_config
from foveate.service.device import Device
from foveate.service.embedded import serve_parent
from foveate.service.opening import NewSlots, Opened, open_pipeline
from foveate.service.pipeline import PipelineSet
from foveate.service.server import Server

__all__ = ["FAKE_PIPELINE", "FakeSpec", "fake_engine", "fake_model", "main"]

FAKE_PIPELINE = "fake"
_LABELS = ("nothing",)


@dataclass(frozen=True, slots=True)
class FakeSpec:
    """The engine that waits."""

    alpha_ms: float = 0.0
    """Per frame of a batch."""
    beta_ms: float = 0.0
    """Per batch."""
    max_batch: int = 8
    side_px: int = 184
    """Of the square input: 184 pixels are 101,568 bytes of raw RGB, about a JPEG of 720p."""
    leak_bytes: int = 0
    """Kept for ever per batch: what a test of growth must find."""

    def to_json(self) -> str:
        return json.dumps(asdict(self))

    @property
    def picture(self) -> bytes:
        """A raw frame in the engine's own size, so that nothing is decoded or scaled."""
        return bytes(self.side_px * self.side_px * 3)


def fake_engine(spec: FakeSpec) -> FakeEngine:
    """The engine of a specification, which sees nothing."""
    outputs = (
        TensorSpec("boxes", np.dtype(np.float32), (1, 4)),
        TensorSpec("scores", np.dtype(np.float32), (1,)),
        TensorSpec("class_ids", np.dtype(np.int64), (1,)),
    )
    nothing = {each.name: np.zeros((spec.max_batch, *each.shape), each.dtype) for each in outputs}
    kept: list[bytes] = []

    def compute(inputs: Mapping[str, NDArray[Any]], batch: int) -> dict[str, NDArray[Any]]:
        if spec.leak_bytes:
            kept.append(b"\1" * spec.leak_bytes)
        return {name: rows[:batch] for name, rows in nothing.items()}

    waits = spec.alpha_ms > 0 or spec.beta_ms > 0
    return FakeEngine(
        FAKE_PIPELINE,
        input_shape=(spec.side_px, spec.side_px, 3),
        outputs=outputs,
        max_batch=spec.max_batch,
        latency_s=(lambda batch: (spec.beta_ms + spec.alpha_ms * batch) / 1e3) if waits else None,
        compute=compute,
    )


def fake_model(spec: FakeSpec) -> PreparedModel:
    """The model package that belongs to `fake_engine`."""
    manifest = Manifest(
        name=FAKE_PIPELINE,
        title="Waits and sees nothing",
        task="detect",
        source="file:none",
        input=InputSpec(width_px=spec.side_px, height_px=spec.side_px, resize="stretch"),
        head=HeadSpec(kind="yolo_end2end", outputs={"detections": "none"}, top_k=1),
        labels=_LABELS,
        licence="Apache-2.0",
        homepage="none",
    )
    return PreparedModel(manifest=manifest, labels=_LABELS, onnx_path=Path("none"), key="none")


def main() -> None:
    """Serve the fake engine as the specification on standard input says, until it ends or SIGTERM comes."""
    serve_parent(_service)


def _service(line: str) -> tuple[ServiceConfig, Callable[[ServiceConfig], Server]]:
    spec = FakeSpec(**json.loads(line))
    config = load_config(
        listen="127.0.0.1:0",
        pipelines={FAKE_PIPELINE: PipelineConfig(model=FAKE_PIPELINE)},
        drain_grace_ms=1000,
        limits=Limits(max_streams=4096),
    )
    return config, lambda settings: Server(settings, _opening(spec))


def _opening(spec: FakeSpec) -> Callable[[ServiceConfig, NewSlots], Opened]:
    def opening(config: ServiceConfig, make_slots: NewSlots) -> Opened:
        engine = fake_engine(spec)
        engine.load()
        profile = measure_profile(engine, time_limit_s=1.0)
        wanted = config.pipelines[FAKE_PIPELINE]
        pipeline, lane = open_pipeline(FAKE_PIPELINE, fake_model(spec), engine, profile, make_slots, wanted=wanted)
        return Opened(PipelineSet({FAKE_PIPELINE: pipeline}, FAKE_PIPELINE), Device([lane]))

    return opening


if __name__ == "__main__":
    main()

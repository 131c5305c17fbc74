"""The engine process of `ingest_cost`: a fake engine that takes raw frames of 100 KB as they are, and no time."""

from __future__ import annotations

import os
from pathlib import Path

from foveate.engines.profile import LatencyProfile
from foveate.service import engine_process
from foveate.service.config import ServiceConfig
from foveate.service.device import Device
from foveate.service.opening import NewSlots, Opened, open_pipeline
from foveate.service.pipeline import PipelineSet
from foveate.tools.bench.fake_service import FAKE_PIPELINE, FakeSpec, fake_engine, fake_model

__all__ = ["SPEC", "let_children_find_it", "open_passthrough"]

SPEC = FakeSpec()
_LATENCY_NS = 300_000


def let_children_find_it() -> None:
    """Lead the processes that are started from now on to this module."""
    folders = (str(Path(__file__).resolve().parent), os.environ.get("PYTHONPATH"))
    os.environ["PYTHONPATH"] = os.pathsep.join(folder for folder in folders if folder)


def open_passthrough(config: ServiceConfig, make_slots: NewSlots) -> Opened:
    """The one pipeline; of its latency only what the scheduler is to believe is given."""
    engine = fake_engine(SPEC)
    engine.load()
    profile = LatencyProfile((1, SPEC.max_batch), (_LATENCY_NS,) * 2, (_LATENCY_NS,) * 2)
    wanted = config.pipelines[FAKE_PIPELINE]
    pipeline, lane = open_pipeline(FAKE_PIPELINE, fake_model(SPEC), engine, profile, make_slots, wanted=wanted)
    return Opened(PipelineSet({FAKE_PIPELINE: pipeline}, FAKE_PIPELINE), Device([lane]))


if __name__ == "__main__":
    engine_process.main(open_passthrough)

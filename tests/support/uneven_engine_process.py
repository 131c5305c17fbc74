"""The engine process of a service whose devices differ: the pipeline `extra` is served on one of them alone.

That is the one whose process is the first to make the file that the environment names.
"""

from __future__ import annotations

import os
from pathlib import Path

from foveate.engines.profile import LatencyProfile
from foveate.service import engine_process
from foveate.service.config import ServiceConfig
from foveate.service.device import Device
from foveate.service.lane import Lane
from foveate.service.opening import NewSlots, Opened, open_pipeline
from foveate.service.pipeline import Pipeline, PipelineSet, Unavailable
from support.service import fake_detector, fake_engine

__all__: list[str] = []


def _opening(config: ServiceConfig, make_slots: NewSlots) -> Opened:
    profile = LatencyProfile((1, 4), (1_000_000, 1_000_000), (1_000_000, 1_000_000))
    served: dict[str, Pipeline | Unavailable] = {}
    lanes: list[Lane] = []
    for name in ("grey", "extra"):
        if name == "extra" and not _is_first():
            served[name] = Unavailable(name, "grey", "it does not fit on this device")
            continue
        engine = fake_engine()
        engine.load()
        served[name], lane = open_pipeline(
            name, fake_detector(), engine, profile, make_slots, wanted=config.pipelines["grey"]
        )
        lanes.append(lane)
    return Opened(PipelineSet(served, "grey"), Device(lanes))


def _is_first() -> bool:
    try:
        Path(os.environ["FIRST"]).touch(exist_ok=False)
    except FileExistsError:
        return False
    return True


if __name__ == "__main__":
    engine_process.main(_opening)

"""Lanes over fake engines, and an ingest that decodes nothing: for what a device promises of its time."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from numpy.typing import NDArray

from foveate.engines.fake import FakeEngine
from foveate.engines.profile import LatencyProfile
from foveate.service.boundary import Refused, Row
from foveate.service.device_time import DeviceTime
from foveate.service.frame import Ran
from foveate.service.lane import Lane
from foveate.service.opening import new_slots
from foveate.service.prediction import LatencyModel
from support.frames import MS

__all__ = ["SilentIngest", "fake_lane", "level_latency"]


class SilentIngest:
    """Decodes nothing, and notes what it is told."""

    def __init__(self) -> None:
        self.refused: list[Refused] = []

    def prepare(self, pipeline: str, slot: int, rows: Sequence[Row], done: Callable[[int, bool], None]) -> None:
        for row in rows:
            done(row.frame, False)

    def refuse(self, refused: Sequence[Refused]) -> None:
        self.refused += refused

    def deliver(self, pipeline: str, ran: Ran, outputs: Sequence[tuple[int, Mapping[str, NDArray[Any]]]]) -> None:
        raise AssertionError("nothing was decoded")


def fake_lane(name: str, latency: LatencyModel, device_time: DeviceTime | None = None) -> Lane:
    """A lane of this name on an engine that takes batches of four."""
    engine = FakeEngine(name, max_batch=4)
    engine.load()
    return Lane(name, engine, latency, new_slots(name, engine, 2), device_time=device_time)


def level_latency(batch_ms: int) -> LatencyModel:
    """Of an engine that is as long at one frame as at four."""
    return LatencyModel(LatencyProfile((1, 4), (batch_ms * MS,) * 2, (batch_ms * MS,) * 2))

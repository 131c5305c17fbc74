"""The process of one device: its engines, their scheduler and lanes. No event loop, no gRPC, no decoder."""

from __future__ import annotations

import logging
import os
import sys
import threading
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from foveate.engines.contract import Engine
from foveate.engines.errors import EngineError, FoveateError
from foveate.service.batch import BatchSlot
from foveate.service.boundary import LaneStatus
from foveate.service.child import link_to_supervisor
from foveate.service.config import config_from_json
from foveate.service.device import Device
from foveate.service.known_answer import KnownAnswer, known_answer, require_same_answer
from foveate.service.link import Link, LinkBroken
from foveate.service.metrics_tables import LaneTable
from foveate.service.opening import Opened, OpenPipelines, open_pipelines
from foveate.service.pipeline import Pipeline, PipelineSet
from foveate.service.remote_ingest import serve_ingest
from foveate.service.shared_counts import SharedCounts
from foveate.service.slot_memory import SharedSlots

__all__ = ["main"]

_log = logging.getLogger(__name__)

_SWITCH_INTERVAL_S = 0.0005


class _CheckedSlots:
    """Shared slots of engines that still answer as they did when they were first loaded."""

    def __init__(self, expected: dict[str, KnownAnswer]) -> None:
        self.shared = SharedSlots()
        self.answers: dict[str, KnownAnswer] = {}
        self._expected = expected

    def __call__(self, pipeline: str, engine: Engine, count: int) -> Sequence[BatchSlot]:
        slots = self.shared(pipeline, engine, count)
        self.answers[pipeline] = answer = known_answer(engine, slots[0].slot)
        if pipeline in self._expected:
            require_same_answer(pipeline, self._expected[pipeline], answer)
        return slots


class _EngineProcess:
    def __init__(self, supervisor: Link, opening: OpenPipelines) -> None:
        self._supervisor = supervisor
        self._opening = opening
        self._device = ""
        self._hang_ns = 0
        self._opened: Opened | None = None
        self._pipelines: PipelineSet | None = None
        self._slots = _CheckedSlots({})

    def run(self) -> None:
        """Do as the supervisor says until it says to end, or is gone."""
        try:
            while True:
                for message, files in self._supervisor.receive():
                    if not self._handle(message, files):
                        return
        except LinkBroken:
            os._exit(1)  # nobody is left to answer; the kernel releases what is held

    def _handle(self, message: tuple[Any, ...], files: list[int]) -> bool:
        match message:
            case ("start", config, device, visible_gpu, expected):
                if visible_gpu is not None:
                    os.environ["CUDA_VISIBLE_DEVICES"] = visible_gpu  # for CUDA, which has not been loaded yet
                return self._start(config, device, expected)
            case ("ingest",):
                self._serve(Link.over(files[0]))
            case ("status", number):
                self._supervisor.send("answer", number, self._status())
            case ("ping", number):
                if not self._stuck():  # else it counts as hung
                    self._supervisor.send("answer", number, True)
            case ("end",):
                if self._opened:
                    self._opened.device.close()
                return False
        return True

    def _start(self, config: str, device: str, expected: dict[str, KnownAnswer]) -> bool:
        self._device, self._slots = device, _CheckedSlots(expected)
        settings = config_from_json(config)
        self._hang_ns = int(settings.hang_s * 1e9)
        try:
            self._opened = self._opening(settings, self._slots)
        except EngineError as error:  # to itself every process's GPU is the first
            self._supervisor.send("failed", type(error)(f"on {device}: {error}"))
            return False
        except FoveateError as error:
            self._supervisor.send("failed", error)
            return False
        self._opened.device.when_lost(_start_anew)
        opened = self._opened.pipelines
        named = {name: self._named(each) if isinstance(each, Pipeline) else each for name, each in opened.all.items()}
        self._pipelines = PipelineSet(named, opened.default)
        lanes, counts = self._count(self._opened.device)
        ready = (self._pipelines.all, self._pipelines.default, self._slots.answers, lanes)
        self._supervisor.send("ready", *ready, files=[counts])
        os.close(counts)
        return True

    def _count(self, device: Device) -> tuple[list[str], int]:
        """Have the lanes count their runs in memory that outlives this process: their names, and the file of it."""
        lanes = list(device.lanes)
        counts = SharedCounts.new_file(LaneTable.length(lanes))
        table = LaneTable(lanes, counts)
        for name, lane in device.lanes.items():
            lane.meter = table.meter(name)
        return lanes, counts

    def _named(self, pipeline: Pipeline) -> Pipeline:
        """The pipeline with the device's name in this service: each engine process sees its own GPU as the first."""
        return replace(pipeline, engine=replace(pipeline.engine, device=self._device))

    def _serve(self, link: Link) -> None:
        if self._opened is None or self._pipelines is None:
            raise EngineError("an ingest came before the engines were loaded")
        arguments = (link, self._opened.device, self._pipelines, self._slots.shared.files)
        threading.Thread(target=_serve_ingest, args=arguments, name="ingest", daemon=True).start()

    def _stuck(self) -> bool:
        """Whether a run does not come back: its frames are answered only if this process ends."""
        return self._opened is not None and self._opened.device.overdue_ns > self._hang_ns

    def _status(self) -> list[LaneStatus]:
        lanes = self._opened.device.status() if self._opened else ()
        return [replace(lane, engine=replace(lane.engine, device=self._device)) for lane in lanes]


def _serve_ingest(link: Link, device: Device, pipelines: PipelineSet, memories: Mapping[str, int]) -> None:
    try:
        serve_ingest(link, device, pipelines, memories)
    except Exception:  # noqa: BLE001 - the outer edge of the thread: only another process gets the ingest a new link
        _log.critical("an ingest can be served no more, the process ends to be started anew", exc_info=True)
        os._exit(1)


def _start_anew(pipeline: str, reason: str) -> None:
    """End this process, so that the supervisor starts another: this one can run nothing more."""
    _log.critical("%s can be run no more, the process ends to be started anew: %s", pipeline, reason)
    os._exit(1)  # what is in flight is failed by the ingests, and nothing here can release the device


def main(opening: OpenPipelines = open_pipelines) -> None:
    """Serve as the supervisor says; `opening` makes the engines."""
    sys.setswitchinterval(_SWITCH_INTERVAL_S)
    _EngineProcess(link_to_supervisor(), opening).run()


if __name__ == "__main__":
    main()

"""The gRPC server of one ingest, from its port to its last answer; and the service that is one process."""

from __future__ import annotations

import asyncio
import logging
import os
import sys
from collections.abc import Awaitable, Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import cv2
import grpc.aio
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_health.v1.health import aio as health_aio
from grpc_reflection.v1alpha import reflection

from foveate.engines.errors import ConfigError, FoveateError
from foveate.proto import vision_pb2, vision_pb2_grpc
from foveate.service.answer_observer import AnswerObserver
from foveate.service.config import ServiceConfig
from foveate.service.directory import StreamDirectory
from foveate.service.edge import VisionEdge
from foveate.service.frame_trace import FrameTrace, begin_trace, end_trace
from foveate.service.ingest import Ingest
from foveate.service.live.gallery import Gallery
from foveate.service.live.picture import LiveSink, PictureWishes
from foveate.service.metrics import LaneTotals, ServiceCounts, ServiceMetrics
from foveate.service.metrics_tables import IngestTable, LaneTable
from foveate.service.opening import Opened, OpenPipelines, new_slots, open_pipelines
from foveate.service.pipeline import PipelineSet
from foveate.service.reception import Reception, Station
from foveate.service.stream import Books
from foveate.service.whole_service import OneProcess, ServicePort, ServiceStatus

__all__ = ["Backing", "IngestServer", "NewStation", "Server", "decoder_threads", "local_station"]

_log = logging.getLogger(__name__)

NewStation = Callable[[Opened, Ingest], Awaitable[Station]]

_SERVICE = vision_pb2.DESCRIPTOR.services_by_name["Vision"].full_name
_SWITCH_INTERVAL_S = 0.0005
"""How long a thread may keep the interpreter from another: Python's 5 ms would be a stage of its own."""
_CLOSE_GRACE_S = 0.5
_ADVISED_EVERY_S = 0.5


@dataclass(frozen=True, slots=True)
class Backing:
    """What stands behind an ingest's port."""

    pipelines: PipelineSet
    stations: Mapping[int, Station]
    """By the number of the device."""
    service: ServicePort
    counts: IngestTable


class IngestServer:
    """One ingest's gRPC server. Make it and use it within one event loop."""

    def __init__(self, config: ServiceConfig, listen: str, *, shared_port: bool = False) -> None:
        """Take the port, which other ingests of the service have too if it is shared.

        Raises: ConfigError if the port cannot be had.
        """
        sys.setswitchinterval(_SWITCH_INTERVAL_S)
        cv2.setNumThreads(1)  # frames are decoded side by side; threads within one would only compete
        self._config = config
        self._health = health_aio.HealthServicer()
        self._grpc = grpc.aio.server(options=_channel_options(config, shared_port))
        self._reception: Reception | None = None
        self._edge: VisionEdge | None = None
        self._advising: asyncio.Task[None] | None = None
        self._trace: FrameTrace | None = None
        self.gallery: Gallery | None = None
        """Its streams' pictures, once it serves."""
        self.address = _bound_address(self._grpc, listen)

    async def start(self, backing: Backing) -> None:
        """Serve what stands behind the port."""
        observers: list[AnswerObserver] = [backing.counts]
        if self._config.trace:
            self._trace = FrameTrace(self._config.trace, self._config.trace_sample)
            observers.append(self._trace)
        reception = Reception(
            self._config, backing.pipelines, backing.stations, backing.service, Books(backing.counts), observers
        )
        backing.service.attach(reception)
        edge = VisionEdge(reception)
        vision_pb2_grpc.add_VisionServicer_to_server(edge, self._grpc)  # type: ignore[no-untyped-call]
        health_pb2_grpc.add_HealthServicer_to_server(self._health, self._grpc)
        health = health_pb2.DESCRIPTOR.services_by_name["Health"].full_name
        reflection.enable_server_reflection((_SERVICE, health, reflection.SERVICE_NAME), self._grpc)
        await self._grpc.start()
        self._reception, self._edge = reception, edge
        self.gallery = Gallery(reception)
        self._advising = asyncio.create_task(_advise(reception))
        await self.report_health()

    async def stop(self, grace_ms: int) -> None:
        """Drain, then stop: tell the streams, answer what waits. Streams get `grace_ms` to end by themselves."""
        if self._edge is None or self._reception is None:
            await self._grpc.stop(None)
            return
        if self._advising:
            self._advising.cancel()
        self._reception.start_draining(grace_ms)
        await self.report_health()
        await self._edge.drained(grace_ms / 1e3)
        if self.gallery:
            self.gallery.close()
        await self._grpc.stop(_CLOSE_GRACE_S)
        self._reception.stop_decoding()
        if self._trace:
            self._trace.close()
            self._trace = None

    @property
    def draining(self) -> bool:
        """Whether it takes nothing new any more."""
        return self._reception is not None and self._reception.draining

    async def offer(self, pipelines: PipelineSet) -> None:
        """Serve these from now on: devices have come or gone."""
        if self._reception is not None:
            self._reception.pipelines = pipelines
            await self.report_health()

    async def report_health(self) -> None:
        """Tell those who ask for the health of the service and of each pipeline."""
        if self._reception is None:
            return
        states = health_pb2.HealthCheckResponse
        pipelines = self._reception.pipelines
        ready = {name for name in pipelines.all if self._reception.serves(name)}
        health = {"": bool(ready), _SERVICE: bool(ready)} | {name: name in ready for name in pipelines.all}
        for name, healthy in health.items():
            await self._health.set(name, states.SERVING if healthy else states.NOT_SERVING)


async def _advise(reception: Reception) -> None:
    while True:
        await asyncio.sleep(_ADVISED_EVERY_S)
        try:
            reception.advise()
        except Exception:  # noqa: BLE001 - the outer edge of the task: streams are advised again, half a second on
            _log.exception("streams could not be told of their rates")


class Server:
    """A running service, all of it in this process. Make it and use it within one event loop."""

    def __init__(
        self,
        config: ServiceConfig,
        opening: OpenPipelines = open_pipelines,
        new_station: NewStation | None = None,
    ) -> None:
        """`new_station` brings the ingest and the device together; by default they call each other."""
        self._config = config
        self._opening = opening
        self._new_station = new_station or local_station
        self._ingest: IngestServer | None = None
        self._reporting: asyncio.Task[None] | None = None
        self._opened: Opened | None = None
        self._service: OneProcess | None = None
        self._decoders = ThreadPoolExecutor(decoder_threads(config), "decode")
        self.address = ""

    @property
    def pipelines(self) -> PipelineSet:
        """What is served. Raises: ConfigError before `start`."""
        if self._opened is None:
            raise ConfigError("the server has not been started")
        return self._opened.pipelines

    async def start(self) -> str:
        """Load the pipelines, open the port, and return its address as HOST:PORT.

        Raises: ConfigError if the port cannot be had, FoveateError if the default pipeline cannot be served.
        """
        server = IngestServer(self._config, self._config.listen)  # first: loading takes a while, a taken port does not
        if self._config.trace:
            begin_trace(self._config.trace)
        try:
            self._opened = await asyncio.to_thread(self._opening, self._config, new_slots)
            await server.start(await self._backing(self._opened))
        except BaseException:
            await server.stop(0)
            await self._close()
            raise
        loop = asyncio.get_running_loop()
        self._opened.device.when_lost(lambda *what: loop.call_soon_threadsafe(self._lose, *what))
        self._ingest, self.address = server, server.address
        return self.address

    @property
    def draining(self) -> bool:
        """Whether it is about to stop."""
        return self._ingest is not None and self._ingest.draining

    @property
    def unready(self) -> str:
        """Why it cannot take new streams for its default pipeline now; "" where it can."""
        if self._ingest is None:
            return "it is starting, or has stopped"
        if self.draining:
            return "it is draining"
        try:
            self.pipelines.get("")
        except FoveateError as error:
            return str(error)
        return ""

    async def status(self) -> ServiceStatus:
        """How the service stands now."""
        return await self._service.status() if self._service and self._ingest else ServiceStatus()

    def watch(self, wishes: PictureWishes, sink: LiveSink) -> None:
        """Show these streams, and no others, to `sink` for some seconds."""
        if self._ingest and self._ingest.gallery:
            self._ingest.gallery.watch(wishes, sink)

    async def metrics(self) -> ServiceMetrics:
        """All that the service tells about itself, now. Raises: ConfigError before `start`."""
        if self._service is None:
            raise ConfigError("the server has not been started")
        return self._service.metrics()

    async def stop(self, grace_ms: int | None = None) -> None:
        """Drain, then stop: tell the streams, answer what waits, release the engines.

        Streams get `grace_ms` (default: the configured time) to end by themselves.
        """
        if self._ingest is not None:
            await self._ingest.stop(self._config.drain_grace_ms if grace_ms is None else grace_ms)
            await self._close()
            self._ingest = None
            if self._config.trace:
                end_trace(self._config.trace)

    def _lose(self, pipeline: str, reason: str) -> None:
        """A pipeline's lane can run nothing more in this process: it is not served any more."""
        if self._ingest is None or self._opened is None:
            return
        why = f"nothing more can be run until the service is started anew: {reason}"
        self._opened.pipelines.withdraw(pipeline, why)
        self._reporting = asyncio.create_task(self._ingest.report_health())

    async def _close(self) -> None:
        if self._opened is not None:
            await asyncio.to_thread(self._opened.device.close)
        self._decoders.shutdown()

    async def _backing(self, opened: Opened) -> Backing:
        limits, lane_totals = self._config.limits, LaneTotals()
        directory = StreamDirectory(limits.max_streams, self._config.resume_s)
        directory.serving[0] = opened.device.lanes
        counts = ServiceCounts(opened.pipelines.all, self._config.metrics_streams, directory.is_open)
        counts.add(table := IngestTable(counts.layout))
        for name, lane in opened.device.lanes.items():
            lane.meter = (lanes := LaneTable([name])).meter(name)
            lane_totals.add(lane.device, lanes)
        ingest = Ingest(asyncio.get_running_loop().call_soon_threadsafe, self._decoders)
        station = await self._new_station(opened, ingest)
        self._service = OneProcess(directory, opened.device, counts, lane_totals)
        return Backing(opened.pipelines, {0: station}, self._service, table)


async def local_station(opened: Opened, ingest: Ingest) -> Station:
    """A device and an ingest in the same process."""
    for pipeline in opened.pipelines.ready:
        ingest.serve(pipeline, opened.device.lane(pipeline.name).inputs)
    return Station(opened.device.session(ingest), ingest)


def decoder_threads(config: ServiceConfig) -> int:
    """How many frames an ingest decodes side by side."""
    return config.decode_threads or len(os.sched_getaffinity(0))


def _bound_address(server: grpc.aio.Server, listen: str) -> str:
    try:
        port = server.add_insecure_port(listen)
    except RuntimeError as error:
        raise ConfigError(
            f"cannot listen on {listen}: expected HOST:PORT that is free here, or unix:PATH; "
            "another server may be running, port 0 takes any free one"
        ) from error
    return listen if listen.startswith("unix:") else f"{listen.rpartition(':')[0]}:{port}"


def _channel_options(config: ServiceConfig, shared_port: bool) -> list[tuple[str, int]]:
    return [
        # Twice the frame limit, so that a frame somewhat over it is answered REJECTED instead of ending the RPC.
        ("grpc.max_receive_message_length", 2 * config.limits.max_frame_bytes + 65_536),
        ("grpc.max_send_message_length", 64 * 1024 * 1024),
        ("grpc.so_reuseport", int(shared_port)),  # else a port that is taken is an error, not a second server behind it
        # A camera's connection that has died without a word is found out within half a minute.
        ("grpc.keepalive_time_ms", 20_000),
        ("grpc.keepalive_timeout_ms", 10_000),
        ("grpc.keepalive_permit_without_calls", 1),
        ("grpc.http2.min_ping_interval_without_data_ms", 5_000),
    ]

"""The server: pipelines behind a gRPC port, from the first byte of configuration to the last answer."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import signal
import sys
from collections.abc import Callable, Sequence

import cv2
import grpc.aio
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_health.v1.health import aio as health_aio
from grpc_reflection.v1alpha import reflection

from foveate.engines.errors import ConfigError
from foveate.proto import vision_pb2, vision_pb2_grpc
from foveate.service.batch import Answered
from foveate.service.config import ServiceConfig
from foveate.service.edge import VisionEdge
from foveate.service.pipeline import OnAnswers, PipelineSet, open_pipelines
from foveate.service.reception import Reception, deliver

__all__ = ["Server", "serve"]

_log = logging.getLogger(__name__)

OpenPipelines = Callable[[ServiceConfig, OnAnswers], PipelineSet]

_SERVICE = vision_pb2.DESCRIPTOR.services_by_name["Vision"].full_name
_SWITCH_INTERVAL_S = 0.0005
"""How long a thread may keep the interpreter from another: Python's 5 ms would be a stage of its own."""
_CLOSE_GRACE_S = 0.5


class Server:
    """A running service. Make it and use it within one event loop."""

    def __init__(self, config: ServiceConfig, opening: OpenPipelines = open_pipelines) -> None:
        self._config = config
        self._opening = opening
        self._loop = asyncio.get_running_loop()
        self._pipelines: PipelineSet | None = None
        self._grpc: grpc.aio.Server | None = None
        self._reception: Reception | None = None
        self._edge: VisionEdge | None = None
        self._health = health_aio.HealthServicer()
        self.address = ""

    @property
    def pipelines(self) -> PipelineSet:
        """What is served. Raises: ConfigError before `start`."""
        if self._pipelines is None:
            raise ConfigError("the server has not been started")
        return self._pipelines

    def _on_answers(self, answers: Sequence[Answered]) -> None:
        """Bring answers from a lane's thread to their streams."""
        self._loop.call_soon_threadsafe(deliver, answers)

    async def start(self) -> str:
        """Load the pipelines, open the port, and return its address as HOST:PORT.

        Raises: ConfigError if the port cannot be had, FoveateError if the default pipeline cannot be served.
        """
        sys.setswitchinterval(_SWITCH_INTERVAL_S)
        cv2.setNumThreads(1)  # frames are decoded side by side; threads within one would only compete
        server = grpc.aio.server(options=_channel_options(self._config))
        self.address = _bound_address(
            server, self._config.listen
        )  # first: loading takes a while, a taken port does not
        self._pipelines = await asyncio.to_thread(self._opening, self._config, self._on_answers)
        try:
            self._reception = Reception(self._config, self._pipelines)
            self._edge = VisionEdge(self._reception)
            self._add_services(server, self._edge)
            await server.start()
        except BaseException:
            await asyncio.to_thread(self._pipelines.close)
            raise
        self._grpc = server
        await self._report_health(health_pb2.HealthCheckResponse.SERVING)
        return self.address

    async def stop(self, grace_ms: int | None = None) -> None:
        """Drain, then stop: tell the streams, answer what waits, release the engines.

        Streams get `grace_ms` (default: the configured time) to end by themselves.
        """
        if self._grpc is None or self._edge is None or self._reception is None:
            return
        grace_ms = self._config.drain_grace_ms if grace_ms is None else grace_ms
        await self._report_health(health_pb2.HealthCheckResponse.NOT_SERVING)
        self._reception.start_draining(grace_ms)
        await self._edge.drained(grace_ms / 1e3)
        await self._grpc.stop(_CLOSE_GRACE_S)
        await asyncio.to_thread(self._reception.pipelines.close)
        self._grpc = None

    def _add_services(self, server: grpc.aio.Server, edge: VisionEdge) -> None:
        vision_pb2_grpc.add_VisionServicer_to_server(edge, server)  # type: ignore[no-untyped-call]
        health_pb2_grpc.add_HealthServicer_to_server(self._health, server)
        health = health_pb2.DESCRIPTOR.services_by_name["Health"].full_name
        reflection.enable_server_reflection((_SERVICE, health, reflection.SERVICE_NAME), server)

    async def _report_health(self, state: health_pb2.HealthCheckResponse.ServingStatus) -> None:
        if self._pipelines is None:
            return
        for name in ("", _SERVICE, *(pipeline.name for pipeline in self._pipelines.ready)):
            await self._health.set(name, state)


async def serve(
    config: ServiceConfig, on_ready: Callable[[str, PipelineSet], None], opening: OpenPipelines = open_pipelines
) -> None:
    """Serve until SIGTERM or SIGINT, then drain; a second signal cuts the drain short.

    `on_ready` is called with the address and the pipelines once the port is open.
    """
    server = Server(config, opening)
    loop, stopping = asyncio.get_running_loop(), asyncio.Event()
    await server.start()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stopping.set)
    on_ready(server.address, server.pipelines)
    await stopping.wait()
    _log.info("draining")
    stopping.clear()
    drain = asyncio.create_task(server.stop())
    again = asyncio.create_task(stopping.wait())
    await asyncio.wait((drain, again), return_when=asyncio.FIRST_COMPLETED)
    if not drain.done():
        drain.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await drain
        await server.stop(0)
    again.cancel()


def _bound_address(server: grpc.aio.Server, listen: str) -> str:
    try:
        port = server.add_insecure_port(listen)
    except RuntimeError as error:
        raise ConfigError(
            f"cannot listen on {listen}: expected HOST:PORT that is free here, or unix:PATH; "
            "another server may be running, port 0 takes any free one"
        ) from error
    return listen if listen.startswith("unix:") else f"{listen.rpartition(':')[0]}:{port}"


def _channel_options(config: ServiceConfig) -> list[tuple[str, int]]:
    return [
        # Twice the frame limit, so that a frame somewhat over it is answered REJECTED instead of ending the RPC.
        ("grpc.max_receive_message_length", 2 * config.limits.max_frame_bytes + 65_536),
        ("grpc.max_send_message_length", 64 * 1024 * 1024),
        ("grpc.so_reuseport", 0),  # a port that is taken is an error, not a second server behind it
        # A camera's connection that has died without a word is found out within half a minute.
        ("grpc.keepalive_time_ms", 20_000),
        ("grpc.keepalive_timeout_ms", 10_000),
        ("grpc.keepalive_permit_without_calls", 1),
        ("grpc.http2.min_ping_interval_without_data_ms", 5_000),
    ]

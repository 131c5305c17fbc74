"""A service for as long as a program runs: in one process or in several, as the settings say."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
from collections.abc import Callable
from typing import TYPE_CHECKING, Protocol

from foveate.engines.errors import ConfigError
from foveate.service.config import ServiceConfig
from foveate.service.live.source import LiveService
from foveate.service.pipeline import PipelineSet

if TYPE_CHECKING:
    from foveate.service.http_server import HttpServer

__all__ = ["RunningService", "new_service", "serve"]

_log = logging.getLogger(__name__)

_FEW_CORES = 4
"""With so few, every further process takes from the engine what it saves the event loop."""


class RunningService(LiveService, Protocol):
    """A service that is started and stopped within one event loop."""

    async def start(self) -> str: ...

    async def stop(self, grace_ms: int | None = None) -> None: ...


def new_service(config: ServiceConfig) -> RunningService:
    """The service that the settings ask for, not started yet."""
    # Imported here: a supervisor needs no gRPC, a service in one process no supervisor.
    if ingests := ingest_processes(config):
        from foveate.service.supervisor import Supervisor

        return Supervisor(config, ingests)
    from foveate.service.server import Server

    return Server(config)


def ingest_processes(config: ServiceConfig) -> int:
    """How many processes receive frames; 0: everything is in one process."""
    if config.ingest_processes != "auto":
        return config.ingest_processes
    cores = len(os.sched_getaffinity(0))
    return 0 if cores <= _FEW_CORES else cores // _FEW_CORES


async def serve(
    config: ServiceConfig,
    on_ready: Callable[[str, PipelineSet], None],
    new: Callable[[ServiceConfig], RunningService] = new_service,
    on_page: Callable[[str], None] = lambda url: None,
) -> None:
    """Serve until SIGTERM or SIGINT, then drain; a second signal cuts the drain short.

    `on_ready` is called with the address and the pipelines once the port is open, and then `on_page` with the live
    page's, if there is one.
    """
    service = new(config)
    if not config.http:
        await _serve(service, on_ready)
        return
    http = _new_http_server(config, service)
    await http.start()  # first: it says of a service that is loading that it is not ready yet
    try:

        def ready(address: str, pipelines: PipelineSet) -> None:
            on_ready(address, pipelines)
            on_page(http.url)

        await _serve(service, ready)
    finally:
        await http.stop()


def _new_http_server(config: ServiceConfig, service: RunningService) -> HttpServer:
    try:
        from foveate.service.http_server import HttpServer
    except ImportError as error:
        raise ConfigError(
            f"the live page needs {error.name}: pip install 'foveate[http]', or leave out http"
        ) from error
    return HttpServer(config.http, service, config.http_names)


async def _serve(service: RunningService, on_ready: Callable[[str, PipelineSet], None]) -> None:
    loop, stopping = asyncio.get_running_loop(), asyncio.Event()
    await service.start()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stopping.set)
    on_ready(service.address, service.pipelines)
    await stopping.wait()
    _log.info("draining")
    stopping.clear()
    drain = asyncio.create_task(service.stop())
    again = asyncio.create_task(stopping.wait())
    await asyncio.wait((drain, again), return_when=asyncio.FIRST_COMPLETED)
    if not drain.done():
        drain.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await drain
        await service.stop(0)
    again.cancel()

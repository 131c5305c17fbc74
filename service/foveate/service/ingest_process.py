"""The process of one ingest: gRPC, streams, decoding, answers, in one event loop and the decoders' threads."""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Coroutine
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import partial
from typing import Any

from foveate.engines.errors import FoveateError
from foveate.service.child import link_to_supervisor
from foveate.service.config import ServiceConfig, config_from_json
from foveate.service.directory import Claim
from foveate.service.ingest import Ingest
from foveate.service.link import Calls, Link, LinkBroken
from foveate.service.live.channel import show_remotely
from foveate.service.metrics_tables import IngestLayout, IngestTable
from foveate.service.pipeline import PipelineSet
from foveate.service.reception import Station
from foveate.service.remote_device import RemoteDevice
from foveate.service.server import Backing, IngestServer, decoder_threads
from foveate.service.stream import StreamRecord
from foveate.service.whole_service import IngestReport, ServiceStatus

__all__ = ["main"]

_log = logging.getLogger(__name__)


class _Supervisor:
    """`ServicePort` over the link to the supervisor."""

    def __init__(self, link: Link) -> None:
        self.link = link
        self.calls = Calls()
        self.ingest: IngestReport | None = None

    def attach(self, ingest: IngestReport) -> None:
        """See `ServicePort`."""
        self.ingest = ingest

    async def claim(self, stream_id: str, resume_token: str, pipeline: str) -> Claim:
        """See `ServicePort`."""
        claiming = asyncio.create_task(self.calls.call(self.link, "claim", stream_id, resume_token, pipeline))
        try:
            claim: Claim = await asyncio.shield(claiming)
        except asyncio.CancelledError:  # its client has gone, and the supervisor does not know
            claiming.add_done_callback(self._give_back)
            raise
        return claim

    def release(self, record: StreamRecord, *, resumable: bool) -> None:
        """See `ServicePort`."""
        self.link.send("release", record, resumable)

    def _give_back(self, claiming: asyncio.Task[Claim]) -> None:
        if not claiming.cancelled() and claiming.exception() is None:
            self.release(claiming.result().record, resumable=claiming.result().resumed)

    async def status(self) -> ServiceStatus:
        """See `ServicePort`."""
        status: ServiceStatus = await self.calls.call(self.link, "status")
        return status


class _IngestProcess:
    """Belongs to the event loop's thread."""

    def __init__(self, link: Link) -> None:
        self._supervisor = _Supervisor(link)
        self._ended = asyncio.Event()
        self._changed = asyncio.Event()
        self._devices: dict[int, RemoteDevice] = {}
        self._stations: dict[int, Station] = {}
        self._decoders: ThreadPoolExecutor | None = None
        self._server: IngestServer | None = None
        self._tasks: set[asyncio.Task[None]] = set()

    async def run(self) -> None:
        """Do as the supervisor says until it says to end."""
        link = self._supervisor.link
        asyncio.get_running_loop().add_reader(link.fileno(), self._read, link)
        await self._ended.wait()
        asyncio.get_running_loop().remove_reader(link.fileno())
        for device in self._devices.values():
            device.lose()
        if self._decoders:
            self._decoders.shutdown(wait=False)

    def _read(self, link: Link) -> None:
        try:
            for message, files in link.receive():
                try:
                    self._handle(message, files)
                except LinkBroken:
                    raise
                except Exception:  # noqa: BLE001 - calls may wait for the messages that came along with it
                    _log.exception("the message %s of the supervisor made no sense", message[0])
        except LinkBroken:
            os._exit(1)  # without the supervisor nobody keeps the books; clients find another server

    def _handle(self, message: tuple[Any, ...], files: list[int]) -> None:
        match message:
            case ("start", config, address, devices):
                self._begin(self._start(config_from_json(config), address, devices, files[0]))
            case ("device", number):
                self._devices[number].connect(Link.over(files[0]))
            case ("answer", number, outcome):
                self._supervisor.calls.answer(number, outcome)
            case ("evict", stream_id) if self._supervisor.ingest:
                self._supervisor.ingest.evict(stream_id)
            case ("ping", number):
                self._supervisor.link.send("answer", number, True)
            case ("streams", number):
                ingest = self._supervisor.ingest
                self._supervisor.link.send("answer", number, ingest.streams() if ingest else [])
            case ("standing", number):
                ingest = self._supervisor.ingest
                self._supervisor.link.send("answer", number, [ingest.standing()] if ingest else [])
            case ("live",):
                self._begin(self._show(files[0]))
            case ("drain", grace_ms):
                self._begin(self._drain(grace_ms))

    def _begin(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _start(self, config: ServiceConfig, address: str, devices: int, counts: int) -> None:
        table = IngestTable(IngestLayout(tuple(config.pipelines), config.metrics_streams), counts)
        os.close(counts)
        self._decoders = ThreadPoolExecutor(decoder_threads(config), "decode")
        loop = asyncio.get_running_loop()
        for number in range(devices):
            ingest = Ingest(loop.call_soon_threadsafe, self._decoders)
            self._devices[number] = RemoteDevice(ingest, self._device_changed, partial(self._ask_for_device, number))
            self._stations[number] = Station(self._devices[number], ingest)
        try:
            server = IngestServer(config, address, shared_port=not address.startswith("unix:"))
            pipelines = await self._first_pipelines()
            await server.start(Backing(pipelines, self._stations, self._supervisor, table))
        except FoveateError as error:
            self._supervisor.link.send("failed", error)
            return
        except Exception:  # noqa: BLE001 - the outer edge of the task: the supervisor waits for this process to serve
            _log.critical("the ingest cannot start", exc_info=True)
            os._exit(1)
        self._server = server
        self._device_changed()  # others may have come meanwhile
        self._supervisor.link.send("ready", server.address)

    async def _first_pipelines(self) -> PipelineSet:
        while (pipelines := self._pipelines()) is None:
            self._changed.clear()
            await self._changed.wait()
        return pipelines

    def _pipelines(self) -> PipelineSet | None:
        """What the devices serve together; a lost one, which is being started again, counts as it was."""
        known = [device.pipelines for device in self._devices.values() if device.pipelines is not None]
        return PipelineSet.together(known) if known else None

    def _device_changed(self) -> None:
        self._changed.set()
        if self._server and (pipelines := self._pipelines()):
            self._begin(self._server.offer(pipelines))

    def _ask_for_device(self, number: int) -> None:
        """Have the supervisor connect it again, if it lives."""
        with suppress(LinkBroken):  # then this process ends, too
            self._supervisor.link.send("unlinked", number)

    async def _show(self, handle: int) -> None:
        if self._server and self._server.gallery:
            await show_remotely(self._server.gallery, handle)
        else:
            os.close(handle)

    async def _drain(self, grace_ms: int) -> None:
        if self._server:
            await self._server.stop(grace_ms)
        self._ended.set()


def main() -> None:
    """Serve as the supervisor says."""
    link = link_to_supervisor()

    async def run() -> None:
        await _IngestProcess(link).run()

    asyncio.run(run())


if __name__ == "__main__":
    main()

"""The supervisor: starts the processes of a service, brings them together, and replaces those that die.

It carries no frame. It holds what must outlive a process: the port, the names and tokens of the streams, the ledgers,
and what each engine answered to a known picture.
"""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import time
from collections.abc import Coroutine
from contextlib import suppress
from dataclasses import dataclass, field, replace
from typing import Any

from foveate.engines.errors import EngineError, FoveateError
from foveate.service.boundary import LaneStatus
from foveate.service.child import Child
from foveate.service.config import ServiceConfig
from foveate.service.devices import device_names, visible_gpu
from foveate.service.directory import StreamDirectory
from foveate.service.frame_trace import begin_trace, end_trace
from foveate.service.known_answer import KnownAnswer
from foveate.service.link import Calls, Link, LinkBroken
from foveate.service.live.channel import RemoteGallery
from foveate.service.live.picture import LiveSink, PictureWishes
from foveate.service.metrics import IngestStanding, LaneTotals, ProcessLife, ServiceCounts, ServiceMetrics
from foveate.service.metrics_tables import IngestTable, LaneTable
from foveate.service.pipeline import PipelineSet
from foveate.service.shared_counts import SharedCounts
from foveate.service.shared_port import SharedPort
from foveate.service.whole_service import ServiceStatus, StreamStatus

__all__ = ["Programs", "Supervisor"]

_log = logging.getLogger(__name__)

_FIRST_PAUSE_S = 0.1
_LONGEST_PAUSE_S = 10.0
_LIVED_WELL_S = 30.0
"""A process that lived so long is started again without a pause when it dies."""
_ANSWERED_WITHIN_S = 2.0
_ENDED_WITHIN_S = 10.0
_PING_EVERY_S = 1.0
_PINGS = 2
"""So many in a row go unanswered before a process counts as hung: one alone may be the supervisor's own late waking."""


@dataclass(frozen=True, slots=True)
class Programs:
    """The modules that the processes run."""

    engine: str = "foveate.service.engine_process"
    ingest: str = "foveate.service.ingest_process"


@dataclass(eq=False, kw_only=True)
class _Part:
    """A process of the service, over all its lives."""

    number: int
    name: str
    child: Child | None = None
    ready: asyncio.Event = field(default_factory=asyncio.Event)
    calls: Calls = field(default_factory=Calls)
    failure: FoveateError | None = None
    """Why it could not start."""
    served: bool = False
    """Whether it ever was ready."""
    pause_s: float = _FIRST_PAUSE_S
    started_s: float = 0.0
    starts: int = 0

    @property
    def link(self) -> Link | None:
        return self.child.link if self.child else None


@dataclass(eq=False, kw_only=True)
class _EnginePart(_Part):
    device: str
    counts: LaneTable | None = None
    pipelines: PipelineSet | None = None
    answers: dict[str, KnownAnswer] = field(default_factory=dict)


@dataclass(eq=False, kw_only=True)
class _IngestPart(_Part):
    counts_file: int
    counts: IngestTable
    gallery: RemoteGallery | None = None
    """Its pictures, once somebody has looked in this life of it."""

    def evict(self, stream_id: str) -> None:
        """See `directory.Holder`."""
        if self.link:
            with suppress(LinkBroken):
                self.link.send("evict", stream_id)


class Supervisor:
    """A running service of several processes. Make it and use it within one event loop, of the thread that stays."""

    def __init__(self, config: ServiceConfig, ingests: int, programs: Programs | None = None) -> None:
        self._config = config
        self._programs = programs or Programs()
        names = device_names(config.devices)
        self._engines = [
            _EnginePart(number=number, name=f"engine {name}", device=name) for number, name in enumerate(names)
        ]
        count = 1 if config.listen.startswith("unix:") else ingests  # a socket file cannot be shared
        self._directory = StreamDirectory(config.limits.max_streams, config.resume_s)
        self._counts = ServiceCounts(config.pipelines, config.metrics_streams, self._directory.is_open)
        self._lane_totals = LaneTotals()
        self._ingests = [self._new_ingest(number) for number in range(count)]
        self._port: SharedPort | None = None
        self._stopping = False
        self._tasks: set[asyncio.Task[None]] = set()
        self.address = config.listen

    def _new_ingest(self, number: int) -> _IngestPart:
        file = SharedCounts.new_file(self._counts.layout.length)
        self._counts.add(table := IngestTable(self._counts.layout, file))
        return _IngestPart(number=number, name=f"ingest {number}", counts_file=file, counts=table)

    @property
    def pipelines(self) -> PipelineSet:
        """What is served. Raises: EngineError where no engine has been loaded."""
        loaded = [engine.pipelines for engine in self._engines if engine.pipelines is not None]
        if not loaded:
            raise EngineError("no engine has been loaded")
        return PipelineSet.together(loaded)

    @property
    def processes(self) -> dict[str, int]:
        """The process ids of those that run, by name."""
        return {part.name: part.child.pid for part in self._parts if part.child}

    @property
    def _parts(self) -> list[_Part]:
        return [*self._engines, *self._ingests]

    async def start(self) -> str:
        """Start all processes, and return the address as HOST:PORT once every one of them serves.

        Raises: ConfigError if the port cannot be had, FoveateError if the default pipeline cannot be served.
        """
        if not self.address.startswith("unix:"):
            self._port = SharedPort(self._config.listen)
            self.address = self._port.address
        if self._config.trace:
            begin_trace(self._config.trace)
        try:
            for part in self._parts:
                self._launch(part)
            for part in self._parts:
                await part.ready.wait()
                if part.failure:
                    raise part.failure
        except BaseException:
            await self.stop(0)
            raise
        return self.address

    async def stop(self, grace_ms: int | None = None) -> None:
        """Drain in the frame's order: first the ingests answer what waits, then the engines are released."""
        self._stopping = True
        grace_ms = self._config.drain_grace_ms if grace_ms is None else grace_ms
        await self._end(self._ingests, "drain", grace_ms, within_s=grace_ms / 1e3 + _ENDED_WITHIN_S)
        await self._end(self._engines, "end", within_s=_ENDED_WITHIN_S)
        for task in self._tasks:
            task.cancel()
        for ingest in self._ingests:
            os.close(ingest.counts_file)
        if self._port:
            self._port.close()
        if self._config.trace and self._config.trace.exists():
            end_trace(self._config.trace)

    async def _end(self, parts: list[Any], *message: Any, within_s: float) -> None:
        children = [part.child for part in parts if part.child]
        for child in children:
            with suppress(LinkBroken):
                child.link.send(*message)
        await asyncio.gather(*(asyncio.to_thread(child.wait, within_s) for child in children))
        for part in parts:
            if part.child:
                self._forget(part)

    def _launch(self, part: _Part) -> None:
        part.started_s = time.monotonic()
        program = self._programs.engine if isinstance(part, _EnginePart) else self._programs.ingest
        part.child = child = Child(program)
        part.starts += 1
        asyncio.get_running_loop().add_reader(child.link.fileno(), self._read, part, child)
        config = self._config.model_dump_json()
        try:
            if isinstance(part, _EnginePart):
                child.link.send("start", config, part.device, visible_gpu(part.device), part.answers)
            elif isinstance(part, _IngestPart):
                child.link.send("start", config, self.address, len(self._engines), files=[part.counts_file])
                for engine in self._engines:
                    self._introduce(part, engine)
        except LinkBroken:
            pass  # it died at once, which is seen where its link is read

    def _introduce(self, ingest: _IngestPart, engine: _EnginePart) -> None:
        """Connect an ingest with an engine process that has loaded its engines."""
        if engine.pipelines is None or not (ingest.link and engine.link):
            return
        ends = Link.pair()
        try:
            engine.link.send("ingest", files=[ends[0].fileno()])
            ingest.link.send("device", engine.number, files=[ends[1].fileno()])
        except LinkBroken:
            pass  # one of them has just died, and is introduced again in its next life
        finally:
            for end in ends:
                end.close()

    def _read(self, part: _Part, child: Child) -> None:
        try:
            for message, files in child.link.receive():
                try:
                    self._handle(part, message, files)
                except Exception:  # noqa: BLE001 - what the others say who came along with it is waited for
                    _log.exception("the message %s of the %s process made no sense", message[0], part.name)
                    if message[0] == "ready":  # nobody would learn that it serves
                        os.kill(child.pid, signal.SIGKILL)
        except LinkBroken:
            if part.child is child:
                self._bury(part)

    def _handle(self, part: _Part, message: tuple[Any, ...], files: list[int]) -> None:
        match part, message:
            case _EnginePart(), ("ready", pipelines, default, answers, lanes):
                part.counts = LaneTable(lanes, files[0])
                self._lane_totals.add(part.device, part.counts)
                os.close(files[0])
                part.answers = part.answers or answers
                part.pipelines = PipelineSet(pipelines, default)
                self._directory.serving[part.number] = {pipeline.name for pipeline in part.pipelines.ready}
                self._serves(part)
                for ingest in self._ingests:
                    self._introduce(ingest, part)
            case _IngestPart(), ("ready", _):
                self._serves(part)
            case _, ("failed", error):
                part.failure = error
                if part.served:
                    _log.error("the %s process cannot go on: %s", part.name, error)
                part.ready.set()
            case _, ("answer", number, outcome):
                part.calls.answer(number, outcome)
            case _IngestPart(), ("unlinked", number):
                self._introduce(part, self._engines[number])
            case _IngestPart(), ("claim", number, *wanted):
                self._begin(self._claim(part, part.link, number, *wanted))
            case _IngestPart(), ("release", record, resumable):
                self._directory.release(part, record, resumable=resumable)
            case _IngestPart(), ("status", number):
                self._begin(self._tell_status(part.link, number))
            case _:
                raise ValueError(f"the {part.name} process said {message[0]!r}, which has no meaning")

    def _serves(self, part: _Part) -> None:
        part.served = True
        part.ready.set()
        if part.child:
            self._begin(self._watch(part, part.child))

    async def _watch(self, part: _Part, child: Child) -> None:
        """Kill a process that hangs; it is then replaced as one that has died.

        It answers from the thread that does its work or shares the interpreter with that one.
        """
        missed = 0
        while missed < _PINGS:
            await asyncio.sleep(_PING_EVERY_S if not missed else 0)
            if part.child is not child or self._stopping:
                return
            try:
                await asyncio.wait_for(part.calls.call(child.link, "ping"), self._config.hang_s / _PINGS)
                missed = 0
            except TimeoutError:
                missed += 1
            except (LinkBroken, FoveateError):
                return  # it has died, which is seen where its link is read
        _log.error("the %s process has given no sign of life for %g s: it is killed", part.name, self._config.hang_s)
        os.kill(child.pid, signal.SIGKILL)  # its end is seen where its link is read

    def _begin(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _claim(
        self, ingest: _IngestPart, link: Link | None, number: int, stream_id: str, token: str, pipeline: str
    ) -> None:
        try:
            claim = await self._directory.claim(ingest, stream_id, token, pipeline)
            series = self._counts.series(claim.record.stream_id, pipeline, named=bool(stream_id))
            outcome: object = replace(claim, series=series)
            if ingest.link is not link:  # the process that asked has died meanwhile
                self._directory.release(ingest, claim.record, resumable=claim.resumed)
        except FoveateError as error:
            outcome = error
        except Exception as error:  # noqa: BLE001 - the outer edge of the task: an ingest waits for its answer
            outcome = _fault("a stream could not be entered", error)
        _reply(link, number, outcome)

    async def _tell_status(self, link: Link | None, number: int) -> None:
        try:
            outcome: object = await self.status()
        except Exception as error:  # noqa: BLE001 - the outer edge of the task: an ingest waits for its answer
            outcome = _fault("the service's status could not be told", error)
        _reply(link, number, outcome)

    @property
    def draining(self) -> bool:
        """Whether it is about to stop."""
        return self._stopping

    @property
    def unready(self) -> str:
        """Why it cannot take new streams for its default pipeline now; "" where it can."""
        if self._stopping:
            return "it is draining"
        if not any(part.child and part.served for part in self._ingests):
            return "no ingest process serves now"
        if not self._directory.serving:
            return "no engine serves now"
        try:
            self.pipelines.get("")
        except FoveateError as error:
            return str(error)
        return ""

    def watch(self, wishes: PictureWishes, sink: LiveSink) -> None:
        """Show these streams, and no others, to `sink` for some seconds."""
        for ingest in self._ingests:
            if ingest.gallery and ingest.gallery.ended:
                ingest.gallery = None
            if ingest.gallery is None and wishes and ingest.link and ingest.served:
                ours, theirs = Link.pair()
                with theirs, suppress(LinkBroken):  # it has just died, and is asked again in its next life
                    ingest.link.send("live", files=[theirs.fileno()])
                ingest.gallery = RemoteGallery(ours, sink)
            if ingest.gallery:
                ingest.gallery.watch(wishes)

    async def status(self) -> ServiceStatus:
        """How the whole service stands now."""
        lanes: list[LaneStatus] = []
        streams: list[StreamStatus] = []
        engines = [self._ask(engine, "status") for engine in self._engines if engine.pipelines]
        ingests = [self._ask(ingest, "streams") for ingest in self._ingests]
        for found in await asyncio.gather(*engines):
            lanes += found
        for found in await asyncio.gather(*ingests):
            streams += found
        return ServiceStatus(lanes, streams, self._counts.ledger())

    async def metrics(self) -> ServiceMetrics:
        """All that the service tells about itself, now."""
        engines = asyncio.gather(*(self._ask(engine, "status") for engine in self._engines if engine.pipelines))
        ingests = asyncio.gather(*(self._ask(ingest, "standing") for ingest in self._ingests))
        running = [lane for lanes in await engines for lane in lanes]
        standing = IngestStanding()
        for found in await ingests:
            for each in found:
                standing.add(each)
        lives = [ProcessLife(part.name, part.child.pid if part.child else None, part.starts) for part in self._parts]
        lives.append(ProcessLife("supervisor", os.getpid(), 1))
        return self._counts.metrics(self._lane_totals, running, standing, lives)

    async def _ask(self, part: _Part, kind: str) -> list[Any]:
        """What a process says; nothing where it is down or hangs."""
        if part.link and part.ready.is_set():
            with suppress(LinkBroken, FoveateError, TimeoutError):
                answer: list[Any] = await asyncio.wait_for(part.calls.call(part.link, kind), _ANSWERED_WITHIN_S)
                return answer
        return []

    def _bury(self, part: _Part) -> None:
        """A process has died: keep what must outlive it, and start it again unless all is to end."""
        code = self._forget(part)
        if isinstance(part, _EnginePart):
            part.pipelines = None
            if part.counts:
                self._lane_totals.bury(part.counts)
                part.counts = None
            self._directory.serving.pop(part.number, None)
        elif isinstance(part, _IngestPart):
            self._counts.bury(part.counts)
            self._directory.lose(part)
        if self._stopping:
            return
        if not part.served:
            died = EngineError(f"the {part.name} process died while it started: see its messages above")
            part.failure = part.failure or died
            part.ready.set()
            return
        lived_s = time.monotonic() - part.started_s
        part.pause_s = _FIRST_PAUSE_S if lived_s > _LIVED_WELL_S else min(2 * part.pause_s, _LONGEST_PAUSE_S)
        _log.error("the %s process has died (exit code %d): it is started again", part.name, code)
        self._begin(self._relaunch(part))

    async def _relaunch(self, part: _Part) -> None:
        await asyncio.sleep(part.pause_s)
        while not self._stopping:
            try:
                self._launch(part)
            except OSError as error:  # no memory, or too many processes: that may pass
                part.pause_s = min(2 * part.pause_s, _LONGEST_PAUSE_S)
                _log.error("the %s process cannot be started, in %g s again: %s", part.name, part.pause_s, error)
                await asyncio.sleep(part.pause_s)
            else:
                return

    def _forget(self, part: _Part) -> int:
        child, part.child = part.child, None
        if isinstance(part, _IngestPart) and part.gallery:
            part.gallery.close()
            part.gallery = None
        assert child is not None
        asyncio.get_running_loop().remove_reader(child.link.fileno())
        part.calls.fail(EngineError(f"the {part.name} process has died"))
        return child.end()


def _fault(what: str, error: Exception) -> FoveateError:
    """What whoever asked is told of an error that nobody expected."""
    _log.error(what, exc_info=error)
    return FoveateError(f"{what}: {type(error).__name__}")


def _reply(link: Link | None, number: int, outcome: object) -> None:
    """Answer a call of an ingest: over the link that it came by, since its next life has calls of the same numbers."""
    if link is not None:
        with suppress(LinkBroken):
            link.send("answer", number, outcome)

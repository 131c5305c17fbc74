"""An ingest in another process, as a device sees it."""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from foveate.engines.errors import EngineError, FoveateError
from foveate.service.boundary import Encoded, FrameTicket, Prepared, Refused, Row, VideoUnit
from foveate.service.device import Device, DeviceSession
from foveate.service.frame import Ran, Verdict
from foveate.service.link import Link, LinkBroken
from foveate.service.pipeline import PipelineSet

__all__ = ["RemoteIngest", "serve_ingest"]

_log = logging.getLogger(__name__)


class RemoteIngest:
    """`boundary.IngestPort` over a link. Thread-safe."""

    def __init__(self, link: Link) -> None:
        self._link = link
        self._lock = threading.Lock()
        self._preparing: dict[int, Prepared] = {}
        self._gone = False

    def prepare(self, pipeline: str, slot: int, rows: Sequence[Row], done: Prepared) -> None:
        """See `IngestPort`."""
        with self._lock:
            self._preparing.update((row.frame, done) for row in rows)
            gone = self._gone
        if gone:
            self.lose()
        else:
            self._send("prepare", pipeline, slot, [tuple(row) for row in rows])

    def prepared(self, frame: int, succeeded: bool, encoded: Encoded | None = None) -> None:
        """The ingest is done with a row."""
        with self._lock:
            done = self._preparing.pop(frame, None)
        if done:
            done(frame, succeeded, encoded)

    def refuse(self, refused: Sequence[Refused]) -> None:
        """See `IngestPort`."""
        self._send("refuse", [(each.frame, each.verdict.value, each.message, each.batch_size) for each in refused])

    def deliver(self, pipeline: str, ran: Ran, outputs: Sequence[tuple[int, Mapping[str, NDArray[Any]]]]) -> None:
        """See `IngestPort`."""
        rows = [(frame, [values.tobytes() for values in row.values()]) for frame, row in outputs]
        self._send("ran", pipeline, tuple(ran), rows)

    def advise(self, rates: Mapping[int, float]) -> None:
        """What these streams may expect from now on."""
        self._send("rates", dict(rates))

    def answer_video(self, number: int, work: Callable[[], object]) -> None:
        """Do what the ingest waits for, and tell it what came of it; pixels go as a file."""
        files: list[int] = []
        try:
            outcome = work()
            if isinstance(outcome, np.ndarray):
                files, outcome = [_file_of(outcome)], outcome.shape
        except FoveateError as error:
            outcome = error
        except Exception as error:  # noqa: BLE001 - the ingest must be told
            _log.exception("decoding video failed")
            outcome = EngineError(f"the device's decoder failed: {type(error).__name__}")
        try:
            self._send("video", number, outcome, files=files)
        finally:
            for handle in files:
                os.close(handle)

    def lose(self) -> None:
        """The ingest has died: what it was decoding will not be."""
        with self._lock:
            self._gone = True
            lost = list(self._preparing)
        for frame in lost:
            self.prepared(frame, False)

    def _send(self, *message: Any, files: Sequence[int] = ()) -> None:
        try:
            self._link.send(*message, files=files)
        except LinkBroken:
            self.lose()


class _Advice:
    """Tells an ingest of its streams' rates as they change."""

    def __init__(self, session: DeviceSession, ingest: RemoteIngest) -> None:
        self._session = session
        self._ingest = ingest
        self._told: dict[int, float] = {}

    def tell(self) -> None:
        rates = self._session.rates()
        changed = {stream: fps for stream, fps in rates.items() if self._told.get(stream) != fps}
        self._told = rates
        if changed:
            self._ingest.advise(changed)


_ADVISED_EVERY_S = 0.5


def serve_ingest(link: Link, device: Device, pipelines: PipelineSet, memories: Mapping[str, int]) -> None:
    """Serve an ingest in another process until it goes. `memories` are the files of the slots by pipeline.

    Blocks; for a thread of its own.
    """
    ingest = RemoteIngest(link)
    session = device.session(ingest)
    over = threading.Event()
    advice = _Advice(session, ingest)

    def advise() -> None:
        while not over.wait(_ADVISED_EVERY_S):
            try:
                advice.tell()
            except Exception:  # noqa: BLE001 - the outer edge of the thread: streams are advised again, half a second on
                _log.exception("an ingest could not be told of its streams' rates")

    adviser = threading.Thread(target=advise, name="advice", daemon=True)
    try:
        serving = (pipelines.all, pipelines.default, list(memories), device.video.refusals())
        link.send("serving", *serving, files=list(memories.values()))
        adviser.start()
        while True:
            for message, _ in link.receive():
                try:
                    _handle(message, link, device, session, ingest)
                except LinkBroken:
                    raise
                except Exception as error:  # noqa: BLE001 - one message must not end an ingest's service
                    _log.exception("the message %s of an ingest made no sense", message[0])
                    _answer_for(message, f"the engine process failed: {type(error).__name__}", link, ingest)
    except LinkBroken:
        pass
    finally:
        over.set()
        session.close()
        ingest.lose()
        link.close()


def _handle(message: tuple[Any, ...], link: Link, device: Device, session: DeviceSession, ingest: RemoteIngest) -> None:
    match message:
        case ("submit", ticket, replies):
            _learn(session, replies)
            session.submit(FrameTicket(*ticket))
        case ("prepared", frame, succeeded, encoded):
            ingest.prepared(frame, succeeded, encoded and Encoded(*encoded))
        case ("decode", number, stream, unit):
            device.video.later(
                partial(ingest.answer_video, number, partial(session.decode_unit, stream, VideoUnit(*unit)))
            )
        case ("pixels", number, picture, size):
            fetched = partial(session.picture_pixels, picture, size)
            device.video.fetch_later(partial(ingest.answer_video, number, fetched))
        case ("drop", picture):
            session.drop_picture(picture)
        case ("admit", number, stream, options):
            try:
                outcome: object = session.admit_now(stream, options)
            except FoveateError as error:
                outcome = error
            link.send("answer", number, outcome)
        case ("enter", stream, options, grant):
            session.enter(stream, options, grant)
        case ("leave", stream, replies):
            _learn(session, replies)
            session.leave(stream)
        case _:
            raise ValueError(f"a message of an ingest was expected, not {message[0]!r}")


def _file_of(pixels: NDArray[Any]) -> int:
    """Memory without a name that another process can map."""
    handle = os.memfd_create("foveate-pixels", os.MFD_CLOEXEC)
    try:
        with os.fdopen(handle, "wb", closefd=False) as file:
            file.write(pixels.data)
    except BaseException:
        os.close(handle)
        raise
    return handle


def _answer_for(message: tuple[Any, ...], why: str, link: Link, ingest: RemoteIngest) -> None:
    """Tell whoever waits for what a message should have led to."""
    match message:
        case ("submit", ticket, _):
            ingest.refuse([Refused(ticket[0], Verdict.FAILED, why)])
        case ("admit", number, *_):
            link.send("answer", number, EngineError(why))
        case ("decode" | "pixels", number, *_):
            link.send("video", number, EngineError(why))


def _learn(session: DeviceSession, replies: Sequence[tuple[int, int]]) -> None:
    for stream, took_ns in replies:
        session.observe_reply(stream, took_ns)

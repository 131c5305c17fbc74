"""A device in another process, as an ingest sees it."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from typing import Any

import numpy as np
from numpy.typing import NDArray

from foveate.engines.contract import TensorSpec
from foveate.engines.errors import EngineUnavailable
from foveate.service.boundary import Admission, Encoded, FrameTicket, PictureTicket, Refused, Row, VideoUnit
from foveate.service.frame import Grant, PixelFormat, Ran, StreamOptions, Verdict
from foveate.service.ingest import Ingest
from foveate.service.link import Calls, Link, LinkBroken
from foveate.service.pipeline import PipelineSet
from foveate.service.remote_video import RemoteVideo
from foveate.service.slot_memory import SlotMemory

__all__ = ["RemoteDevice"]

_log = logging.getLogger(__name__)

_LOST = "the engine process has died and is being started again: send the next frame in some seconds"


class RemoteDevice:
    """`boundary.DevicePort` over a link, which may break and be replaced. Belongs to the event loop's thread."""

    def __init__(
        self, ingest: Ingest, on_change: Callable[[], None], on_break: Callable[[], object] = lambda: None
    ) -> None:
        """`on_change` is called when the device has come or gone, `on_break` when its link has ended: perhaps that
        alone, where one side did not listen for too long, and another one can be had.
        """
        self._ingest = ingest
        self._on_change, self._on_break = on_change, on_break
        self._link: Link | None = None
        self._calls = Calls()
        self._streams: dict[int, tuple[StreamOptions, Grant | None]] = {}
        self._rates: dict[int, float] = {}
        self._replies: list[tuple[int, int]] = []
        self._specs: dict[str, Sequence[TensorSpec]] = {}
        self._serving = False
        self._loop: asyncio.AbstractEventLoop | None = None
        self._video = RemoteVideo(self._send, self._soon, _LOST)
        self._introduced = asyncio.Event()
        """Cleared while a device that has come has not said yet what it serves."""
        self._introduced.set()
        self.pipelines: PipelineSet | None = None
        """What it serves, or served until it was lost."""

    def connect(self, link: Link) -> None:
        """Go on over this link: its first message says what is served. Streams of before are entered again."""
        self.lose()
        self._link, self._loop = link, asyncio.get_running_loop()
        self._introduced.clear()
        self._loop.add_reader(link.fileno(), self._read, link)

    def lose(self) -> None:
        """The device is gone, with all frames that it had; they are answered FAILED."""
        link, self._link = self._link, None
        if link is None:
            return
        was_serving, self._serving = self._serving, False
        self._introduced.set()
        asyncio.get_running_loop().remove_reader(link.fileno())
        link.close()
        self._calls.fail(EngineUnavailable(_LOST))
        self._video.lose()
        self._ingest.fail_all(_LOST)
        self._rates.clear()
        self._replies.clear()
        if was_serving:
            self._on_change()

    def serves(self, pipeline: str) -> bool:
        """See `DevicePort`."""
        return self._serving and self.pipelines is not None and self.pipelines.serves(pipeline)

    async def admit(self, stream: int, options: StreamOptions) -> Admission:
        """See `DevicePort`."""
        admission: Admission = await self._call("admit", stream, options)
        self._streams[stream] = (options, admission.grant)
        self._rates[stream] = admission.advised_fps
        return admission

    def enter(self, stream: int, options: StreamOptions, grant: Grant | None = None) -> None:
        """See `DevicePort`."""
        self._streams[stream] = (options, grant)
        self._send("enter", stream, options, grant)

    def leave(self, stream: int) -> None:
        """See `DevicePort`."""
        self._rates.pop(stream, None)
        self._streams.pop(stream, None)
        self._send("leave", stream, self._take_replies())  # a single picture's has no other way

    def submit(self, ticket: FrameTicket) -> None:
        """See `DevicePort`."""
        replies = self._take_replies()
        if not self._serving or not self._send("submit", tuple(ticket), replies):
            self._ingest.refuse([Refused(ticket.frame, Verdict.FAILED, _LOST)])

    def observe_reply(self, stream: int, took_ns: int) -> None:
        """See `DevicePort`. It goes along with the next frame, or the stream's end."""
        self._replies.append((stream, took_ns))

    def advised_fps(self, stream: int) -> float:
        """See `DevicePort`."""
        return self._rates.get(stream, 0.0)

    def video_refusal(self, kind: PixelFormat) -> str:
        """See `DevicePort`."""
        return self._video.refusal(kind)

    def decode_unit(self, stream: int, unit: VideoUnit) -> PictureTicket | None:
        """See `DevicePort`."""
        return self._video.decode(stream, unit)

    def picture_pixels(self, picture: int, size: tuple[int, int]) -> NDArray[np.uint8]:
        """See `DevicePort`."""
        return self._video.pixels(picture, size)

    def drop_picture(self, picture: int) -> None:
        """See `DevicePort`."""
        self._video.drop(picture)

    def _soon(self, call: Callable[[], object]) -> None:
        if self._loop:
            with suppress(RuntimeError):  # it has ended, and with it the process
                self._loop.call_soon_threadsafe(call)

    def _take_replies(self) -> list[tuple[int, int]]:
        replies, self._replies = self._replies, []
        return replies

    async def _call(self, kind: str, *arguments: Any) -> Any:
        await self._introduced.wait()
        if not self._serving or self._link is None:
            raise EngineUnavailable(_LOST)
        try:
            return await self._calls.call(self._link, kind, *arguments)
        except LinkBroken as error:
            raise EngineUnavailable(_LOST) from error

    def _send(self, *message: Any) -> bool:
        """Whether it could be sent; what could not is seen to when the link's end is read."""
        try:
            if (link := self._link) is not None:
                link.send(*message)
                return True
        except LinkBroken:
            pass
        return False

    def _read(self, link: Link) -> None:
        try:
            for message, files in link.receive():
                try:
                    self._handle(link, message, files)
                except Exception as error:  # noqa: BLE001 - others' frames are in the messages that came along with it
                    _log.exception("the message %s of a device made no sense", message[0])
                    self._answer_for(link, message, f"the service failed: {type(error).__name__}")
        except LinkBroken:
            if link is self._link:
                self.lose()
                self._on_break()

    def _handle(self, link: Link, message: tuple[Any, ...], files: list[int]) -> None:
        match message:
            case ("prepare", pipeline, slot, rows):
                self._ingest.start_decoding(pipeline, slot, [Row(*row) for row in rows], _Prepared(link))
            case ("ran", pipeline, ran, rows):
                specs = self._specs[pipeline]
                outputs = [(frame, _arrays(specs, values)) for frame, values in rows]
                self._ingest.settle_run(pipeline, Ran(*ran), outputs)
            case ("refuse", refused):
                told = [Refused(frame, Verdict(verdict), *why) for frame, verdict, *why in refused]
                self._ingest.settle_refused(told)
            case ("rates", rates):
                self._rates.update((stream, fps) for stream, fps in rates.items() if stream in self._streams)
            case ("answer", number, outcome):
                self._calls.answer(number, outcome)
            case ("video", number, outcome):
                self._video.answer(number, outcome, files)
            case ("serving", pipelines, default, names, refusals):
                self._video.serve(refusals)
                self._serve(PipelineSet(pipelines, default), dict(zip(names, files, strict=True)))
            case _:
                raise ValueError(f"a message of a device was expected, not {message[0]!r}")

    def _answer_for(self, link: Link, message: tuple[Any, ...], why: str) -> None:
        """Fail the frames that a message was about: the device waits for those that it has chosen."""
        match message:
            case ("prepare", _, _, rows):
                for frame, *_ in rows:
                    _Prepared(link)(frame, False)
                self._ingest.settle_refused([Refused(frame, Verdict.FAILED, why) for frame, *_ in rows])
            case ("ran", _, _, rows):
                self._ingest.settle_refused([Refused(frame, Verdict.FAILED, why) for frame, _ in rows])

    def _serve(self, pipelines: PipelineSet, files: Mapping[str, int]) -> None:
        for pipeline in pipelines.ready:
            memory = SlotMemory(pipeline.engine, pipeline.slots, files[pipeline.name])
            self._ingest.serve(pipeline, memory.inputs())
            self._specs[pipeline.name] = pipeline.engine.outputs
            memory.close()
        self.pipelines, self._serving = pipelines, True
        self._introduced.set()
        for stream, (options, grant) in self._streams.items():
            if pipelines.serves(options.pipeline):
                self._send("enter", stream, options, grant)
        self._on_change()


class _Prepared:
    """Tells a device that a row is written; from any thread."""

    def __init__(self, link: Link) -> None:
        self._link = link

    def __call__(self, frame: int, succeeded: bool, encoded: Encoded | None = None) -> None:
        with suppress(LinkBroken):
            self._link.send("prepared", frame, succeeded, encoded and tuple(encoded))


def _arrays(specs: Sequence[TensorSpec], values: Sequence[bytes]) -> dict[str, NDArray[Any]]:
    return {
        spec.name: np.frombuffer(data, spec.dtype).reshape(spec.shape) for spec, data in zip(specs, values, strict=True)
    }

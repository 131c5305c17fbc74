"""One source of pictures, streamed to one server as a person at the command line asked for it."""

from __future__ import annotations

import itertools
import signal
import threading
import time
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import FrameType, TracebackType
from typing import Self

from foveate.client import Client, ClientError, Delivery, Frame, Reconnect, Result, Stream, StreamSettings
from foveate.engines.errors import ConfigError, FoveateError
from foveate.tools.video_source import Image, VideoSource, encoded, paced

__all__ = ["StreamPlan", "StreamRun", "connected", "interrupts_set"]

_PICTURE_BUDGET_MS = 10_000
"""Pictures on disk are in no hurry."""
_REDIAL_S = 5.0
_READER_ENDS_WITHIN_S = 2.0
"""For a source to end between two pictures; a camera driver that hangs takes longer."""


@dataclass(frozen=True, slots=True)
class StreamPlan:
    """What was asked for. None and "": what suits the source, or what the server holds."""

    pipeline: str = ""
    budget_ms: int | None = None
    fps: float | None = None
    delivery: Delivery | None = None
    min_score: float | None = None
    quality: int = 90
    loop: bool = False
    max_frames: int | None = None


class StreamRun:
    """Streams a source; iterating gives each frame's result with the bytes that were sent for it. Use it in a ``with``
    block: it does not end on its own before the source does.

    A source with a rhythm is sent like a camera: at that rhythm, and by default with the newest frame first.
    Pictures without one are sent as fast as they are answered.
    """

    def __init__(self, client: Client, source: VideoSource, plan: StreamPlan, stop: threading.Event) -> None:
        """Setting `stop` ends the source; frames on their way are still answered."""
        self.fps = plan.fps or source.fps
        """Frames per second that are sent; None: as they are answered."""
        self._source = source
        self._plan = plan
        self._stop = stop
        self._sent: deque[bytes] = deque()
        self._reader: threading.Thread | None = None
        delivery = plan.delivery or (Delivery.LATEST if self.fps else Delivery.QUEUE)
        self._stream: Stream = client.stream(
            self._frames(),
            live=delivery is Delivery.LATEST and self.fps is not None,
            **self._settings(delivery),
        )

    def opened_on(self) -> str:
        """What serves the stream, in words. Raises: FoveateError if no server opens it."""
        with _client_errors():
            info = self._stream.opened()
        grant = info.grant.value.replace("_", " ")
        return f"{info.engine}, budget {info.budget_ms} ms, {grant}, up to {info.advised_fps:.0f} fps"

    def __iter__(self) -> Iterator[tuple[Result, bytes]]:
        """Raises: FoveateError if the stream could not go on, after all results."""
        with _client_errors(), self._stream:
            # Every frame gets exactly one result, in frame order: so the oldest bytes are this result's.
            while (result := self._stream.next()) is not None:
                yield result, self._sent.popleft()

    def close(self) -> None:
        """End the stream and the source now. Idempotent."""
        self._stop.set()
        self._stream.close()
        if self._reader is not None:
            # The interpreter must not end while the source is inside OpenCV: C++ would terminate the process.
            self._reader.join(_READER_ENDS_WITHIN_S)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _settings(self, delivery: Delivery) -> StreamSettings:
        plan = self._plan
        settings: StreamSettings = {"pipeline": plan.pipeline, "delivery": delivery}
        if plan.budget_ms is not None:
            settings["budget_ms"] = plan.budget_ms
        elif self.fps is None:
            settings["budget_ms"] = _PICTURE_BUDGET_MS
        if self.fps is not None:
            settings["fps"] = self.fps
        if plan.min_score is not None:
            settings["min_score"] = plan.min_score
        return settings

    def _frames(self) -> Iterator[Frame]:
        self._reader = threading.current_thread()
        pictures: Iterator[Image | bytes] = itertools.islice(self._pictures(), self._plan.max_frames)
        if self.fps is not None and not self._source.keeps_time:
            pictures = paced(pictures, self.fps, self._stop)
        for picture in pictures:
            if self._stop.is_set():
                return
            captured_at = time.monotonic() if self.fps is not None else None
            data = encoded(picture, self._plan.quality)
            self._sent.append(data)
            yield Frame(data, captured_at)

    def _pictures(self) -> Iterator[Image | bytes]:
        if not self._stop.is_set():
            yield from self._source
        while self._plan.loop and not self._stop.is_set():
            yield from self._source


@contextmanager
def connected(server: str | None, pipeline: str, config: Path | None = None) -> Iterator[Client]:
    """A client of the server that was named; else of one that serves this pipeline for as long as it is used.

    `config` is the file with the settings of the latter. Raises: FoveateError if none can be started.
    """
    reconnect = Reconnect(max_reconnect_s=_REDIAL_S)
    if server is not None:
        if config is not None:
            raise ConfigError(f"{config} cannot hold for the server {server}: give --config or --server, not both")
        with Client(server, reconnect=reconnect) as client:
            yield client
        return
    # Here and not above, because it loads the whole service.
    from foveate.service.config import load_config
    from foveate.service.embedded import embedded_server

    settings = load_config(config)
    names = [pipeline or settings.default_pipeline_name]
    with embedded_server(names, settings) as address, Client(address, reconnect=reconnect) as client:
        yield client


@contextmanager
def interrupts_set(stop: threading.Event) -> Iterator[None]:
    """The first Ctrl-C sets `stop`; a second one interrupts as ever. Only in a program's main thread."""
    former = signal.getsignal(signal.SIGINT)

    def once(_number: int, _frame: FrameType | None) -> None:
        stop.set()
        signal.signal(signal.SIGINT, former)

    signal.signal(signal.SIGINT, once)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, former)


@contextmanager
def _client_errors() -> Iterator[None]:
    """The client stands alone, so its errors are no FoveateErrors; a command shows both alike."""
    try:
        yield
    except ClientError as error:
        raise FoveateError(str(error)) from error

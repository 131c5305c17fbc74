"""The HTTP side of a service in a test, and cameras that send to it until they are stopped."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Callable, Coroutine, Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Any

import cv2
import grpc
import numpy as np

from foveate.service.config import ServiceConfig, load_config
from foveate.service.http_server import HttpServer
from foveate.service.live.source import LiveService
from foveate.service.serve import serve
from foveate.service.server import Server
from support.raw_stream import RawStream
from support.service import fake_engine, fake_opening, grey_config

__all__ = ["Camera", "http_side", "live_cameras", "moving_pictures", "serve_until_signal"]

Run = Callable[[Coroutine[Any, Any, Any]], Any]
"""Runs a coroutine in the service's event loop, and waits for it."""


@contextmanager
def http_side(run: Run, service: LiveService, listen: str = "127.0.0.1:0", **wishes: Any) -> Iterator[HttpServer]:
    """Serve the live page of a service until the block ends."""

    async def start() -> HttpServer:
        server = HttpServer(listen, service, **wishes)
        await server.start()
        return server

    server = run(start())
    try:
        yield server
    finally:
        run(server.stop())


class Camera:
    """A stream that sends one picture after the other, until it is stopped or loses its connection."""

    def __init__(self, stub: Any, stream_id: str, pictures: Sequence[bytes], fps: float = 20.0, **opening: Any) -> None:
        self.stream = RawStream(stub)
        self.stream.open(**{"stream_id": stream_id, "budget_ms": 5000, **opening})
        self._pictures = pictures
        self._pause_s = 1 / fps
        self.fields: dict[str, Any] = {}
        """More of each frame's message."""
        self._stopping = threading.Event()
        self.paused = threading.Event()
        self._threads = [threading.Thread(target=work, name=stream_id) for work in (self._send, self._take)]
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        """Go without a word, as a camera that has lost its power."""
        self._stopping.set()
        self.stream.cancel()
        for thread in self._threads:
            thread.join()

    def _send(self) -> None:
        for sequence, picture in zip(itertools.count(1), itertools.cycle(self._pictures), strict=False):
            if not self.paused.is_set():
                self.stream.frame(sequence, picture, **self.fields)
            if self._stopping.wait(self._pause_s):
                return

    def _take(self) -> None:
        with suppress(grpc.RpcError):
            for _ in self.stream.call:
                pass


@contextmanager
def live_cameras(cameras: Sequence[Camera]) -> Iterator[None]:
    """Stop them in the end."""
    try:
        yield
    finally:
        for camera in cameras:
            camera.stop()


def moving_pictures(width: int = 160, height: int = 120, count: int = 8, grey: int = 25) -> list[bytes]:
    """JPEGs in one grey over which a bright bar goes from left to right."""
    pictures = []
    for index in range(count):
        image = np.full((height, width, 3), grey, np.uint8)
        left = width * 6 // 10 + index * width * 4 // (10 * count)
        image[:, left : left + max(2, width // (4 * count))] = 255
        done, data = cv2.imencode(".jpg", image)
        assert done
        pictures.append(data.tobytes())
    return pictures


async def serve_until_signal() -> None:
    """The fake detector with its live page as a process of its own: prints both addresses, and drains on a signal."""

    def new(config: ServiceConfig) -> Server:
        return Server(config, fake_opening(fake_engine(), 1.0, {}))

    config = load_config(listen="127.0.0.1:0", http="127.0.0.1:0", pipelines=grey_config())
    await serve(config, lambda address, _: print(address, flush=True), new, lambda url: print(url, flush=True))

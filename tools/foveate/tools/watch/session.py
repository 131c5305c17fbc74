"""Watching many cameras at once: one loop, one connection to the server, a thread for each camera."""

from __future__ import annotations

import asyncio
import math
import os
import signal
import threading
import time
from collections.abc import Awaitable, Callable, Coroutine, Iterator, Sequence
from concurrent.futures import Executor, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

from foveate.client import (
    AsyncClient,
    ClientError,
    EventKind,
    PipelineInfo,
    Reconnect,
    StreamEvent,
    Unreachable,
)
from foveate.engines.errors import ConfigError, FoveateError
from foveate.tools.outputs import Outputs
from foveate.tools.watch.address import Redaction
from foveate.tools.watch.display import Display
from foveate.tools.watch.feed import CameraFeed
from foveate.tools.watch.health import CameraStatus
from foveate.tools.watch.settings import CameraSettings
from foveate.tools.watch.state_file import write_state

__all__ = ["WatchSession"]

_SHOWN_EVERY_S = 0.5
_STATE_EVERY_S = 2.0
_SERVER_WITHIN_S = 30.0
"""For a server that is started at the same time."""
_DRAIN_S = 5.0
_JOIN_S = 1.0


class WatchSession:
    """Feeds cameras to one server until all of them have ended, or it is stopped."""

    def __init__(
        self,
        cameras: Sequence[CameraSettings],
        address: str,
        display: Display,
        *,
        state_file: Path | None = None,
        gives_up_after_s: float = math.inf,
        outputs: Outputs | None = None,
    ) -> None:
        """`outputs` get all results; `gives_up_after_s`: how long a server that was there may be gone."""
        self._cameras = cameras
        self._address = address
        self._display = display
        self._state_file = state_file
        self._gives_up_after_s = gives_up_after_s
        self._outputs = outputs or Outputs(())
        self._troubles: dict[str, str] = {}
        self._redact = Redaction(camera.url.get_secret_value() for camera in cameras)
        self._server_is_gone = False
        self._feeds: list[CameraFeed] = []
        self._stop: Callable[[], object] | None = None

    def run(self) -> list[CameraStatus]:
        """The cameras as they were in the end; Ctrl-C and SIGTERM stop it once all that was sent is answered.

        Raises: FoveateError if the server cannot be reached, or lacks a pipeline.
        """
        return asyncio.run(self._run())

    def statuses(self) -> list[CameraStatus]:
        """How the cameras are doing."""
        return [feed.status() for feed in self._feeds]

    def stop(self) -> None:
        """Read no more, and end once all that was sent is answered. From any thread."""
        if self._stop is not None:
            with suppress(RuntimeError):  # the loop has ended by itself
                self._stop()

    async def _run(self) -> list[CameraStatus]:
        stopping, loop = asyncio.Event(), asyncio.get_running_loop()
        self._stop = lambda: loop.call_soon_threadsafe(stopping.set)
        reconnect = Reconnect(max_reconnect_s=self._gives_up_after_s)
        pool = ThreadPoolExecutor(os.cpu_count(), thread_name_prefix="encode")
        try:
            async with AsyncClient(self._address, reconnect=reconnect, on_event=self._on_event) as client:
                with _set_by_signals(stopping):
                    if await _unless(stopping, self._find_server(client)):
                        await self._feed_all(client, pool, stopping)
        finally:
            pool.shutdown(wait=False, cancel_futures=True)
        return self.statuses()

    async def _find_server(self, client: AsyncClient) -> None:
        """Wait for the server, and see that it has every pipeline that is asked for."""
        deadline = time.monotonic() + _SERVER_WITHIN_S
        while True:
            try:
                return _check_pipelines(self._cameras, await client.list_pipelines())
            except Unreachable as error:
                if time.monotonic() > deadline:
                    raise FoveateError(f"no server at {self._address}: {error}") from None
                if not self._server_is_gone:
                    self._server_is_gone = True
                    self._display.say(f"waiting for the server at {self._address}")
            except ClientError as error:
                raise FoveateError(f"the server at {self._address}: {error}") from None
            await asyncio.sleep(_SHOWN_EVERY_S)

    async def _feed_all(self, client: AsyncClient, pool: Executor, stopping: asyncio.Event) -> None:
        self._feeds = [CameraFeed(camera, client, pool, self._redact, self._outputs.put) for camera in self._cameras]
        feeding = asyncio.gather(*(feed.run() for feed in self._feeds))
        showing = asyncio.create_task(self._keep_showing())
        stop = asyncio.create_task(stopping.wait())
        try:
            ends: set[asyncio.Future[Any]] = {feeding, stop, showing}
            await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
            for feed in self._feeds:
                feed.stop()
            if not await _within(_DRAIN_S, asyncio.shield(feeding)):
                self._display.say(f"the server did not answer all that was sent within {_DRAIN_S:g} s")
        finally:
            feeding.cancel()
            stop.cancel()
            await asyncio.gather(feeding, stop, return_exceptions=True)
            await self._join()
            showing.cancel()
            self._display.show(self.statuses())
            self._display.sum_up(self.statuses())
            with suppress(ConfigError):  # said already
                await self._write_state()
        if showing.done() and not showing.cancelled():
            showing.result()  # what stopped it

    async def _keep_showing(self) -> None:
        await self._write_state()
        state_due, state_trouble = time.monotonic() + _STATE_EVERY_S, ""
        while True:
            self._display.show(self.statuses())
            if time.monotonic() >= state_due:
                state_due = time.monotonic() + _STATE_EVERY_S
                try:
                    await self._write_state()
                    state_trouble = ""
                except ConfigError as error:  # it could be written once: the cameras are worth more
                    state_trouble = str(error)
            self._show_troubles({**self._outputs.troubles, **({"state": state_trouble} if state_trouble else {})})
            await asyncio.sleep(_SHOWN_EVERY_S)

    def _show_troubles(self, troubles: dict[str, str]) -> None:
        for name in troubles.keys() - self._troubles.keys():
            self._display.say(f"output {name}: {self._redact(troubles[name])}")
        for name in self._troubles.keys() - troubles.keys():
            self._display.say(f"output {name}: delivers again")
        self._troubles = troubles

    async def _write_state(self) -> None:
        if self._state_file is not None:
            state = {
                "server": self._address,
                "cameras": [asdict(camera) for camera in self.statuses()],
                "outputs": {name: asdict(counts) for name, counts in self._outputs.counts.items()},
            }
            await asyncio.to_thread(write_state, self._state_file, state)

    async def _join(self) -> None:
        """Give the readers' threads a moment to leave FFmpeg; one that is stuck there is left behind."""
        deadline = time.monotonic() + _JOIN_S
        for feed in self._feeds:
            feed.stop()
        for feed in self._feeds:
            await asyncio.to_thread(feed.join, max(0.0, deadline - time.monotonic()))

    def _on_event(self, event: StreamEvent) -> None:
        if event.kind in (EventKind.INTERRUPTED, EventKind.DRAIN) and not self._server_is_gone:
            self._server_is_gone = True
            self._display.say(f"server: {event.message}")
        elif event.kind is EventKind.OPENED and self._server_is_gone:
            self._server_is_gone = False
            self._display.say(f"server: {self._address} is back")


def _check_pipelines(cameras: Sequence[CameraSettings], served: Sequence[PipelineInfo]) -> None:
    names = {pipeline.name for pipeline in served}
    for camera in cameras:
        if camera.pipeline and camera.pipeline not in names:
            raise ConfigError(
                f"camera {camera.name}: the server has no pipeline {camera.pipeline!r}: expected one of "
                f"{', '.join(sorted(names))}"
            )


async def _unless(stopping: asyncio.Event, work: Coroutine[Any, Any, None]) -> bool:
    """Whether the work was done before the event was set, which ends it. Raises: what the work raises."""
    working, stop = asyncio.create_task(work), asyncio.create_task(stopping.wait())
    try:
        await asyncio.wait({working, stop}, return_when=asyncio.FIRST_COMPLETED)
        if working.done():
            await working
        return working.done() and not stopping.is_set()
    finally:
        working.cancel()
        stop.cancel()


async def _within(seconds: float, waited: Awaitable[object]) -> bool:
    """Whether it came within this time."""
    try:
        await asyncio.wait_for(waited, seconds)
    except TimeoutError:
        return False
    return True


@contextmanager
def _set_by_signals(stopping: asyncio.Event) -> Iterator[None]:
    """The first Ctrl-C or SIGTERM sets the event; a second one does what it always does. In the main thread alone."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    loop = asyncio.get_running_loop()
    numbers = (signal.SIGINT, signal.SIGTERM)
    former = {number: signal.getsignal(number) for number in numbers}

    def restore() -> None:
        for number in numbers:
            loop.remove_signal_handler(number)
            signal.signal(number, former[number])

    def once() -> None:
        restore()
        stopping.set()

    for number in numbers:
        loop.add_signal_handler(number, once)
    try:
        yield
    finally:
        restore()

"""Reading a caller's frames, wherever they come from, without ever blocking the event loop."""

from __future__ import annotations

import asyncio
import queue
import threading
from collections.abc import AsyncIterable, Awaitable, Callable, Coroutine, Iterable
from dataclasses import dataclass

from foveate.client.frame import FrameLike

__all__ = ["Frames", "Offer", "read_frames"]

Frames = AsyncIterable[FrameLike] | Iterable[FrameLike]
"""Where frames come from. A plain iterable is read in a thread of its own, so it may block on a camera."""

Offer = Callable[[FrameLike], Coroutine[None, None, bool]]
"""Takes one frame, waiting for room; False says that the stream has ended and takes no more."""


async def read_frames(frames: Frames, offer: Offer) -> None:
    """Offer frame after frame until the source or the stream ends; generators are closed afterwards.

    Raises: whatever the source raises; RuntimeError where a plain iterable raises what is no Exception.
    """
    if isinstance(frames, AsyncIterable):
        await _read_async(frames, offer)
    else:
        await _read_in_thread(frames, offer)


async def _read_async(frames: AsyncIterable[FrameLike], offer: Offer) -> None:
    iterator = aiter(frames)
    try:
        async for frame in iterator:
            if not await offer(frame):
                return
    finally:
        aclose: Callable[[], Awaitable[None]] | None = getattr(iterator, "aclose", None)
        if aclose is not None:
            await aclose()


async def _read_in_thread(frames: Iterable[FrameLike], offer: Offer) -> None:
    hand_over = _HandOver(asyncio.get_running_loop())
    # A daemon, because a source that blocks in a camera driver cannot be interrupted.
    threading.Thread(target=hand_over.read, args=(frames,), name="foveate-frames", daemon=True).start()
    try:
        while not isinstance(arrived := await hand_over.next(), _End):
            hand_over.taken(await offer(arrived))
        if isinstance(arrived.error, Exception):
            raise arrived.error
        if arrived.error is not None:
            # Raised in a task, SystemExit would tear down the event loop, and CancelledError pass for the stream's end.
            raise RuntimeError(f"the source of frames raised {arrived.error!r}") from arrived.error
    finally:
        hand_over.close()


@dataclass(frozen=True, slots=True)
class _End:
    """The source has ended."""

    error: BaseException | None
    """What it raised instead of ending in good order."""


class _HandOver:
    """Brings frames from a thread into the loop, one at a time: the thread waits until each is taken.

    Only plain callbacks cross over, so that nothing is left behind in a loop that ends meanwhile.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._arrived: asyncio.Queue[FrameLike | _End] = asyncio.Queue()
        self._taken: queue.SimpleQueue[bool] = queue.SimpleQueue()
        self._closed = threading.Event()

    async def next(self) -> FrameLike | _End:
        """In the loop: the next frame, or the end after the last."""
        return await self._arrived.get()

    def taken(self, more: bool) -> None:
        """In the loop: the frame was dealt with; whether the thread may bring another."""
        self._taken.put(more)

    def close(self) -> None:
        """In the loop: no frame will be taken any more."""
        self._closed.set()
        self._taken.put(False)

    def read(self, frames: Iterable[FrameLike]) -> None:
        """In the thread: bring all frames, then the end."""
        end: BaseException | None = None
        try:
            iterator = iter(frames)
            try:
                for frame in iterator:
                    if not (self._post(frame) and self._taken.get()):
                        break
            finally:
                close: Callable[[], None] | None = getattr(iterator, "close", None)
                if close is not None:
                    close()
        except BaseException as error:  # noqa: BLE001 - carried into the loop, where it is raised to the caller
            end = error
        self._post(_End(end))

    def _post(self, arrived: FrameLike | _End) -> bool:
        if self._closed.is_set():
            return False
        try:
            self._loop.call_soon_threadsafe(self._arrived.put_nowait, arrived)
        except RuntimeError:  # the loop was closed while the source blocked
            return False
        return True

"""Reading a caller's frames, wherever they come from, without ever blocking the event loop."""

from __future__ import annotations

import asyncio
import concurrent.futures
import threading
from collections.abc import AsyncIterable, Awaitable, Callable, Coroutine, Iterable
from contextlib import suppress

from foveate.client.frame import FrameLike

__all__ = ["Frames", "Offer", "read_frames"]

Frames = AsyncIterable[FrameLike] | Iterable[FrameLike]
"""Where frames come from. A plain iterable is read in a thread of its own, so it may block on a camera."""

Offer = Callable[[FrameLike], Coroutine[None, None, bool]]
"""Takes one frame, waiting for room; False says that the stream has ended and takes no more."""

_POLL_S = 1.0


async def read_frames(frames: Frames, offer: Offer) -> None:
    """Offer frame after frame until the source or the stream ends; generators are closed afterwards.

    Raises: whatever the source raises.
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
    loop = asyncio.get_running_loop()
    ended: asyncio.Future[Exception | None] = loop.create_future()

    def tell(error: Exception | None) -> None:
        if not ended.done():
            ended.set_result(error)

    def read() -> None:
        error = _read_blocking(frames, lambda frame: _offer_from_thread(offer, frame, loop))
        with suppress(RuntimeError):  # the loop may have been closed while the source blocked
            loop.call_soon_threadsafe(tell, error)

    # A daemon, because a source that blocks in a camera driver cannot be interrupted.
    threading.Thread(target=read, name="foveate-frames", daemon=True).start()
    error = await ended
    if error is not None:
        raise error


def _read_blocking(frames: Iterable[FrameLike], offer: Callable[[FrameLike], bool]) -> Exception | None:
    try:
        iterator = iter(frames)
        try:
            for frame in iterator:
                if not offer(frame):
                    break
        finally:
            close: Callable[[], None] | None = getattr(iterator, "close", None)
            if close is not None:
                close()
    except Exception as error:  # noqa: BLE001 - carried over to the loop, which raises it to the caller
        return error
    return None


def _offer_from_thread(offer: Offer, frame: FrameLike, loop: asyncio.AbstractEventLoop) -> bool:
    """Offer a frame from outside the loop, waiting for room; False once the stream or its loop has ended."""
    coroutine = offer(frame)
    try:
        taken = asyncio.run_coroutine_threadsafe(coroutine, loop)
    except RuntimeError:
        coroutine.close()
        return False
    while not loop.is_closed():
        try:
            return taken.result(timeout=_POLL_S)
        except concurrent.futures.CancelledError:
            return False
        except TimeoutError:
            continue  # no room yet; a loop that was closed right after it took the call would never answer
    return False

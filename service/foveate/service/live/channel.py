"""Pictures from an ingest process to the supervisor, over a connection of their own.

Beside the link, on which calls and signs of life must not wait for a picture. Neither end ever blocks: what the other
does not take in time is dropped, since a newer picture follows. Only processes that the supervisor has started hold
an end, so what comes is taken at its word.
"""

from __future__ import annotations

import asyncio
import logging
import pickle
import socket
import struct
from collections.abc import AsyncIterator, Collection
from contextlib import suppress
from typing import Any

from foveate.service.live.gallery import Gallery
from foveate.service.live.picture import AnsweredFrame, LivePicture, LiveSink, PictureWishes

__all__ = ["RemoteGallery", "show_remotely"]

_log = logging.getLogger(__name__)

_LENGTH = struct.Struct("=I")
_MOST_UNSENT = 1 << 20
"""Bytes; what is more waits for a supervisor that has no time for pictures."""


class RemoteGallery:
    """The gallery of an ingest process, as the supervisor has it. Belongs to the event loop's thread."""

    def __init__(self, end: socket.socket, sink: LiveSink) -> None:
        self._end = end
        self._sink = sink
        self._wishes: PictureWishes = {}
        self._writer: asyncio.StreamWriter | None = None
        self._running = asyncio.create_task(self._run())

    def watch(self, wishes: PictureWishes) -> None:
        """See `Gallery.watch`."""
        self._wishes = wishes
        if self._writer is not None and not self._writer.transport.get_write_buffer_size():
            _send(self._writer, wishes)

    @property
    def ended(self) -> bool:
        """Whether nothing comes any more: the ingest has gone, or did not serve yet."""
        return self._running.done()

    def close(self) -> None:
        """The ingest has gone, or all is to end."""
        self._running.cancel()

    async def _run(self) -> None:
        try:
            reader, self._writer = await asyncio.open_unix_connection(sock=self._end)
            _send(self._writer, self._wishes)
            async for kind, *message in _received(reader):
                if kind == "picture":
                    self._sink.picture(*message)
                else:
                    self._sink.answers(*message)
        except OSError as error:
            _log.warning("an ingest process shows no pictures any more: %s", error)
        finally:
            (self._writer or self._end).close()


async def show_remotely(gallery: Gallery, handle: int) -> None:
    """In an ingest process: show what the other end of `handle` wishes to see, until that goes away."""
    try:
        reader, writer = await asyncio.open_unix_connection(sock=socket.socket(fileno=handle))
        sink = _RemoteSink(writer)
        async for wishes in _received(reader):
            gallery.watch(wishes, sink)
        writer.close()
    except OSError as error:
        _log.warning("the supervisor takes no pictures any more: %s", error)
    finally:
        gallery.close()


class _RemoteSink:
    """`LiveSink` over the connection."""

    def __init__(self, writer: asyncio.StreamWriter) -> None:
        self._writer = writer

    def picture(self, picture: LivePicture) -> None:
        """See `LiveSink`."""
        self._offer("picture", picture)

    def answers(self, stream_id: str, frames: Collection[AnsweredFrame]) -> None:
        """See `LiveSink`."""
        self._offer("answers", stream_id, frames)

    def _offer(self, *message: Any) -> None:
        transport = self._writer.transport
        if not transport.is_closing() and transport.get_write_buffer_size() < _MOST_UNSENT:
            _send(self._writer, message)


def _send(writer: asyncio.StreamWriter, message: object) -> None:
    body = pickle.dumps(message, pickle.HIGHEST_PROTOCOL)
    writer.write(_LENGTH.pack(len(body)) + body)


async def _received(reader: asyncio.StreamReader) -> AsyncIterator[Any]:
    with suppress(asyncio.IncompleteReadError):
        while True:
            (length,) = _LENGTH.unpack(await reader.readexactly(_LENGTH.size))
            yield pickle.loads(await reader.readexactly(length))

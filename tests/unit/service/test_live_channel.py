"""Pictures between processes: they arrive, wishes go the other way, and a peer that takes nothing holds up nobody."""

from __future__ import annotations

import asyncio
import pickle
import socket
import struct
from collections.abc import Collection
from typing import Any

from foveate.service.link import Link
from foveate.service.live.channel import RemoteGallery, show_remotely
from foveate.service.live.picture import AnsweredFrame, LivePicture, LiveSink, PictureWishes
from support.waiting import until_in_loop


class FakeGallery:
    """As much of a gallery as the channel sees."""

    def __init__(self) -> None:
        self.wishes: PictureWishes = {}
        self.sink: LiveSink | None = None
        self.closed = False

    def watch(self, wishes: PictureWishes, sink: LiveSink) -> None:
        self.wishes, self.sink = wishes, sink

    def close(self) -> None:
        self.closed = True


class Sink:
    def __init__(self) -> None:
        self.came: list[object] = []

    def picture(self, picture: LivePicture) -> None:
        self.came.append(picture)

    def answers(self, stream_id: str, frames: Collection[AnsweredFrame]) -> None:
        self.came.append((stream_id, frames))


def handle(end: socket.socket) -> int:
    return end.detach()


def test_wishes_go_there_and_pictures_come_back() -> None:
    async def run() -> None:
        ours, theirs = Link.pair()
        gallery, sink = FakeGallery(), Sink()
        showing = asyncio.create_task(show_remotely(gallery, handle(theirs)))  # type: ignore[arg-type]
        remote = RemoteGallery(ours, sink)
        remote.watch({"dock": 640})
        await until_in_loop(lambda: gallery.wishes == {"dock": 640})
        remote.watch({"gate": 1280})
        await until_in_loop(lambda: gallery.wishes == {"gate": 1280})
        assert gallery.sink is not None
        shown = LivePicture("gate", {"sequence": 3}, bytes(300_000))
        fared = [AnsweredFrame("ok", (1, 2), 3)]
        gallery.sink.picture(shown)
        gallery.sink.answers("gate", fared)
        await until_in_loop(lambda: len(sink.came) == 2)
        assert sink.came == [shown, ("gate", fared)]
        remote.close()
        await showing
        assert gallery.closed
        await until_in_loop(lambda: remote.ended)

    asyncio.run(run())


def test_an_ingest_that_goes_ends_the_connection() -> None:
    async def run() -> None:
        ours, theirs = Link.pair()
        remote = RemoteGallery(ours, Sink())
        theirs.close()
        await until_in_loop(lambda: remote.ended)
        remote.watch({"dock": 640})

    asyncio.run(run())


def test_what_a_peer_does_not_take_is_dropped_and_blocks_nobody() -> None:
    async def run() -> None:
        ours, theirs = Link.pair()
        gallery = FakeGallery()
        showing = asyncio.create_task(show_remotely(gallery, handle(theirs)))  # type: ignore[arg-type]
        reader, writer = await asyncio.open_unix_connection(sock=ours, limit=1024)
        writer.write(_wishes({"dock": 640}))
        await until_in_loop(lambda: gallery.sink)
        assert gallery.sink is not None
        for number in range(500):  # 100 MB, of which nothing is read
            gallery.sink.picture(LivePicture("dock", {"sequence": number}, bytes(200_000)))
        unsent: Any = gallery.sink
        assert unsent._writer.transport.get_write_buffer_size() < 2_000_000
        writer.close()
        await showing
        assert gallery.closed
        assert reader is not None

    asyncio.run(run())


def _wishes(wishes: PictureWishes) -> bytes:

    body = pickle.dumps(wishes)
    return struct.pack("=I", len(body)) + body

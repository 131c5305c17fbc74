"""Those who look: what each wants to see, what it is sent next, and that no one of them holds up anything.

A viewer that is slow gets fewer pictures, never older ones: of each stream only the newest waits for it, and it says
of each that it has been drawn before it is sent many more.
"""

from __future__ import annotations

import asyncio
import json
import logging
import struct
import time
from collections.abc import Collection, Mapping
from typing import Any

from foveate.engines.errors import FoveateError
from foveate.service.live.board import Board
from foveate.service.live.gallery import LEASE_S
from foveate.service.live.picture import AnsweredFrame, LivePicture, PictureWishes
from foveate.service.live.source import LiveService

__all__ = ["STATUS_EVERY_S", "Viewer", "Viewers", "picture_message", "wishes_from"]

_log = logging.getLogger(__name__)

STATUS_EVERY_S = 0.5
_UNDRAWN = 3
"""Pictures on their way to a viewer, at most: what more the network would hold is only delay."""
_MOST_WISHES = 64
_LONGEST_NAME = 200
_SIDES_PX = (320, 1280)
_HEADER = struct.Struct(">I")


class Viewer:
    """One page that is open somewhere."""

    def __init__(self) -> None:
        self.wishes: PictureWishes = {}
        self.undrawn = 0
        self._until_s = 0.0
        self._status: str | None = None
        self._pictures: dict[str, bytes] = {}
        self._wake = asyncio.Event()

    @property
    def looking(self) -> bool:
        """Whether it has lately said so."""
        return time.monotonic() < self._until_s

    def wants(self, wishes: PictureWishes) -> None:
        """It looks at these streams; it says so every second."""
        self.wishes, self._until_s = wishes, time.monotonic() + LEASE_S
        for stream_id in self._pictures.keys() - wishes.keys():
            del self._pictures[stream_id]

    def drew(self, pictures: int) -> None:
        """So many pictures that it was sent have been drawn."""
        self.undrawn = max(0, self.undrawn - pictures)
        self._wake.set()

    def offer_status(self, text: str) -> None:
        self._status = text
        self._wake.set()

    def offer_picture(self, stream_id: str, message: bytes) -> None:
        """Replaces an older one that has not been sent, in its place in the row."""
        self._pictures[stream_id] = message
        self._wake.set()

    async def next_message(self) -> str | bytes:
        """What it is to be sent next; waits for something."""
        while True:
            self._wake.clear()
            if (status := self._status) is not None:
                self._status = None
                return status
            if self._pictures and self.undrawn < _UNDRAWN:
                self.undrawn += 1
                return self._pictures.pop(next(iter(self._pictures)))
            await self._wake.wait()


class Viewers:
    """All who look at a service. Belongs to the event loop's thread; while there are none, nothing runs."""

    def __init__(self, service: LiveService, about: Mapping[str, Any]) -> None:
        """`about` is what a page is told of the service that does not change."""
        self._service = service
        self._about = about
        self._viewers: set[Viewer] = set()
        self._board = Board()
        self._told: str | None = None
        """How the service stood a moment ago."""
        self._telling: asyncio.Task[None] | None = None

    def __len__(self) -> int:
        return len(self._viewers)

    def enter(self) -> Viewer:
        self._viewers.add(viewer := Viewer())
        return viewer

    def leave(self, viewer: Viewer) -> None:
        self._viewers.discard(viewer)
        self._watch()

    def wants(self, viewer: Viewer, wishes: PictureWishes) -> None:
        """A viewer looks at these streams."""
        changed = viewer.wishes.keys() != wishes.keys()
        if self._told is not None and not viewer.looking:
            viewer.offer_status(self._told)
        viewer.wants(wishes)
        if changed:
            self._watch()
        if self._telling is None:
            self._board = Board()  # what it saw long ago says nothing about now
            self._telling = asyncio.create_task(self._tell())

    def close(self) -> None:
        if self._telling is not None:
            self._telling.cancel()

    def picture(self, picture: LivePicture) -> None:
        """See `LiveSink`."""
        message = picture_message(picture)
        for viewer in self._viewers:
            if picture.stream_id in viewer.wishes and viewer.looking:
                viewer.offer_picture(picture.stream_id, message)

    def answers(self, stream_id: str, frames: Collection[AnsweredFrame]) -> None:
        """See `LiveSink`."""
        self._board.add_answers(stream_id, frames)

    def _watch(self) -> None:
        wishes: dict[str, int] = {}
        for viewer in self._viewers:
            for stream_id, longest_px in viewer.wishes.items() if viewer.looking else ():
                wishes[stream_id] = max(longest_px, wishes.get(stream_id, 0))
        self._service.watch(wishes, self)

    async def _tell(self) -> None:
        """Tell the viewers how the service stands, until nobody looks."""
        while any(viewer.looking for viewer in self._viewers):
            try:
                self._watch()
                self._told = text = json.dumps(await self._snapshot(), allow_nan=False, separators=(",", ":"))
                for viewer in self._viewers:
                    if viewer.looking:
                        viewer.offer_status(text)
            except FoveateError as error:
                _log.warning("the live view has no status to show: %s", error)
            except Exception:  # noqa: BLE001 - the outer edge of this task: the view must go on
                _log.exception("the live view's status failed")
            await asyncio.sleep(STATUS_EVERY_S)
        self._telling = self._told = None
        self._watch()

    async def _snapshot(self) -> dict[str, Any]:
        service, unready = self._service, self._service.unready
        try:
            pipelines = service.pipelines
        except FoveateError:
            pipelines = None
        state = "draining" if service.draining else "unready" if unready else "ready"
        snapshot = self._board.snapshot(await service.status(), pipelines, time.monotonic_ns())
        return {**self._about, "address": service.address, "state": state, "reason": unready, **snapshot}


def picture_message(picture: LivePicture) -> bytes:
    """A picture as it is sent to a page: the length of its caption (4 bytes), the caption as JSON, the JPEG."""
    caption = json.dumps({"stream": picture.stream_id, **picture.caption}, separators=(",", ":")).encode()
    return b"".join((_HEADER.pack(len(caption)), caption, picture.jpeg))


def wishes_from(said: object) -> PictureWishes:
    """The streams that a page says it shows, as far as they make sense."""
    if not isinstance(said, Mapping):
        return {}
    least, most = _SIDES_PX
    wanted = [
        (stream_id, min(max(least, side_px), most))
        for stream_id, side_px in said.items()
        if len(stream_id) <= _LONGEST_NAME and isinstance(side_px, int)
    ]
    return dict(wanted[:_MOST_WISHES])

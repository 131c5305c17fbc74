"""An ingest that dies while it asks for a stream neither keeps the stream nor answers its next life's calls."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any

from foveate.service.config import load_config
from foveate.service.supervisor import Supervisor


class Link:
    """Notes what is sent over it."""

    def __init__(self) -> None:
        self.sent: list[Any] = []

    def send(self, *message: Any) -> None:
        self.sent.append(message)


class Holder:
    """Lets go of a stream when the test says so."""

    def evict(self, stream_id: str) -> None:
        pass


def test_a_claim_that_is_granted_too_late_is_taken_back() -> None:
    async def go() -> None:
        supervisor = Supervisor(load_config(devices=("cpu",)), 1)
        (ingest,), directory = supervisor._ingests, supervisor._directory
        directory.serving[0] = {"objects"}
        holder, before, after = Holder(), Link(), Link()
        earlier = (await directory.claim(holder, "door", "", "objects")).record
        ingest.child = child_of(before)
        work = supervisor._claim(ingest, ingest.link, 1, "", earlier.resume_token, "objects")
        claiming = asyncio.create_task(work)
        await asyncio.sleep(0)
        ingest.child = child_of(after)
        directory.release(holder, earlier, resumable=True)
        await claiming
        assert (len(before.sent), after.sent, len(directory)) == (1, [], 0)
        again = await directory.claim(holder, "", earlier.resume_token, "objects")
        assert again.record == earlier, "which may still be taken up"

    asyncio.run(go())


def child_of(link: Link) -> Any:
    return SimpleNamespace(link=link)

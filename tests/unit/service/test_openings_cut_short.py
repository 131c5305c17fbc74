"""A client that goes while its stream is being opened leaves nothing behind."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any, cast

import pytest

from foveate.proto import vision_pb2 as pb
from foveate.service import connection
from foveate.service.connection import Connection
from foveate.service.directory import Claim
from foveate.service.ingest_process import _Supervisor
from foveate.service.link import Link
from foveate.service.stream import StreamRecord


class Reception:
    """Opens a stream at the moment when its client goes."""

    config = SimpleNamespace(default_budget_ms=100, limits=None)
    pipelines = SimpleNamespace(get=lambda name: name)

    def __init__(self) -> None:
        self.serving: asyncio.Task[None] | None = None
        self.closed: list[object] = []

    def refuse_while_draining(self) -> None:
        pass

    async def open(self, *_: Any, **__: Any) -> str:
        assert self.serving
        self.serving.cancel()
        return "the stream"

    def close(self, opened: object) -> None:
        self.closed.append(opened)


class Context:
    async def read(self) -> pb.StreamRequest:
        return pb.StreamRequest(open=pb.OpenStream())


def test_a_stream_that_was_opened_just_then_is_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connection, "options_from_open", lambda *_: None)
    reception, context = Reception(), Context()

    async def go() -> None:
        reception.serving = asyncio.create_task(Connection(cast(Any, reception), cast(Any, context)).serve())
        with pytest.raises(asyncio.CancelledError):
            await reception.serving

    asyncio.run(go())
    assert reception.closed == ["the stream"]


def test_what_the_supervisor_grants_afterwards_is_given_back() -> None:
    async def go() -> None:
        ours, theirs = (Link(end) for end in Link.pair())
        port = _Supervisor(ours)
        claiming = asyncio.create_task(port.claim("door", "", "objects"))
        await asyncio.sleep(0)
        (((kind, number, *wanted), _),) = await asyncio.to_thread(theirs.receive)
        assert (kind, wanted) == ("claim", ["door", "", "objects"])
        claiming.cancel()
        with pytest.raises(asyncio.CancelledError):
            await claiming
        record = StreamRecord("door", "token")
        port.calls.answer(number, Claim(record, 0, resumed=False))
        ((message, _),) = await asyncio.wait_for(asyncio.to_thread(theirs.receive), 10)
        assert message == ("release", record, False)
        ours.close()
        theirs.close()

    asyncio.run(go())

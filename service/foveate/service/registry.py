"""The streams of a server: those open now, those that may be taken up again, and the count over all."""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from foveate.engines.errors import Overloaded, StreamTaken
from foveate.service.ledger import Ledger
from foveate.service.stream import CameraStream

__all__ = ["StreamRegistry"]


@dataclass(frozen=True, slots=True)
class _Parked:
    stream: CameraStream
    until_ns: int


class StreamRegistry:
    """Who is connected. Belongs to the event loop's thread."""

    def __init__(self, max_streams: int, resume_s: float) -> None:
        self._max_streams = max_streams
        self._resume_ns = int(resume_s * 1e9)
        self._open: dict[str, tuple[CameraStream, Callable[[], None]]] = {}
        self._parked: dict[str, _Parked] = {}
        self._ended = Ledger()

    def __len__(self) -> int:
        return len(self._open)

    def __iter__(self) -> Iterator[CameraStream]:
        return (stream for stream, _ in self._open.values())

    def new_id(self) -> str:
        return f"stream-{secrets.token_hex(4)}"

    def new_token(self) -> str:
        return secrets.token_urlsafe(16)

    def resumable(self, token: str) -> CameraStream | None:
        """The stream that a token takes up again; None if it is unknown or too old.

        A stream whose connection only looks alive is let go of first: the client knows better. It stays parked,
        and counted, until it is opened.
        """
        self._forget_parked()
        if not self._resume_ns:
            return None
        for stream, disconnect in list(self._open.values()):
            if secrets.compare_digest(stream.resume_token.encode(), token.encode()):
                disconnect()
                self.park(stream)
        parked = self._parked.get(token)
        return parked.stream if parked else None

    def open(self, stream: CameraStream, disconnect: Callable[[], None]) -> None:
        """Enter a stream; `disconnect` ends its connection from this side.

        Raises: Overloaded if the server is full, StreamTaken if its name is.
        """
        if len(self._open) >= self._max_streams:
            raise Overloaded(
                f"{len(self._open)} streams are open, which is this server's limit: try again later or elsewhere"
            )
        if stream.stream_id in self._open:
            raise StreamTaken(
                f"stream {stream.stream_id!r} is open already: close it, leave stream_id empty, "
                "or take it over with its resume_token"
            )
        self._parked.pop(stream.resume_token, None)
        self._open[stream.stream_id] = (stream, disconnect)

    def park(self, stream: CameraStream) -> None:
        """Let go of a stream that is open; its token takes it up again for a while.

        One that ended well is kept like one that broke: a connection that is cut can look like either.
        """
        if self._open.get(stream.stream_id, (None,))[0] is stream:
            del self._open[stream.stream_id]
            self._parked[stream.resume_token] = _Parked(stream, time.monotonic_ns() + self._resume_ns)
        self._forget_parked()

    def count(self, ledger: Ledger) -> None:
        """Add what was not part of a stream."""
        self._ended.add(ledger)

    def ledger(self) -> Ledger:
        """Over all frames since the start."""
        total = Ledger()
        total.add(self._ended)
        for stream in self:
            total.add(stream.ledger)
        for parked in self._parked.values():
            total.add(parked.stream.ledger)
        return total

    def _forget_parked(self) -> None:
        now_ns = time.monotonic_ns()
        for token, parked in list(self._parked.items()):
            if parked.until_ns <= now_ns:
                self._ended.add(parked.stream.ledger)
                del self._parked[token]

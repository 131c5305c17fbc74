"""Messages, and files with them, between the processes of one service: pickled over a pair of Unix sockets.

Only processes that the supervisor has started hold an end, so what comes is taken at its word.
"""

from __future__ import annotations

import array
import asyncio
import itertools
import os
import pickle
import socket
import struct
import threading
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import suppress
from typing import Any

from foveate.engines.errors import FoveateError

__all__ = ["Calls", "Link", "LinkBroken"]

_HEADER = struct.Struct("=IB")
"""Length of the message, and how many files come with it."""
_READ_BYTES = 1 << 16
_MOST_FILES = 253  # as the kernel
_FILES_SPACE = socket.CMSG_SPACE(4 * _MOST_FILES)
_SENT_WITHIN_S = 5
"""A peer that takes nothing for so long hangs, and must not make others hang."""


class LinkBroken(Exception):
    """The other process has gone, or hangs."""


class Link:
    """One end of a connection to another process of the service.

    Any thread may send; one thread receives. What two threads send is never mixed.
    """

    def __init__(self, end: socket.socket) -> None:
        self._socket = end
        timeout = struct.pack("=qq", _SENT_WITHIN_S, 0)
        end.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, timeout)
        self._sending = threading.Lock()
        self._received = bytearray()
        self._files: deque[int] = deque()

    @staticmethod
    def pair() -> tuple[socket.socket, socket.socket]:
        """Both ends of a new connection."""
        return socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)

    @classmethod
    def over(cls, handle: int) -> Link:
        """The end that came as a file over another link."""
        return cls(socket.socket(fileno=handle))

    def fileno(self) -> int:
        return self._socket.fileno()

    def send(self, *message: Any, files: Sequence[int] = ()) -> None:
        """Send a tuple; the receiver gets copies of the `files`. Raises: LinkBroken."""
        body = pickle.dumps(message, pickle.HIGHEST_PROTOCOL)
        data = _HEADER.pack(len(body), len(files)) + body
        try:
            with self._sending:
                if files:
                    sent = socket.send_fds(self._socket, [data], files)
                    data = data[sent:]
                self._socket.sendall(data)
        except OSError as error:
            self.hang_up()
            raise LinkBroken(f"the other process is gone or hangs: {error}") from error

    def receive(self) -> list[tuple[tuple[Any, ...], list[int]]]:
        """The messages that have come, each with its files; waits for something to come. Files are the caller's.

        Raises: LinkBroken at the end.
        """
        try:
            data, ancillary, _, _ = self._socket.recvmsg(_READ_BYTES, _FILES_SPACE, socket.MSG_CMSG_CLOEXEC)
        except OSError as error:
            raise LinkBroken(str(error)) from error
        for level, kind, payload in ancillary:
            if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
                self._files.extend(array.array("i", payload[: len(payload) - len(payload) % 4]))
        if not data:
            raise LinkBroken("the other process has gone")
        self._received += data
        return list(self._complete())

    def hang_up(self) -> None:
        """End the connection for both sides; `close` still has to follow."""
        with suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        self._socket.close()
        while self._files:  # of a message that did not come to its end
            os.close(self._files.popleft())

    def _complete(self) -> Iterator[tuple[tuple[Any, ...], list[int]]]:
        at, received = 0, self._received
        while len(received) - at >= _HEADER.size:
            length, files = _HEADER.unpack_from(received, at)
            end = at + _HEADER.size + length
            if len(received) < end:
                break
            with memoryview(received) as view:
                message = pickle.loads(view[at + _HEADER.size : end])
            at = end
            yield message, [self._files.popleft() for _ in range(files)]
        del received[:at]


class Calls:
    """Calls over a link that wait for their answers. Belongs to an event loop's thread."""

    def __init__(self) -> None:
        self._numbers = itertools.count(1)
        self._waiting: dict[int, asyncio.Future[Any]] = {}

    async def call(self, link: Link, kind: str, *arguments: Any) -> Any:
        """Send `kind`, the call's number and arguments, and wait for the answer. Raises: what came back."""
        number = next(self._numbers)
        future = self._waiting[number] = asyncio.get_running_loop().create_future()
        try:
            link.send(kind, number, *arguments)
            return await future
        finally:
            del self._waiting[number]

    def answer(self, number: int, outcome: Any) -> None:
        """An answer has come: a value, or the error to raise."""
        future = self._waiting.get(number)
        if future is None or future.done():
            return
        if isinstance(outcome, FoveateError):
            future.set_exception(outcome)
        else:
            future.set_result(outcome)

    def fail(self, error: FoveateError) -> None:
        """Nothing will be answered any more."""
        for number in list(self._waiting):
            self.answer(number, error)

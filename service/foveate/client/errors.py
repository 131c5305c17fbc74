"""What a client may raise, as one tree.

ClientError
 ├ Unreachable          no server answered for as long as the client may try
 ├ StreamBroken         the server did not keep to the protocol
 └ Refused              the server said no, and would say so again; carries its code and message
    ├ InvalidRequest    a setting has no meaning there
    ├ NoSuchPipeline    it serves no pipeline of that name
    ├ BudgetTooSmall    it could never answer a frame within that budget
    └ Overloaded        it has no room now: retry later or elsewhere

A frame's verdict is a result, not an exception. What is wrong in the calling program itself (a closed
client, an array of the wrong shape) is a RuntimeError or a ValueError.
"""

from __future__ import annotations

import grpc

__all__ = [
    "BudgetTooSmall",
    "ClientError",
    "InvalidRequest",
    "NoSuchPipeline",
    "Overloaded",
    "Refused",
    "StreamBroken",
    "Unreachable",
    "refused_from_status",
]


class ClientError(Exception):
    """The root of everything that the client raises on purpose."""


class Unreachable(ClientError):
    """No server answered for as long as the client may try."""


class StreamBroken(ClientError):
    """The server did not keep to the protocol; the message says how."""


class Refused(ClientError):
    """The server said no, and would say so again."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message or f"the server refused with {code} and gave no reason")
        self.code = code
        """The gRPC status code's name, e.g. ``INVALID_ARGUMENT``."""
        self.message = message
        """What the server said."""


class InvalidRequest(Refused):
    """A setting has no meaning on this server."""


class NoSuchPipeline(Refused):
    """The server serves no pipeline of that name."""


class BudgetTooSmall(Refused):
    """The server could never answer a frame within this budget; the message says the smallest one that it
    can."""


class Overloaded(Refused):
    """The server has no room now; retry later or elsewhere."""


_REFUSED_BY_CODE: dict[grpc.StatusCode, type[Refused]] = {
    grpc.StatusCode.INVALID_ARGUMENT: InvalidRequest,
    grpc.StatusCode.NOT_FOUND: NoSuchPipeline,
    grpc.StatusCode.OUT_OF_RANGE: BudgetTooSmall,
    grpc.StatusCode.RESOURCE_EXHAUSTED: Overloaded,
}


def refused_from_status(code: grpc.StatusCode, message: str) -> Refused:
    """The typed error for a status that a retry would not change."""
    return _REFUSED_BY_CODE.get(code, Refused)(code.name, message)

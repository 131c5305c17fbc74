"""Errors to gRPC status codes: one table, and the one place where an error becomes a status."""

from __future__ import annotations

import grpc

from foveate.engines.errors import (
    BudgetTooSmall,
    ConfigError,
    EngineError,
    FoveateError,
    FrameError,
    LimitExceeded,
    ModelError,
    NoSuchPipeline,
    Overloaded,
    ProtocolError,
    ShuttingDown,
    StreamTaken,
    UnsupportedFormat,
)

__all__ = ["status_code"]

_CODES: dict[type[FoveateError], grpc.StatusCode] = {
    NoSuchPipeline: grpc.StatusCode.NOT_FOUND,
    ProtocolError: grpc.StatusCode.INVALID_ARGUMENT,
    FrameError: grpc.StatusCode.INVALID_ARGUMENT,
    UnsupportedFormat: grpc.StatusCode.UNIMPLEMENTED,
    BudgetTooSmall: grpc.StatusCode.OUT_OF_RANGE,
    StreamTaken: grpc.StatusCode.ALREADY_EXISTS,
    LimitExceeded: grpc.StatusCode.RESOURCE_EXHAUSTED,
    Overloaded: grpc.StatusCode.RESOURCE_EXHAUSTED,
    ShuttingDown: grpc.StatusCode.UNAVAILABLE,
    ConfigError: grpc.StatusCode.FAILED_PRECONDITION,
    ModelError: grpc.StatusCode.FAILED_PRECONDITION,
    EngineError: grpc.StatusCode.INTERNAL,
}


def status_code(error: FoveateError) -> grpc.StatusCode:
    """The status code of an error: that of the nearest class of its ancestry in the table."""
    return next((_CODES[kind] for kind in type(error).__mro__ if kind in _CODES), grpc.StatusCode.INTERNAL)

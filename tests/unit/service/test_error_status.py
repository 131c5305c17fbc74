"""Every error of the project has a gRPC status code of its own choosing."""

from __future__ import annotations

from collections.abc import Iterator

import grpc
import pytest

from foveate.engines import errors
from foveate.engines.errors import FoveateError
from foveate.service.status import status_code


def subclasses(kind: type[FoveateError]) -> Iterator[type[FoveateError]]:
    for each in kind.__subclasses__():
        yield each
        yield from subclasses(each)


OURS = [kind for kind in subclasses(FoveateError) if kind.__module__ == errors.__name__]
EXPECTED = {
    "BadFrame": "INVALID_ARGUMENT",
    "BudgetTooSmall": "OUT_OF_RANGE",
    "BuildFailed": "INTERNAL",
    "ChecksumMismatch": "FAILED_PRECONDITION",
    "ConfigError": "FAILED_PRECONDITION",
    "DeviceError": "INTERNAL",
    "DeviceLost": "INTERNAL",
    "DeviceOutOfMemory": "INTERNAL",
    "EngineError": "INTERNAL",
    "EngineUnavailable": "INTERNAL",
    "FrameError": "INVALID_ARGUMENT",
    "LimitExceeded": "RESOURCE_EXHAUSTED",
    "ModelError": "FAILED_PRECONDITION",
    "NoSuchPipeline": "NOT_FOUND",
    "NoRoomForPicture": "RESOURCE_EXHAUSTED",
    "Overloaded": "RESOURCE_EXHAUSTED",
    "PlanMismatch": "INTERNAL",
    "ProtocolError": "INVALID_ARGUMENT",
    "RunFailed": "INTERNAL",
    "ShuttingDown": "UNAVAILABLE",
    "StreamTaken": "ALREADY_EXISTS",
    "UnsupportedFormat": "UNIMPLEMENTED",
}


def test_every_error_is_in_the_table_of_this_test() -> None:
    assert {kind.__name__ for kind in OURS} == set(EXPECTED), "a new error needs a status code: choose one"


@pytest.mark.parametrize("kind", OURS, ids=lambda kind: kind.__name__)
def test_each_error_has_its_status(kind: type[FoveateError]) -> None:
    assert status_code(kind("why")) is grpc.StatusCode[EXPECTED[kind.__name__]]


def test_an_error_of_a_class_made_later_has_that_of_its_base() -> None:
    class Later(errors.UnsupportedFormat):
        """Not in any table."""

    assert status_code(Later("why")) is grpc.StatusCode.UNIMPLEMENTED
    assert status_code(FoveateError("why")) is grpc.StatusCode.INTERNAL

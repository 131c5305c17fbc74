"""What integration tests share."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from support import service


@pytest.fixture(params=["calls", "messages"], scope="module")
def boundary(request: pytest.FixtureRequest) -> Iterator[None]:
    """Runs a module's tests twice: ingest and device call each other, or send messages beside shared memory."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(service, "over_messages", request.param == "messages")
        yield

"""A clock for tests that no machine's speed can change."""

from __future__ import annotations

import itertools
import time

import pytest

__all__ = ["let_time_pass_by_readings"]

_STEP_NS = 10_000


def let_time_pass_by_readings(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let `time.monotonic_ns` go on by ten microseconds with each reading, and by nothing else, until the test ends."""
    moments = itertools.count(time.monotonic_ns(), _STEP_NS)
    monkeypatch.setattr(time, "monotonic_ns", lambda: next(moments))

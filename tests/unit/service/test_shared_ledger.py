"""Counts that outlive the process which counts."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import asdict

import pytest

from foveate.service.ledger import Ledger, SharedLedger


@pytest.fixture
def handle() -> Iterator[int]:
    made = SharedLedger.new_file()
    yield made
    os.close(made)


def test_every_count_has_a_place_of_its_own(handle: int) -> None:
    shared, expected = SharedLedger(handle), Ledger()
    for by, name in enumerate(asdict(expected), start=1):
        shared.count(name, by)
        shared.count(name)
        expected.count(name, by + 1)
    assert SharedLedger(handle).read() == expected


def test_what_a_killed_process_had_in_flight_is_cancelled(handle: int) -> None:
    script = """
import os, signal, sys
from foveate.service.ledger import SharedLedger
shared = SharedLedger(int(sys.argv[1]))
shared.count("received", 5)
shared.count("ok", 2)
shared.count("undelivered")
os.kill(os.getpid(), signal.SIGKILL)
"""
    ended = subprocess.run([sys.executable, "-c", script, str(handle)], pass_fds=[handle], check=False)
    assert ended.returncode < 0
    shared = SharedLedger(handle)
    assert shared.read().in_flight == 3
    final = shared.close_books()
    assert (final.received, final.ok, final.undelivered, final.cancelled, final.in_flight) == (5, 2, 1, 3, 0)
    assert shared.read() == Ledger()

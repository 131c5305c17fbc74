"""Counts that outlive the process which counts."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import asdict

import pytest

from foveate.service.ledger import LEDGER_PLACES, CountedLedger, Ledger, ledger_of
from foveate.service.metrics_tables import IngestLayout, IngestTable
from foveate.service.shared_counts import SharedCounts

LAYOUT = IngestLayout(("faces", "objects"), 2)


@pytest.fixture
def handle() -> Iterator[int]:
    made = SharedCounts.new_file(LAYOUT.length)
    yield made
    os.close(made)


def test_every_count_has_a_place_of_its_own(handle: int) -> None:
    shared, expected = CountedLedger(SharedCounts(len(LEDGER_PLACES), handle).values), Ledger()
    for by, name in enumerate(asdict(expected), start=1):
        shared.count(name, by)
        shared.count(name)
        expected.count(name, by + 1)
    assert ledger_of(SharedCounts(len(LEDGER_PLACES), handle).read()) == expected


def test_what_a_killed_process_had_in_flight_is_cancelled(handle: int) -> None:
    script = """
import os, signal, sys
from foveate.service.metrics_tables import IngestLayout, IngestTable
table = IngestTable(IngestLayout(("faces", "objects"), 2), int(sys.argv[1]))
for account in table.of("objects", 2):
    account.count("received", 5)
    account.count("ok", 2)
    account.count("undelivered")
os.kill(os.getpid(), signal.SIGKILL)
"""
    ended = subprocess.run([sys.executable, "-c", script, str(handle)], pass_fds=[handle], check=False)
    assert ended.returncode < 0
    table = IngestTable(LAYOUT, handle)
    assert table.in_flight() == {"faces": 0, "objects": 3}
    final = table.close_books()
    closed = Ledger(received=5, ok=2, undelivered=1, cancelled=3)
    assert LAYOUT.pipeline_counts(final, 1).ledger == closed
    assert LAYOUT.stream_counts(final, 1, 2).ledger == closed
    assert LAYOUT.pipeline_counts(final, 0).ledger == Ledger()
    assert not table.read().any()

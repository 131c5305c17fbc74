"""Conservation accounting: where every received frame went."""

from __future__ import annotations

import mmap
import os
from dataclasses import asdict, dataclass, fields
from typing import Protocol

from foveate.service.frame import Verdict

__all__ = ["Counts", "Ledger", "SharedLedger"]


class Counts(Protocol):
    """Whatever frames are counted in."""

    def count(self, name: str, by: int = 1) -> None:
        """Add to one of the ledger's counts."""


@dataclass(slots=True)
class Ledger:
    """Counts of frames. At all times received = the sum of all verdicts + cancelled + in_flight."""

    received: int = 0
    ok: int = 0
    superseded: int = 0
    infeasible: int = 0
    expired: int = 0
    bad_frame: int = 0
    rejected: int = 0
    failed: int = 0
    draining: int = 0
    cancelled: int = 0
    """Withdrawn unanswered: the client was gone before they were started."""
    late: int = 0
    """Of the ok: answered after their deadline."""
    undelivered: int = 0
    """Of the answered: the client was gone before it could be told."""

    @property
    def in_flight(self) -> int:
        """Received, and neither answered nor cancelled yet."""
        return self.received - self.settled

    @property
    def settled(self) -> int:
        answered: int = sum(getattr(self, verdict.value) for verdict in Verdict)
        return answered + self.cancelled

    def count(self, name: str, by: int = 1) -> None:
        """Add to one of the counts."""
        setattr(self, name, getattr(self, name) + by)

    def add(self, other: Ledger) -> None:
        """Add another ledger's counts to this one."""
        for name, count in asdict(other).items():
            self.count(name, count)


_PLACES = {field.name: place for place, field in enumerate(fields(Ledger))}
_BYTES = 8 * len(_PLACES)


class SharedLedger:
    """Counts in memory that outlives the process which counts: a crash loses none of them.

    One process counts; others may read at any time.
    """

    def __init__(self, handle: int) -> None:
        """Over the file `handle`, which stays the caller's to close."""
        self._counts = memoryview(mmap.mmap(handle, _BYTES)).cast("Q")

    @staticmethod
    def new_file() -> int:
        """A file without a name for one ledger, all of it 0; it goes with the last process that has it."""
        handle = os.memfd_create("foveate-ledger", os.MFD_CLOEXEC)
        os.ftruncate(handle, _BYTES)
        return handle

    def count(self, name: str, by: int = 1) -> None:
        """Add to one of the counts."""
        self._counts[_PLACES[name]] += by

    def read(self) -> Ledger:
        """The counts now. What is received is read last, so that no frame seems to be answered before it came."""
        counts = {name: self._counts[place] for name, place in _PLACES.items() if name != "received"}
        return Ledger(received=self._counts[_PLACES["received"]], **counts)

    def close_books(self) -> Ledger:
        """The counts of a process that is gone: what it had in flight is cancelled, and all starts at 0 again."""
        final = self.read()
        final.cancelled += final.in_flight
        for place in range(len(self._counts)):
            self._counts[place] = 0
        return final

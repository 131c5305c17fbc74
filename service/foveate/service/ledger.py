"""Conservation accounting: where every received frame went."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from foveate.service.frame import Verdict

__all__ = ["LEDGER_PLACES", "CountedLedger", "Counts", "Ledger", "ledger_of"]


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


LEDGER_PLACES = {field.name: place for place, field in enumerate(fields(Ledger))}
"""Where the counts of a ledger in memory are; what was received is the first of them."""


class CountedLedger:
    """A ledger in memory that outlives the process which counts: a crash loses none of it."""

    def __init__(self, values: memoryview) -> None:
        """Over as many counts of 64 bits as a ledger has."""
        self._values = values

    def count(self, name: str, by: int = 1) -> None:
        """See `Counts`."""
        self._values[LEDGER_PLACES[name]] += by


def ledger_of(values: Sequence[int] | NDArray[np.int64]) -> Ledger:
    """The ledger that is counted in these places."""
    return Ledger(*(int(value) for value in values[: len(LEDGER_PLACES)]))

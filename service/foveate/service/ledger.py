"""Conservation accounting: where every received frame went."""

from __future__ import annotations

from dataclasses import asdict, dataclass

from foveate.service.frame import Verdict

__all__ = ["Ledger"]


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

    def settle(self, verdict: Verdict) -> None:
        """Count one answer."""
        setattr(self, verdict.value, getattr(self, verdict.value) + 1)

    def add(self, other: Ledger) -> None:
        """Add another ledger's counts to this one."""
        for name, count in asdict(other).items():
            setattr(self, name, getattr(self, name) + count)

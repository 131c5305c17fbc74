"""Whose batch is next on a device that several lanes share: by class, then by least laxity, as far as that is fair."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple, Protocol, TypeVar

__all__ = ["Arbiter", "Beside", "Bid", "Bidder", "next_lane"]

L = TypeVar("L")

_LAGS_BY_SERVICES = 3
"""A lane behind by more than so many services of the one with the least laxity goes before it."""


class Bid(NamedTuple):
    """What a lane's waiting frames ask of the device; the least bid goes first."""

    priority: int
    """The highest class of which frames wait."""
    laxity_ns: int
    """How long the device may do something else before the first frame of that class is late."""


class Beside(NamedTuple):
    """What lanes mean to another one on their device: frames there wait for runs here, and the other way round."""

    longest_run_ns: int = 0
    """The longest that they run; 0: nothing is sent to them."""
    patience_ns: int | None = None
    """The longest run that their tightest streams can wait for; None: any."""


class Bidder(Protocol):
    """A lane, as the others on its device see it."""

    def bid(self, now_ns: int, free_ns: int) -> Bid | None:
        """What it asks of a device that is free from `free_ns` on; None: it has nothing to plan, or cannot now."""

    def beside(self, now_ns: int) -> Beside:
        """What it means to the others."""

    def wake(self) -> None:
        """Have it look again whether it can plan."""


def next_lane(bids: Mapping[L, Bid | None]) -> L | None:
    """The lane that plans the device's next batch; of equal ones the first. None: no lane has frames that wait.

    A lane whose laxity is larger loses nothing by waiting, so the shared device answers in time what either lane alone
    could. On one that is overloaded it would starve a lane whose frames have more time, and are replaced
    by newer ones before it has run out: see `Arbiter`.
    """
    asking = {lane: bid for lane, bid in bids.items() if bid is not None}
    return min(asking, key=asking.__getitem__, default=None)


@dataclass(slots=True)
class _Account:
    """What a lane has had of the device, in time for each unit of its streams' weight."""

    had_ns: float = 0.0
    service_ns: float = 0.0
    """The last that it has had."""


class Arbiter:
    """Decides between the lanes of one device. Guarded by the device's lock.

    Laxity decides while the lanes of the highest class have had about as much of the device, each by the weight of its
    streams. What a lane did not have while it did not compete is not made up for.
    """

    def __init__(self) -> None:
        self._lanes: dict[Bidder, _Account] = {}

    def join(self, lane: Bidder) -> None:
        """One more lane on the device."""
        self._lanes[lane] = _Account()

    def beside(self, lane: Bidder, now_ns: int) -> Beside:
        """What the other lanes mean to this one."""
        others = [each.beside(now_ns) for each in self._lanes if each is not lane]
        patience_ns = [each.patience_ns for each in others if each.patience_ns is not None]
        return Beside(max((each.longest_run_ns for each in others), default=0), min(patience_ns, default=None))

    @property
    def alone(self) -> bool:
        """Whether there is one lane only."""
        return len(self._lanes) == 1

    def is_first(self, lane: Bidder, now_ns: int, free_ns: int) -> bool:
        """Whether no other lane goes before this one; the one that does is woken."""
        if self.alone:
            return True
        first = self._first({each: each.bid(now_ns, free_ns) for each in self._lanes})
        if first is None or first is lane:
            return True
        first.wake()
        return False

    def has_planned(self, lane: Bidder, run_ns: int, weight: float) -> None:
        """A batch of the lane, whose streams have so much weight, is planned: what others may do has changed."""
        account = self._lanes[lane]
        account.service_ns = run_ns / weight
        account.had_ns += account.service_ns
        self.wake(but=lane)

    def wake(self, but: Bidder | None = None) -> None:
        """Have the lanes look again; a lane that knows is left out."""
        for lane in self._lanes:
            if lane is not but:
                lane.wake()

    def _first(self, bids: Mapping[Bidder, Bid | None]) -> Bidder | None:
        urgent = next_lane(bids)
        top = bids[urgent] if urgent else None
        if urgent is None or top is None:
            return None
        peers = [lane for lane, bid in bids.items() if bid and bid.priority == top.priority]
        behind = min(peers, key=lambda lane: self._lanes[lane].had_ns)
        least_ns, account = self._lanes[behind].had_ns, self._lanes[urgent]
        for lane in self._lanes.keys() - peers:
            self._lanes[lane].had_ns = max(self._lanes[lane].had_ns, least_ns)
        return behind if account.had_ns - least_ns > _LAGS_BY_SERVICES * account.service_ns else urgent

"""Whose batch is next on a device that several lanes share: by class, then by least laxity."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple, TypeVar

__all__ = ["Bid", "next_lane"]

L = TypeVar("L")


class Bid(NamedTuple):
    """What a lane's waiting frames ask of the device; the least bid goes first."""

    priority: int
    """The highest class of which frames wait."""
    laxity_ns: int
    """How long the device may do something else before the first frame of that class is late."""


def next_lane(bids: Mapping[L, Bid | None]) -> L | None:
    """The lane that plans the device's next batch; of equal ones the first. None: no lane has frames that wait.

    A lane whose laxity is larger loses nothing by waiting, so the shared device answers in time what either lane alone
    could; within a class no lane is starved, since the laxity of what waits only shrinks.
    """
    asking = {lane: bid for lane, bid in bids.items() if bid is not None}
    return min(asking, key=asking.__getitem__, default=None)

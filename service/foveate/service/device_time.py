"""What the lanes of one device share: its time, and the lock over all that is decided about it."""

from __future__ import annotations

import threading

from foveate.service.arbiter import Arbiter
from foveate.service.turns import Turns

__all__ = ["DeviceTime"]


class DeviceTime:
    """A device's calendar and the order of its lanes.

    One lock for all lanes: each decision depends on what the others have planned, and takes a tenth of a millisecond.
    """

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.turns = Turns(self.lock)
        self.arbiter = Arbiter()

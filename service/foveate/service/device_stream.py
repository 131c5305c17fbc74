"""A stream as a device knows it: what it asked for, what it was promised, how fast it sends."""

from __future__ import annotations

import time

from foveate.service.frame import Delivery, Grant, StreamOptions
from foveate.service.rates import RateMeter
from foveate.service.scheduler import StreamShare

__all__ = ["DeviceStream"]


class DeviceStream:
    """The standing of one stream with a device and its scheduler."""

    def __init__(self, stream_id: str, options: StreamOptions) -> None:
        """`stream_id` names it among all streams of the device."""
        depth = options.queue_depth if options.delivery is Delivery.QUEUE else None
        self.stream_id = stream_id
        self.options = options
        self.share = StreamShare(options.priority, options.weight, depth)
        self.opened_ns = time.monotonic_ns()
        self.arrivals = RateMeter(self.opened_ns)
        self.advised_fps = 0.0
        self._grant = Grant.BEST_EFFORT

    @property
    def grant(self) -> Grant:
        """What the stream is promised."""
        return self._grant

    @grant.setter
    def grant(self, grant: Grant) -> None:
        self._grant = grant
        self.share.guaranteed_fps = self.options.fps if grant is Grant.GUARANTEED else 0.0

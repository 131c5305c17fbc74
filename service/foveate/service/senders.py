"""Which streams send to a lane: what it is owed of a device that it shares goes by their weight."""

from __future__ import annotations

from collections import OrderedDict

from foveate.service.waiting_room import StreamShare

__all__ = ["Senders"]

_REMEMBERED_NS = 2_000_000_000


class Senders:
    """The streams that have sent in the last two seconds, or the one that sent last: its frames may wait for longer.

    Not those of which frames wait: all streams of a lane that is overloaded wait, and few of one that keeps up.
    """

    def __init__(self) -> None:
        self._sent_ns: OrderedDict[StreamShare, int] = OrderedDict()
        self._weight = 0.0

    def note(self, share: StreamShare, now_ns: int) -> None:
        """A frame of a stream has come."""
        if share in self._sent_ns:
            self._sent_ns.move_to_end(share)
        else:
            self._weight += share.weight
        self._sent_ns[share] = now_ns
        self._forget_old(now_ns)

    def weight(self, now_ns: int) -> float:
        """Of all of them; more than 0 once a frame has come."""
        self._forget_old(now_ns)
        return self._weight

    def _forget_old(self, now_ns: int) -> None:
        while len(self._sent_ns) > 1:
            share = next(iter(self._sent_ns))
            if now_ns - self._sent_ns[share] <= _REMEMBERED_NS:
                return
            del self._sent_ns[share]
            self._weight -= share.weight
            if len(self._sent_ns) == 1:
                self._weight = next(iter(self._sent_ns)).weight  # exactly: it is divided by

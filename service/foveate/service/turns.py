"""The engine's calendar: batches run in the order in which they were planned, a few at a time."""

from __future__ import annotations

import threading

__all__ = ["Turns"]


class Turns:
    """Whose turn it is on an engine, and when the engine is predicted to be free. Guarded by the lane's lock.

    A batch takes a turn when it is planned; once that is up it begins and ends it, or passes it on.
    """

    def __init__(self, lock: threading.Lock, max_in_flight: int) -> None:
        self._changed = threading.Condition(lock)
        self._max_in_flight = max_in_flight
        self._planned_ns: dict[int, int] = {}
        self._next = 0
        self._up = 0
        self._in_flight = 0
        self._free_ns = 0

    def free_ns(self, now_ns: int) -> int:
        """When all that is running and planned is predicted to be done; not before now."""
        return max(now_ns + sum(self._planned_ns.values()), self._free_ns)

    def take(self, latency_ns: int, ends_ns: int) -> int:
        """The turn of a batch that is planned to run for `latency_ns` until `ends_ns`."""
        turn, self._next = self._next, self._next + 1
        self._planned_ns[turn] = latency_ns
        self._free_ns = ends_ns
        return turn

    def is_planned(self, turn: int) -> bool:
        """Whether the batch of that turn has neither begun nor passed it on."""
        return turn in self._planned_ns

    def is_up(self, turn: int) -> bool:
        """Whether the batches planned before have begun, and there is room for one more."""
        return self._up == turn and self._in_flight < self._max_in_flight

    def wait(self, timeout_s: float | None) -> None:
        """Block, with the lock released, until turns have changed or the time is over."""
        self._changed.wait(timeout_s)

    def begin(self, turn: int, latency_ns: int, now_ns: int) -> None:
        """Enter the run of a turn that is up."""
        self.pass_on(turn)
        self._in_flight += 1
        self._free_ns = now_ns + latency_ns + sum(self._planned_ns.values())

    def pass_on(self, turn: int) -> None:
        """Let the next one have the turn that is up: its batch does not run."""
        self._free_ns -= self._planned_ns.pop(turn)
        self._up += 1
        self._changed.notify_all()

    def end(self, now_ns: int) -> None:
        """Leave the run: the next may begin."""
        self._in_flight -= 1
        self._free_ns = now_ns + sum(self._planned_ns.values())
        self._changed.notify_all()

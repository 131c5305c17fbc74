"""The engine's calendar: batches run in the order in which they were planned, a few at a time."""

from __future__ import annotations

import threading

__all__ = ["Turns"]


class Turns:
    """Whose turn it is on an engine, and when the engine is predicted to be free. Guarded by the lane's lock.

    A batch takes a turn when it is planned and either begins and ends it, or gives it up.
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
        return max(now_ns, self._free_ns)

    def take(self, latency_ns: int, ends_ns: int) -> int:
        """The turn of a batch that is planned to run for `latency_ns` until `ends_ns`."""
        turn, self._next = self._next, self._next + 1
        self._planned_ns[turn] = latency_ns
        self._free_ns = ends_ns
        return turn

    def begin(self, turn: int, latency_ns: int, now_ns: int) -> None:
        """Enter the run that `await_turn` has led to."""
        self._pass_on(turn)
        self._in_flight += 1
        self._free_ns = now_ns + latency_ns + sum(self._planned_ns.values())

    def await_turn(self, turn: int) -> None:
        """Block, with the lock released, until the batches planned before have begun and there is room."""
        while self._up != turn or self._in_flight >= self._max_in_flight:
            self._changed.wait()

    def end(self, now_ns: int) -> None:
        """Leave the run: the next may begin."""
        self._in_flight -= 1
        self._free_ns = now_ns + sum(self._planned_ns.values())
        self._changed.notify_all()

    def give_up(self, turn: int) -> None:
        """Pass the turn of a batch that will not run, when it comes up."""
        while self._up != turn:
            self._changed.wait()
        self._pass_on(turn)

    def _pass_on(self, turn: int) -> None:
        self._free_ns -= self._planned_ns.pop(turn)
        self._up += 1
        self._changed.notify_all()

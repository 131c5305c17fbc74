"""A device's calendar: batches that are decoded run in the order of their planning, those of one lane at a time."""

from __future__ import annotations

import threading
from collections.abc import Hashable
from dataclasses import dataclass

__all__ = ["Turns"]


@dataclass(frozen=True, slots=True)
class _Planned:
    latency_ns: int
    starts_ns: int
    lane: Hashable
    at_once: int


class Turns:
    """Whose turn it is on a device, and when it is predicted to be free. Guarded by the device's lock.

    A batch takes a turn when it is planned and is ready once it is decoded. When its turn is up it begins and ends
    it; it may also pass it on. A batch that is ready overtakes one that is not: slow decoding holds up nobody else.
    Batches of two lanes never run side by side: each would take longer than was measured, and longer than predicted.
    """

    def __init__(self, lock: threading.Lock) -> None:
        self._changed = threading.Condition(lock)
        self._planned: dict[int, _Planned] = {}
        self._ready: set[int] = set()
        self._next = 0
        self._in_flight = 0
        self._runs: Hashable = None
        """The lane that runs, or ran last."""
        self._run_ends_ns = 0

    def free_ns(self, now_ns: int) -> int:
        """When all that runs and is planned is predicted to be done; not before now.

        A batch whose decoding leaves room for another run before it, or takes that much longer than was
        predicted, is left out: others go first.
        """
        free_ns = max(now_ns, self._run_ends_ns) if self._in_flight else now_ns
        for turn, planned in self._planned.items():
            if turn in self._ready:
                free_ns += planned.latency_ns
            elif planned.starts_ns - free_ns <= planned.latency_ns and now_ns - planned.starts_ns <= planned.latency_ns:
                free_ns = max(free_ns, planned.starts_ns) + planned.latency_ns
        return free_ns

    def take(self, latency_ns: int, ends_ns: int, lane: Hashable, at_once: int) -> int:
        """The turn of a batch that is planned to run for `latency_ns` until `ends_ns`.

        `lane` is whose batch it is, and `at_once` how many of that lane may run side by side.
        """
        turn, self._next = self._next, self._next + 1
        self._planned[turn] = _Planned(latency_ns, ends_ns - latency_ns, lane, at_once)
        return turn

    def is_planned(self, turn: int) -> bool:
        """Whether the batch of that turn has neither begun nor passed it on."""
        return turn in self._planned

    def ready(self, turn: int) -> None:
        """The batch of that turn is decoded."""
        self._ready.add(turn)

    def is_up(self, turn: int) -> bool:
        """Whether no batch planned before is ready too, and there is room for one more."""
        if turn not in self._ready or turn != min(self._ready):
            return False
        planned = self._planned[turn]
        return not self._in_flight or (planned.lane is self._runs and self._in_flight < planned.at_once)

    def overrun(self, now_ns: int) -> bool:
        """Whether a run is overdue and another batch is planned behind it: its end, not time, decides what is next."""
        return self._in_flight > 0 and bool(self._planned) and self._run_ends_ns < now_ns

    def overdue_ns(self, now_ns: int) -> int:
        """For how long a run has been expected to end; 0: none has."""
        return max(0, now_ns - self._run_ends_ns) if self._in_flight else 0

    def wait(self, timeout_s: float | None) -> None:
        """Block, with the lock released, until turns have changed or the time is over."""
        self._changed.wait(timeout_s)

    def begin(self, turn: int, latency_ns: int, now_ns: int) -> None:
        """Enter the run of a turn that is up."""
        self._runs = self._planned[turn].lane
        self.pass_on(turn)
        self._in_flight += 1
        self._run_ends_ns = now_ns + latency_ns

    def pass_on(self, turn: int) -> None:
        """Give up the turn: its batch does not run."""
        del self._planned[turn]
        self._ready.discard(turn)
        self._changed.notify_all()

    def wake(self) -> None:
        """Let those that wait look again: something else than a turn has changed."""
        self._changed.notify_all()

    def end(self) -> None:
        """Leave the run: the next may begin."""
        self._in_flight -= 1
        self._changed.notify_all()

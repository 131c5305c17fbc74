"""Plays the frames of cameras to a policy and an engine, event by event."""

from __future__ import annotations

from collections.abc import Sequence

from foveate.tools.simulation.cameras import Arrival
from foveate.tools.simulation.engine import SimulatedEngine
from foveate.tools.simulation.metrics import Outcome
from foveate.tools.simulation.policies import Decision, Policy

__all__ = ["simulate"]


def simulate(policy: Policy, engine: SimulatedEngine, sent: Sequence[Arrival], outcome: Outcome) -> Outcome:
    """Enter into `outcome` what becomes of each frame that is sent, and return it.

    As in a lane, the next batch may be planned while one runs, for the moment at which that is predicted to end.
    """
    return _Simulation(policy, engine, outcome).play(sent)


class _Simulation:
    def __init__(self, policy: Policy, engine: SimulatedEngine, outcome: Outcome) -> None:
        self._policy = policy
        self._engine = engine
        self._outcome = outcome
        self._now_ns = 0
        self._runs: Sequence[Arrival] = ()
        self._began_ns = self._ends_ns = self._predicted_ns = 0
        self._next: Sequence[Arrival] = ()
        self._wake_at_ns: int | None = None

    def play(self, sent: Sequence[Arrival]) -> Outcome:
        for arrival in sent:
            self._advance(arrival.at_ns)
            self._outcome.receive(arrival)
            self._drop(self._policy.arrive(arrival, self._now_ns, self._free_ns()))
            self._plan()
        self._advance(None)
        return self._outcome

    def _free_ns(self) -> int:
        """When the engine is predicted to be through with all that is planned."""
        free_ns = max(self._now_ns, self._predicted_ns) if self._runs else self._now_ns
        return free_ns + (self._policy.latency_ns(len(self._next)) if self._next else 0)

    def _advance(self, until_ns: int | None) -> None:
        """Let runs end and plans be made up to a moment; None: to the end."""
        while True:
            due = [moment for moment in (self._ends_ns if self._runs else None, self._wake_at_ns) if moment is not None]
            if not due or (until_ns is not None and min(due) > until_ns):
                break
            self._now_ns = max(self._now_ns, min(due))
            if self._runs and self._ends_ns <= self._now_ns:
                self._end()
            self._plan()
        if until_ns is not None:
            self._now_ns = until_ns

    def _plan(self) -> None:
        self._wake_at_ns = None
        while not self._next:
            decision = self._policy.plan(self._now_ns, self._free_ns())
            self._drop(decision)
            if not decision.batch:
                self._wake_at_ns = decision.wake_at_ns
                return
            self._next = decision.batch
            if not self._runs:
                self._begin()

    def _begin(self) -> None:
        kept = self._policy.begin(self._next, self._now_ns)
        self._outcome.drop([arrival for arrival in self._next if arrival not in kept])
        self._runs, self._next = kept, ()
        if kept:
            self._began_ns = self._now_ns
            self._predicted_ns = self._now_ns + self._policy.latency_ns(len(kept))
            self._ends_ns = self._now_ns + self._engine.run_ns(len(kept))

    def _end(self) -> None:
        self._outcome.answer(self._runs, self._now_ns)
        self._policy.observe(len(self._runs), self._now_ns - self._began_ns, self._now_ns)
        self._runs = ()
        if self._next:
            self._begin()

    def _drop(self, decision: Decision) -> None:
        self._outcome.drop(decision.dropped, decision.superseded)

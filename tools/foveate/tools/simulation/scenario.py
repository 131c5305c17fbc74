"""Cameras and an engine that belong together."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from foveate.engines.profile import LatencyProfile
from foveate.tools.simulation.cameras import Camera, arrivals
from foveate.tools.simulation.engine import SimulatedEngine
from foveate.tools.simulation.metrics import Outcome
from foveate.tools.simulation.policies import Policy
from foveate.tools.simulation.simulator import simulate

__all__ = ["Scenario", "overloaded"]

_WARMUP_S = 1.0


@dataclass(frozen=True)
class Scenario:
    """Cameras that send to one engine for a while."""

    cameras: Sequence[Camera]
    per_batch_ms: float
    per_frame_ms: float
    max_batch: int = 32
    noise: float = 0.02
    seconds: float = 10.0
    seed: int = 1

    def engine(self) -> SimulatedEngine:
        return SimulatedEngine.from_line(self.per_batch_ms, self.per_frame_ms, self.max_batch, self.noise, self.seed)

    @property
    def capacity_fps(self) -> float:
        """Of an engine that always runs its largest batch."""
        return self.engine().capacity_fps(self.max_batch)

    def run(self, new_policy: Callable[[LatencyProfile, Sequence[Camera]], Policy]) -> Outcome:
        """What a policy makes of it, after a second to settle; the same frames and the same engine for each."""
        engine = self.engine()
        sent = arrivals(self.cameras, self.seconds + _WARMUP_S, self.seed)
        policy = new_policy(engine.profile, self.cameras)
        return simulate(policy, engine, sent, Outcome(self.cameras, self.seconds, int(_WARMUP_S * 1e9)))


def overloaded(
    load: float,
    *,
    streams: int = 336,
    abusive: int = 20,
    excess: float = 4.0,
    budgets_ms: Sequence[float] = (60.0, 100.0, 150.0, 200.0),
    per_batch_ms: float = 1.5,
    per_frame_ms: float = 0.25,
    seconds: float = 10.0,
    seed: int = 1,
) -> Scenario:
    """Many cameras that declare `load` times what the engine can do, some of which send more than they declare."""
    empty = Scenario([], per_batch_ms, per_frame_ms, seconds=seconds, seed=seed)
    fps = load * empty.capacity_fps / streams
    cameras = [
        Camera(fps, budgets_ms[index % len(budgets_ms)], excess=excess if index < abusive else 1.0)
        for index in range(streams)
    ]
    return replace(empty, cameras=cameras)

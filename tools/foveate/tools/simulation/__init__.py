"""A discrete-event simulation of cameras, an engine, and the policies that may stand between them."""

from foveate.tools.simulation.cameras import Arrival, Camera, arrivals
from foveate.tools.simulation.engine import SimulatedEngine
from foveate.tools.simulation.metrics import Outcome, StreamOutcome, jain
from foveate.tools.simulation.policies import (
    POLICIES,
    EarliestDeadline,
    FairShares,
    Fifo,
    LazyDrop,
    NexusEarlyDrop,
    Policy,
    TimeoutQueue,
)
from foveate.tools.simulation.scenario import Scenario, overloaded
from foveate.tools.simulation.simulator import simulate

__all__ = [
    "POLICIES",
    "Arrival",
    "Camera",
    "EarliestDeadline",
    "FairShares",
    "Fifo",
    "LazyDrop",
    "NexusEarlyDrop",
    "Outcome",
    "Policy",
    "Scenario",
    "SimulatedEngine",
    "StreamOutcome",
    "TimeoutQueue",
    "arrivals",
    "jain",
    "overloaded",
    "simulate",
]

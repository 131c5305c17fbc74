"""How long the scheduler takes to decide. Prints JSON.

    python tests/bench/scheduler_decision.py [--waiting 336] [--queue-depth 0] [--decisions 2000] [--rounds 5]

As many streams as there are frames to wait, or fewer with QUEUE, at an overloaded engine: each decision plans one
batch, then as many frames arrive as it took. A decision is one call of `plan`; an arrival one of `arrive`. Times are
processor time of the thread, so that other programs on the machine count little: what they do to caches and clocks
remains. Every round makes the same decisions, so `plan_least_us`, of each decision the least over the rounds, is what
the decisions themselves take. The calibrating loop (100,000 additions in Python) tells how fast the machine was
meanwhile; figures of different machines compare by their ratio to it.
"""

from __future__ import annotations

import argparse
import gc
import json
import random
import time
from collections.abc import Callable
from functools import partial
from itertools import chain
from typing import TypeVar

from foveate.engines.profile import LatencyProfile
from foveate.service.prediction import LatencyModel
from foveate.service.scheduler import Scheduler, StreamShare, Waiting
from foveate.tools.provenance import provenance, spread

T = TypeVar("T")

_MS = 1_000_000
_PER_BATCH_NS, _PER_FRAME_NS, _MAX_BATCH = 2 * _MS, 500_000, 32


def main() -> None:
    """Measure, and print one JSON object."""
    asked = _arguments()
    before = _calibration_us()
    rounds = [_decisions(asked.waiting, asked.queue_depth or None, asked.decisions) for _ in range(asked.rounds)]
    calibration_us = (before + _calibration_us()) / 2
    plans, arrivals, batches = [each[0] for each in rounds], [each[1] for each in rounds], rounds[0][2]
    figures = {
        "plan_us": spread(list(chain(*plans))),
        "plan_least_us": spread(list(map(min, *plans) if len(plans) > 1 else plans[0])),
        "arrive_us": spread(list(chain(*arrivals))),
        "calibration_us": round(calibration_us, 1),
    }
    ratios = {"plan_p99": round(figures["plan_us"]["p99"] / calibration_us, 4)}  # type: ignore[index]
    case = {"waiting": asked.waiting, "queue_depth": asked.queue_depth, "mean_batch": round(batches, 1)}
    print(json.dumps(provenance() | case | figures | {"ratio_to_calibration": ratios}, indent=2))


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--waiting", type=int, default=336, help="frames that wait at each decision")
    parser.add_argument("--queue-depth", type=int, default=0, help="of each stream; 0: LATEST")
    parser.add_argument("--decisions", type=int, default=2000, help="of each round")
    parser.add_argument("--rounds", type=int, default=5)
    return parser.parse_args()


def _decisions(waiting: int, queue_depth: int | None, decisions: int) -> tuple[list[float], list[float], float]:
    """Microseconds of each plan and of each arrival, and the mean batch."""
    rng = random.Random(1)
    buckets = (1, 2, 4, 8, 16, _MAX_BATCH)
    profiled = tuple(_PER_BATCH_NS + _PER_FRAME_NS * batch for batch in buckets)
    latency = LatencyModel(LatencyProfile(buckets, profiled, profiled))
    scheduler: Scheduler[StreamShare] = Scheduler(latency, _MAX_BATCH)
    shares = [
        StreamShare(index % 3, rng.choice((1.0, 2.0)), queue_depth, guaranteed_fps=rng.choice((0.0, 5.0)))
        for index in range(waiting // (queue_depth or 1))
    ]
    now_ns = 0

    def arrive(share: StreamShare) -> float:
        frame = Waiting(share, share, now_ns + rng.randint(500, 2000) * _MS, rng.randint(0, 100_000))
        return _timed(partial(scheduler.arrive, frame, now_ns, now_ns))[1]

    arrivals = [arrive(share) for _ in range(queue_depth or 1) for share in shares]
    plans, planned = [], 0
    gc.disable()
    for _ in range(decisions):
        plan, took_us = _timed(partial(scheduler.plan, now_ns, now_ns))
        plans.append(took_us)
        planned += len(plan.batch)
        run_ns = plan.ends_ns - plan.starts_ns
        now_ns = plan.ends_ns
        latency.observe_run(len(plan.batch), int(run_ns * rng.uniform(0.95, 1.05)), now_ns)
        gone = [*plan.batch, *(refusal.frame for refusal in plan.refused)]
        arrivals += [arrive(share) for share in gone]
    gc.enable()
    return plans, arrivals, planned / decisions


def _timed(call: Callable[[], T]) -> tuple[T, float]:
    """What the call returns, and its microseconds of processor time."""
    started_ns = time.thread_time_ns()
    result = call()
    return result, (time.thread_time_ns() - started_ns) / 1e3


def _calibration_us() -> float:
    """The best of some rounds of a loop that does nothing but add."""

    def loop() -> int:
        total = 0
        for value in range(100_000):
            total += value
        return total

    return min(_timed(loop)[1] for _ in range(15))


if __name__ == "__main__":
    main()

"""The engine process of a service with the fake detector.

The environment, as it is when the process starts, says how long a batch takes, whether the answers are wrong, and
after how many batches the device is lost, a run does not come back, or the scheduler fails.
"""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from foveate.engines.contract import Slot
from foveate.engines.errors import DeviceLost
from foveate.engines.fake import Gate
from foveate.service import engine_process
from foveate.service.scheduler import Plan, Scheduler
from support.service import fake_engine, fake_opening

__all__: list[str] = []


def _blind(inputs: Mapping[str, NDArray[Any]], batch: int) -> dict[str, NDArray[Any]]:
    return {
        "boxes": np.zeros((batch, 1, 4), np.float32),
        "scores": np.zeros((batch, 1), np.float32),
        "class_ids": np.zeros((batch, 1), np.int64),
    }


def _lost_after(batches: int) -> Callable[[Slot, int], DeviceLost | None]:
    runs = itertools.count(1)
    return lambda slot, batch: DeviceLost("an illegal address") if next(runs) > batches else None


def _stuck_after(batches: int) -> Callable[[Slot, int], None]:
    runs = itertools.count(1)

    def fail_never(slot: Slot, batch: int) -> None:
        if next(runs) > batches:
            Gate().wait()

    return fail_never


def _fail_planning_after(batches: int) -> None:
    plan, planned = Scheduler.plan, itertools.count(1)

    def fail(scheduler: Scheduler[Any], now_ns: int, engine_free_ns: int) -> Plan[Any]:
        made = plan(scheduler, now_ns, engine_free_ns)
        if made.batch and next(planned) > batches:
            raise ZeroDivisionError("a fault of the scheduler")
        return made

    Scheduler.plan = fail  # type: ignore[method-assign, assignment]


if __name__ == "__main__":
    latency_s = float(os.environ.get("FAKE_LATENCY_S", "0"))
    engine = fake_engine(latency_s)
    if os.environ.get("FAKE_WRONG"):
        engine.compute = _blind
    if batches := os.environ.get("FAKE_LOST_AFTER"):
        engine.fail_when = _lost_after(int(batches))
    if batches := os.environ.get("FAKE_STUCK_AFTER"):
        engine.fail_when = _stuck_after(int(batches))
    if batches := os.environ.get("FAKE_PLANS"):
        _fail_planning_after(int(batches))
    engine_process.main(fake_opening(engine, max(1.0, latency_s * 1e3), {}))

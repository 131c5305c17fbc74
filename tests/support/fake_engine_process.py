"""The engine process of a service with the fake detector.

The environment, as it is when the process starts, says how long a batch takes, and whether the answers are wrong.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from foveate.service import engine_process
from support.service import fake_engine, fake_opening

__all__: list[str] = []


def _blind(inputs: Mapping[str, NDArray[Any]], batch: int) -> dict[str, NDArray[Any]]:
    return {
        "boxes": np.zeros((batch, 1, 4), np.float32),
        "scores": np.zeros((batch, 1), np.float32),
        "class_ids": np.zeros((batch, 1), np.int64),
    }


if __name__ == "__main__":
    latency_s = float(os.environ.get("FAKE_LATENCY_S", "0"))
    engine = fake_engine(latency_s)
    if os.environ.get("FAKE_WRONG"):
        engine.compute = _blind
    engine_process.main(fake_opening(engine, max(1.0, latency_s * 1e3), {}))

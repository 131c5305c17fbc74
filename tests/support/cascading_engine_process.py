"""The engine process of a service with the fake detector and a cascade of one stage, as `shades_opening` has it.

The environment, as it is when the process starts, says how long the classifier takes.
"""

from __future__ import annotations

import itertools
import os

from foveate.service import engine_process
from support.cascades import shades_engine, shades_opening
from support.service import fake_engine

__all__: list[str] = []

if __name__ == "__main__":
    latency_s, runs = float(os.environ.get("FAKE_CLASSIFIER_LATENCY_S", "0")), itertools.count()
    # The first run is the picture that an engine must know.
    classifier = shades_engine(latency_s=lambda batch: latency_s if next(runs) else 0.0)
    engine_process.main(shades_opening(fake_engine(), classifier))

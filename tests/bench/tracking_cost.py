"""What it costs to follow objects, and what part of an event loop that is. Prints a table.

    python tests/bench/tracking_cost.py [--updates 300] [--fps 25] [--streams 4 16 64]

One `StreamTracker.update` for so many objects walking across the picture, with a tenth of them missed in each frame,
and beside it `TrackMemory` asked about all of them. Every frame comes, or only one in three, so that the tracker makes
up for the others. Times are processor time of the thread, so that other programs on the machine do not count.
"""

from __future__ import annotations

import argparse
import time

import numpy as np

from foveate.models.outputs import Detections
from foveate.service.config import TrackConfig
from foveate.service.track_memory import TrackMemory
from foveate.service.tracking import StreamTracker
from foveate.tools.provenance import provenance

_OBJECTS = (1, 10, 50, 100, 200)
_WARM_UP = 50


def main() -> None:
    """Measure, and print the table."""
    asked = _arguments()
    machine = provenance()
    print(", ".join(f"{name} {value}" for name, value in machine.items() if isinstance(value, str | int)))
    shares = "".join(f"{f'{streams} streams':>12}" for streams in asked.streams)
    print(f"{'objects':>8}{'frames':>10}{'p50 us':>9}{'p99 us':>9}{'memory us':>11}{shares}   at {asked.fps:g} fps")
    for objects in _OBJECTS:
        for one_in in (1, 3):
            updates, memory = _measured(objects, one_in, asked.updates, asked.fps)
            mean_s = float(np.mean(updates) + np.mean(memory)) * 1e-6
            part = "".join(f"{mean_s * streams * asked.fps / one_in:>11.1%} " for streams in asked.streams)
            frames = "all" if one_in == 1 else f"1 in {one_in}"
            p50, p99 = np.quantile(updates, (0.5, 0.99))
            print(f"{objects:>8}{frames:>10}{p50:>9.1f}{p99:>9.1f}{np.median(memory):>11.1f}{part}")


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--updates", type=int, default=300)
    parser.add_argument("--fps", type=float, default=25.0, help="of each camera")
    parser.add_argument("--streams", type=int, nargs="+", default=[4, 16, 64], help="that share an event loop")
    return parser.parse_args()


def _measured(objects: int, one_in: int, updates: int, fps: float) -> tuple[list[float], list[float]]:
    """Microseconds of each update of the tracker, and of each question to the memory."""
    tracker, memory = StreamTracker(TrackConfig(), fps), TrackMemory(TrackConfig())
    rng = np.random.default_rng(1)
    start = rng.uniform((0, 0), (3000, 1700), (objects, 2))
    speed = rng.normal(0, 60, (objects, 2))
    size = rng.uniform((30, 60), (60, 120), (objects, 2))
    tracked_us, asked_us = [], []
    for number in range(_WARM_UP + updates):
        t = number * one_in / fps
        corner = start + speed * ((t + 5) % 10 - 5) + rng.normal(0, 1, start.shape)
        seen = rng.random(objects) >= 0.1 if objects > 1 else np.ones(1, bool)
        boxes = np.hstack([corner, corner + size])[seen].astype(np.float32)
        scores = np.linspace(0.95, 0.3, len(boxes)).astype(np.float32)
        detections = Detections(boxes, scores, np.arange(objects)[seen] % 3)
        now_ns = 1_000_000_000 + round(t * 1e9)
        began = time.thread_time_ns()
        tracks = tracker.update(detections, number, now_ns)
        between = time.thread_time_ns()
        memory.forget(tracks.ended)
        wanted = memory.needs(tracks.track_ids, boxes, "kind", now_ns)
        ended = time.thread_time_ns()
        for index in wanted:
            memory.vote(tracks.track_ids[index], "kind", 1, "car", 0.9, now_ns)
        if number >= _WARM_UP:
            tracked_us.append((between - began) / 1e3)
            asked_us.append((ended - between) / 1e3)
    return tracked_us, asked_us


if __name__ == "__main__":
    main()

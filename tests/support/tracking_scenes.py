"""Made-up scenes of moving objects with the truth about who is who, and the measures of how well ids kept to it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import linear_sum_assignment  # type: ignore[import-untyped]

from foveate.models.outputs import Detections

__all__ = ["SCENES", "Score", "Seen", "as_detections", "score_ids"]

WIDTH, HEIGHT = 1280.0, 720.0
SECOND_NS = 1_000_000_000


@dataclass(frozen=True)
class Seen:
    """One frame of a scene, as a detector saw it. Detections are in no order that says who is who."""

    now_ns: int
    detections: Detections
    truth: tuple[int, ...]
    """By detection: which object it is, from 1; 0 for what is none."""


@dataclass(frozen=True)
class Score:
    """How well ids kept to objects."""

    idf1: float
    """Source: Ristani et al. 2016, "Performance measures and a data set for multi-target, multi-camera tracking"."""
    switches: int
    """Times that an object had another id than the last time that it had one."""
    ids: int


def as_detections(boxes: object, scores: object = None, class_ids: object = None) -> Detections:
    """Detections of these boxes, all of class 0 and sure where nothing else is said."""
    rows = np.asarray(boxes, np.float32).reshape(-1, 4)
    sure = np.full(len(rows), 0.9, np.float32) if scores is None else np.asarray(scores, np.float32)
    classes = np.zeros(len(rows), np.int64) if class_ids is None else np.asarray(class_ids, np.int64)
    return Detections(rows, sure, classes)


@dataclass(frozen=True)
class _Walker:
    """An object on a straight way at an even speed. Units: pixels, seconds."""

    start: tuple[float, float]
    speed: tuple[float, float]
    size: tuple[float, float] = (60.0, 120.0)
    class_id: int = 0
    there: tuple[float, float] = (0.0, 1e9)
    """From when until when it is in the scene."""
    hidden: tuple[float, float] = (1e9, 1e9)

    def box(self, t: float) -> tuple[float, float, float, float] | None:
        if not self.there[0] <= t < self.there[1] or self.hidden[0] <= t < self.hidden[1]:
            return None
        since = t - self.there[0]
        x, y = self.start[0] + self.speed[0] * since, self.start[1] + self.speed[1] * since
        left, top, right, bottom = (
            x - self.size[0] / 2,
            y - self.size[1] / 2,
            x + self.size[0] / 2,
            y + self.size[1] / 2,
        )
        if right <= 8 or left >= WIDTH - 8 or bottom <= 8 or top >= HEIGHT - 8:
            return None
        return max(0.0, left), max(0.0, top), min(WIDTH, right), min(HEIGHT, bottom)


def _filmed(
    walkers: Sequence[_Walker],
    seconds: float,
    seed: int,
    *,
    fps: float = 25.0,
    jitter: float = 0.02,
    missed: float = 0.0,
    false_alarms: float = 0.0,
    dropped: float = 0.0,
    weak: float = 0.0,
    shake_px: float = 0.0,
) -> list[Seen]:
    """What a detector says of them. Jitter is in box sizes; the others are the odds per frame and object."""
    rng = np.random.default_rng(seed)
    frames = []
    for number in range(round(seconds * fps)):
        t = number / fps
        rows: list[tuple[NDArray[np.float64], float, int, int]] = []
        for who, walker in enumerate(walkers, 1):
            box, gone, faint = walker.box(t), rng.random() < missed, rng.random() < weak
            noise = rng.normal(0.0, jitter, 4) * np.tile(walker.size, 2)
            if box is not None and not gone:
                score = rng.uniform(0.25, 0.45) if faint else rng.uniform(0.6, 0.95)
                rows.append((np.asarray(box) + noise, score, walker.class_id, who))
        for _ in range(rng.poisson(false_alarms)):
            x, y = rng.uniform(0, WIDTH - 80), rng.uniform(0, HEIGHT - 80)
            rows.append((np.array([x, y, x + 50, y + 70]), rng.uniform(0.3, 0.7), 0, 0))
        if rng.random() < dropped and number:
            continue
        rows.sort(key=lambda row: -row[1])
        shake = np.tile(rng.normal(0.0, shake_px, 2), 2)
        detections = as_detections([row[0] + shake for row in rows], [row[1] for row in rows], [row[2] for row in rows])
        frames.append(Seen(SECOND_NS + round(t * SECOND_NS), detections, tuple(row[3] for row in rows)))
    return frames


def _crossing() -> list[Seen]:
    """Two pairs pass each other, one of them with the boxes well into each other."""
    walkers = [
        _Walker((100, 300), (160, 0)),
        _Walker((1100, 330), (-160, 0)),
        _Walker((300, 100), (110, 90)),
        _Walker((900, 140), (-100, 80), class_id=1),
    ]
    return _filmed(walkers, 6, 1)


def _classes_meet() -> list[Seen]:
    """A rider on a bicycle that somebody else takes over: boxes of two classes, one over the other."""
    walkers = [
        _Walker((150, 360), (100, 0), (90, 160), 0),
        _Walker((150, 372), (100, 0), (96, 150), 1),
        _Walker((1000, 365), (-100, 0), (90, 160), 0),
    ]
    return _filmed(walkers, 8, 2)


def _occluded() -> list[Seen]:
    """They pass behind pillars, for up to 0.8 s."""
    walkers = [
        _Walker((60, 200), (110, 0), hidden=(2.0, 2.5)),
        _Walker((1200, 420), (-90, 10), hidden=(3.0, 3.8)),
        _Walker((640, 600), (0, -40), (80, 80), hidden=(1.5, 2.1)),
    ]
    return _filmed(walkers, 7, 3)


def _coming_and_going() -> list[Seen]:
    """Somebody enters every 0.7 s, and leaves at the other side."""
    walkers = [_Walker((-20, 90 + 110 * (n % 6)), (260 + 15 * (n % 4), 0), there=(0.7 * n, 1e9)) for n in range(14)]
    return _filmed(walkers, 12, 4)


def _standing() -> list[Seen]:
    """Nobody moves, boxes tremble, scores come and go."""
    walkers = [_Walker((90 + 120 * (n % 9), 180 + 330 * (n // 9)), (0, 0)) for n in range(18)]
    return _filmed(walkers, 6, 5, jitter=0.06, missed=0.05, weak=0.2)


def _dropped_frames() -> list[Seen]:
    """Of 25 frames a second only some 7 are answered, at odd times."""
    walkers = [
        _Walker((40, 120), (130, 0)),
        _Walker((1240, 300), (-130, 0)),
        _Walker((40, 480), (90, 10)),
        _Walker((1200, 650), (-100, -10)),
    ]
    return _filmed(walkers, 8, 6, dropped=0.72)


def _strolling(count: int, seed: int, pace: float = 60.0) -> list[_Walker]:
    """So many of two classes, anywhere, in all directions. Units: the pace is in pixels a second."""
    rng = np.random.default_rng(seed)
    return [
        _Walker(
            (rng.uniform(100, 1180), rng.uniform(80, 640)),
            (rng.normal(0, pace), rng.normal(0, 0.6 * pace)),
            (rng.uniform(35, 60), rng.uniform(80, 120)),
            int(rng.integers(2)),
        )
        for _ in range(count)
    ]


def _crowd() -> list[Seen]:
    """Thirty cross the picture; the detector misses some and invents others."""
    return _filmed(_strolling(30, 7), 6, 7, missed=0.06, false_alarms=0.3, weak=0.1, dropped=0.3)


def _shaking() -> list[Seen]:
    """The camera hangs in the wind: from frame to frame everything jumps by a tenth of its width and more."""
    return _filmed(_strolling(8, 21), 6, 8, shake_px=6.0)


def _fast() -> list[Seen]:
    """They are through the picture in a few seconds: between frames they move by up to half their width."""
    return _filmed(_strolling(8, 62, 180.0), 3, 9, missed=0.03)


def _slow_camera() -> list[Seen]:
    """Five frames a second: between two of them, things move by up to half their width."""
    return _filmed(_strolling(8, 43), 10, 10, fps=5.0, missed=0.03)


SCENES: dict[str, Callable[[], list[Seen]]] = {
    "crossing": _crossing,
    "classes_meet": _classes_meet,
    "occluded": _occluded,
    "coming_and_going": _coming_and_going,
    "standing": _standing,
    "dropped_frames": _dropped_frames,
    "crowd": _crowd,
    "shaking": _shaking,
    "fast": _fast,
    "slow_camera": _slow_camera,
}


def score_ids(scene: Sequence[Seen], ids: Sequence[Sequence[int]]) -> Score:
    """How well ids, by frame and detection, kept to the objects; 0 is no id."""
    together: Counter[tuple[int, int]] = Counter()
    last: dict[int, int] = {}
    switches = claimed = there = 0
    for seen, given in zip(scene, ids, strict=True):
        for who, track in zip(seen.truth, given, strict=True):
            claimed += track != 0
            there += who != 0
            if who and track:
                together[who, track] += 1
                switches += last.get(who, track) != track
                last[who] = track
    objects, tracks = sorted({who for who, _ in together}), sorted({track for _, track in together})
    counts = np.array([[together[who, track] for track in tracks] for who in objects]).reshape(len(objects), -1)
    rows, columns = linear_sum_assignment(counts, maximize=True)
    return Score(2.0 * float(counts[rows, columns].sum()) / max(1, claimed + there), switches, len(tracks))

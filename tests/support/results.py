"""Results as a client gives them, made by hand."""

from __future__ import annotations

from typing import Any

import numpy as np

from foveate.client import Detections, Result, StageTimes, Verdict
from foveate.client.result import no_detections

__all__ = ["made_result", "one_detection"]


def made_result(
    sequence: int = 1, verdict: Verdict = Verdict.OK, *, total_ms: float = 20.0, age_ms: float = 2.0, **fields: Any
) -> Result:
    """A result with a budget of 100 ms, of which `age_ms` and `total_ms` are spent, all of it in inference."""
    answered = verdict not in (Verdict.DROPPED, Verdict.LOST)
    given: dict[str, Any] = {
        "sequence": sequence,
        "verdict": verdict,
        "message": "",
        "budget_ms": 100.0 if answered else 0.0,
        "age_ms": age_ms if answered else 0.0,
        "round_trip_ms": total_ms + 1.0 if answered else None,
        "detections": no_detections(),
        "times": StageTimes(infer_ms=total_ms, total_ms=total_ms) if answered else StageTimes(),
    }
    return Result(**given | fields)


def one_detection(
    box: tuple[float, float, float, float] = (20.0, 30.0, 60.0, 80.0), *, track_id: int = 0
) -> Detections:
    """One face with two keypoints, the second of them missing."""
    return Detections(
        boxes=np.array([box], np.float32),
        scores=np.array([0.875], np.float32),
        class_ids=np.array([2]),
        labels=("face",),
        track_ids=np.array([track_id]),
        keypoints=np.array([[[30.0, 40.0, 0.5], [np.nan] * 3]], np.float32),
        attributes=((),),
    )

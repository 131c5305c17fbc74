"""Results of cameras, made by hand."""

from __future__ import annotations

import cv2
import numpy as np

from foveate.client import Verdict
from foveate.client.result import no_detections
from foveate.tools.outputs import CameraResult
from support.results import made_result, one_detection

__all__ = ["camera_result", "grey_jpeg"]


def camera_result(
    sequence: int = 1,
    camera: str = "door",
    *,
    seen: bool = True,
    verdict: Verdict = Verdict.OK,
    picture: bytes | None = None,
    at: float | None = None,
) -> CameraResult:
    """One of 25 a second, since the beginning of 2026, with one face or nothing."""
    detections = one_detection(track_id=sequence) if seen else no_detections()
    captured_at = 1_767_225_600.0 + sequence / 25 if at is None else at
    return CameraResult(camera, made_result(sequence, verdict, detections=detections), picture, captured_at)


def grey_jpeg(level: int = 100, width: int = 64, height: int = 48) -> bytes:
    """A picture of one colour."""
    done, data = cv2.imencode(".jpg", np.full((height, width, 3), level, np.uint8))
    assert done
    return data.tobytes()

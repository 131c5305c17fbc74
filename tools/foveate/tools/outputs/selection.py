"""Which results an output wants."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Literal

from foveate.client import Result, Verdict
from foveate.tools.outputs.camera_result import CameraResult

__all__ = ["Selection", "Wanted", "When"]

When = Literal["detections", "ok", "all"]


@dataclass(frozen=True, slots=True)
class Wanted:
    """What an output wants; every condition must hold."""

    when: When = "all"
    """`detections`: frames in which something was detected; `ok`: frames that were inferred; `all`: every frame."""
    cameras: tuple[str, ...] = ("*",)
    """Patterns of names, as a shell has them."""
    labels: frozenset[str] = frozenset()
    """Only frames in which one of these was detected; empty: whatever it is."""
    every: int = 1
    """One of so many of a camera's frames that the conditions above have left."""
    min_interval_s: float = 0.0
    """Seconds between two results of a camera."""


class Selection:
    """Decides for each result, camera by camera."""

    def __init__(self, wanted: Wanted, now: Callable[[], float] = time.monotonic) -> None:
        self._wanted = wanted
        self._now = now
        self._lock = threading.Lock()
        self._cameras: dict[str, _Camera] = {}

    def takes(self, result: CameraResult) -> bool:
        """Whether the output wants this one. Thread-safe."""
        if not _seen(result.result, self._wanted):
            return False
        with self._lock:
            camera = self._cameras.get(result.camera)
            if camera is None:
                chosen = any(fnmatchcase(result.camera, pattern) for pattern in self._wanted.cameras)
                camera = self._cameras[result.camera] = _Camera(chosen)
            return camera.chosen and self._due(camera)

    def _due(self, camera: _Camera) -> bool:
        camera.matched += 1
        if (camera.matched - 1) % self._wanted.every:
            return False
        if self._wanted.min_interval_s > 0.0:
            now = self._now()
            if camera.taken_at is not None and now - camera.taken_at < self._wanted.min_interval_s:
                return False
            camera.taken_at = now
        return True


@dataclass(slots=True)
class _Camera:
    chosen: bool
    matched: int = 0
    taken_at: float | None = None


def _seen(result: Result, wanted: Wanted) -> bool:
    if wanted.when == "all" and not wanted.labels:
        return True
    if result.verdict is not Verdict.OK:
        return False
    if wanted.labels:
        return not wanted.labels.isdisjoint(result.detections.labels)
    return wanted.when == "ok" or len(result.detections) > 0

"""What a model said about one frame, in that frame's own pixels."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

__all__ = ["Classes", "DecodeOptions", "Detections", "Embedding", "Output"]


@dataclass(frozen=True, slots=True)
class Detections:
    """Boxes, best score first.

    Shapes: boxes (N, 4) float32 as x1, y1, x2, y2 in pixels of the frame, clipped to it; scores (N,) float32;
    class_ids (N,) int64; keypoints (N, K, 3) float32 as x, y, score, or None where the model has none.
    """

    boxes: NDArray[np.float32]
    scores: NDArray[np.float32]
    class_ids: NDArray[np.int64]
    keypoints: NDArray[np.float32] | None = None


@dataclass(frozen=True, slots=True)
class Classes:
    """Classes of the whole frame, best score first. Shapes: class_ids (N,) int64; scores (N,) float32."""

    class_ids: NDArray[np.int64]
    scores: NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Embedding:
    """A feature vector. Shapes: vector (D,) float32."""

    vector: NDArray[np.float32]


Output = Detections | Classes | Embedding


@dataclass(frozen=True, slots=True)
class DecodeOptions:
    """What a client wants to see of the outputs."""

    min_score: float
    max_detections: int
    class_ids: frozenset[int] | None = None
    """Only these classes; None for all."""

"""Non-maximum suppression on the few candidates that leave the graph."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

__all__ = ["nms"]

_BLOCK_ROWS = 32
"""Rows of pairs that are worked out at once: few enough that they stay in the processor's cache."""


def nms(
    boxes: NDArray[np.float32],
    scores: NDArray[np.float32],
    class_ids: NDArray[np.integer],
    iou: float,
    max_detections: int,
) -> NDArray[np.intp]:
    """Indices of the boxes to keep, best score first, equal scores in the order given.

    A box goes where a kept, better one of its class overlaps it by more than `iou` (intersection over union).
    Shapes: boxes (N, 4) as x1, y1, x2, y2 with x1 <= x2 and y1 <= y2; scores (N,); class_ids (N,); the result
    (M,) with M <= max_detections.
    """
    order = np.argsort(-scores, kind="stable")
    if len(order) < 2:
        return order[:max_detections]
    suppresses = _pairs_over(boxes[order], class_ids[order], iou)
    alive = np.ones(len(order), np.bool_)
    for rank in np.flatnonzero(suppresses.any(axis=1)).tolist():
        if alive[rank]:
            alive &= ~suppresses[rank]
    return order[np.flatnonzero(alive)[:max_detections]]


def _pairs_over(boxes: NDArray[np.float32], class_ids: NDArray[np.integer], iou: float) -> NDArray[np.bool_]:
    """Whether the row's box overlaps the column's, of the same class, by more than `iou`, (N, N).

    No box suppresses itself or one of an earlier block. An earlier one of its own block is marked too, which is
    harmless: whoever asks for the row's word is kept, so that one is gone already.
    """
    near, far = np.ascontiguousarray(boxes.T).reshape(2, 2, -1)
    over = np.zeros((len(boxes), len(boxes)), np.bool_)
    # A low precision may overflow; such boxes suppress nothing and are dropped later.
    with np.errstate(over="ignore", invalid="ignore"):
        area = np.prod(far - near, axis=0)
        for start in range(0, len(boxes), _BLOCK_ROWS):
            rows, rest = slice(start, start + _BLOCK_ROWS), slice(start, None)
            sides = np.minimum(far[:, rows, None], far[:, None, rest])
            sides -= np.maximum(near[:, rows, None], near[:, None, rest])
            np.maximum(sides, 0, out=sides)
            # inter > iou * (a + b - inter), with inter gathered on the left: no division by an empty union.
            inter = np.multiply(sides[0], sides[1], out=sides[0])
            inter *= np.float32(1 + iou)
            over[rows, rest] = inter > np.float32(iou) * (area[rows, None] + area[rest])
            over[rows, rest] &= class_ids[rows, None] == class_ids[rest]
    np.fill_diagonal(over, False)
    return over
